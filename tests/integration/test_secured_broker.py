"""A real broker that asks for TLS and a login: the engine reads and writes there, and tells no password."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows import broker as brokers
from flows.broker import RealBroker, free_port
from schemas.events import TOPICS
from tests.integration.agreement import agree
from tests.integration.engine_process import EngineProcess
from tests.integration.traffic import Traffic, hours_ago, produce, total

pytestmark = pytest.mark.integration

USER, PASSWORD, STORE_PASSWORD = "livepulse", "s3cret-of-the-broker", "of-the-keystore"


@dataclass(frozen=True)
class Secured:
    """A broker with a plain listener, for the test's own producer, and one with SASL_SSL, for the engine."""

    broker: RealBroker
    address: str
    authority: Path  # of its certificate, PEM

    def flags(self, password: Path) -> list[str]:
        """What the engine is told of it."""
        told = {
            "security.protocol": "SASL_SSL", "ssl.ca.location": str(self.authority),
            "sasl.mechanism": "PLAIN", "sasl.username": USER, "sasl.password_file": str(password),
        }  # fmt: skip
        return [part for name, value in told.items() for part in ("--kafka", f"{name}={value}")]


def _keytool(*arguments: str) -> None:
    done = subprocess.run(["keytool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _certificate(keys: Path, authority: Path) -> None:
    """A key pair of its own for 127.0.0.1, and the certificate as clients want it."""
    common = ("-alias", "kafka", "-keystore", str(keys), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD)
    _keytool(
        "-genkeypair", *common, "-keyalg", "EC", "-dname", "CN=127.0.0.1", "-ext", "SAN=IP:127.0.0.1", "-validity", "2"
    )
    _keytool("-exportcert", *common, "-rfc", "-file", str(authority))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if why := brokers.why_no_real_broker():
        pytest.skip(why)
    if shutil.which("keytool") is None:
        pytest.skip("keytool is not here: it comes with Java")
    place = tmp_path_factory.mktemp("tls")
    keys, authority, port = place / "keys.p12", place / "authority.pem", free_port()
    _certificate(keys, authority)
    plain = brokers._server_properties

    def properties(own: int, controller: int, data: Path) -> str:
        text = plain(own, controller, data)
        for name, more in (
            ("listeners", f"CLIENT://127.0.0.1:{port}"),
            ("advertised.listeners", f"CLIENT://127.0.0.1:{port}"),
            ("listener.security.protocol.map", "CLIENT:SASL_SSL"),
        ):
            assert f"\n{name}=" in text
            text = text.replace(f"\n{name}=", f"\n{name}={more},")
        login = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return f"""{text}inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.client.plain.sasl.jaas.config={login} required user_{USER}="{PASSWORD}";
ssl.keystore.type=PKCS12
ssl.keystore.location={keys}
ssl.keystore.password={STORE_PASSWORD}
"""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brokers, "_server_properties", properties)
        broker = RealBroker(heap="512m")
    with broker:
        yield Secured(broker, f"127.0.0.1:{port}", authority)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    return file


def test_the_engine_reads_and_writes_over_tls_with_a_login(
    secured: Secured, topic_prefix: str, store_dir: Path, password: Path
) -> None:
    secured.broker.create_topics([topic_prefix + name for name in TOPICS])
    traffic = Traffic(seed=31, start_ms=hours_ago(2))
    produce(secured.broker.address, topic_prefix, traffic, 5_000, step_ms=100)
    process = EngineProcess(secured.address, topic_prefix, store_dir, *secured.flags(password), "--idle-timeout", "2s")
    process.start()
    try:
        process.until(lambda: process.consumed() == total(traffic))
        agree(process, traffic, seconds=30)
        rejected = process.rows("SELECT count() AS n FROM livepulse.dead_letters")[0]["n"]
        assert rejected > 0
        assert process.metric("livepulse_rejects_total") == rejected
        assert process.stop() == 0
    finally:
        if process.running:
            process.kill()
    assert PASSWORD not in process.said()


@pytest.mark.parametrize("fault", ["password", "authority"])
def test_what_the_broker_or_we_do_not_trust_ends_the_start_with_words(
    secured: Secured, topic_prefix: str, store_dir: Path, tmp_path: Path, password: Path, fault: str
) -> None:
    if fault == "password":
        password.write_text(f"{PASSWORD}-of-yesterday")
    else:
        _certificate(tmp_path / "other.p12", tmp_path / "other.pem")
        secured = Secured(secured.broker, secured.address, tmp_path / "other.pem")
    process = EngineProcess(secured.address, topic_prefix, store_dir, *secured.flags(password))
    process.start()
    try:
        code = process.wait(90)
    finally:
        if process.running:
            process.kill()
    said = process.said()
    assert code == 3, said
    assert f"the Kafka broker at {secured.address} does not let us in" in said
    assert ("uthentication" if fault == "password" else "certificate") in said
    assert len(said.splitlines()) < 10, said  # not one line for each attempt
    assert PASSWORD not in said
    assert "Traceback" not in said
