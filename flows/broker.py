"""A Kafka broker for tests, the demo and benchmarks: the real one, librdkafka's mock, or one that runs already.

The real one is Apache Kafka in KRaft mode on free loopback ports; its jars come once from Maven Central into a cache.
The mock speaks the real protocol but keeps only the newest 5 MB of a partition and stamps no append time, so it serves
small tests and the demo. `python -m flows.broker` runs a real one until Ctrl-C.
"""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from flows.errors import DependencyDown
from schemas.events import TOPICS

KAFKA: Final = "4.3.1"
SLF4J: Final = "1.7.36"
PARTITIONS: Final = 4
"""Partitions of a topic unless told otherwise; the mock cluster always has as many."""
MAX_MESSAGE_BYTES: Final = 2_097_152  # over our own limit, so that messages over ours reach the dead letters
_START_SECONDS: Final = 60.0
_POM: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>livepulse</groupId><artifactId>kafka-jars</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{SLF4J}</version></dependency>
</dependencies></project>
"""


class Broker(AbstractContextManager["Broker"], Protocol):
    """What tests, the demo and benchmarks need of a broker. `close` may be called twice."""

    address: str  # bootstrap.servers
    kind: str  # real | mock | external

    def create_topics(self, names: Iterable[str], partitions: int = PARTITIONS) -> None:
        """Make topics that keep append time; those that exist stay as they are."""

    def close(self) -> None:
        """Give everything back."""


class _Closing:
    """`with` closes."""

    def close(self) -> None:
        """Give everything back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ExternalBroker(_Closing):
    """A broker that somebody else runs; `properties` are further librdkafka properties (security)."""

    kind = "external"

    def __init__(self, address: str, properties: Mapping[str, str] | None = None) -> None:
        self.address = address
        self._properties = dict(properties or {})

    def create_topics(self, names: Iterable[str], partitions: int = PARTITIONS) -> None:
        """Make topics that keep append time; those that exist stay as they are. Raises `DependencyDown`."""
        admin = AdminClient({**self._properties, "bootstrap.servers": self.address, "log_level": 0})
        if not _answers(self.address, 5.0, self._properties):
            raise DependencyDown(f"no Kafka broker answers at {self.address}; start one (`make kafka`) or set brokers")
        config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(MAX_MESSAGE_BYTES)}
        wanted = [NewTopic(name, num_partitions=partitions, config=config) for name in names]
        for name, made in admin.create_topics(wanted, request_timeout=15).items() if wanted else ():
            try:
                made.result()
            except KafkaException as error:
                reason = error.args[0]
                if reason.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise DependencyDown(f"topic {name} at {self.address} could not be made: {reason.str()}") from error
        _wait_for_leaders(admin, [topic.topic for topic in wanted], self.address)


class MockBroker(_Closing):
    """librdkafka's mock cluster, inside this process. Topics have four partitions, whatever is asked."""

    kind = "mock"

    def __init__(self) -> None:
        self._cluster: AdminClient | None = AdminClient({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._cluster.list_topics(timeout=10).brokers.values()
        self.address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def create_topics(self, names: Iterable[str], partitions: int = PARTITIONS) -> None:
        """Make topics (the mock makes one when it is asked about it)."""
        if partitions != PARTITIONS:
            raise ValueError(f"the mock cluster has {PARTITIONS} partitions a topic, not {partitions}")
        client = AdminClient({"bootstrap.servers": self.address, "allow.auto.create.topics": True, "log_level": 0})
        made = list(names)
        for name in made:
            client.list_topics(name, timeout=10)
        _wait_for_leaders(client, made, self.address)

    def close(self) -> None:
        """End the cluster: its messages are gone."""
        self._cluster = None


class RealBroker(_Closing):
    """Apache Kafka in a process of its own, with its data in `home` (default: a temporary directory, removed at close).

    Start it from the main thread: where `setpriv` is there, the broker ends when the thread that started it does, so
    that a killed test run leaves no broker behind.
    """

    kind = "real"

    def __init__(self, home: Path | None = None, port: int | None = None, heap: str = "768m") -> None:
        self._temporary = home is None
        self.home = home or Path(tempfile.mkdtemp(prefix="livepulse-kafka-"))
        self.home.mkdir(parents=True, exist_ok=True)
        self._heap = heap
        self._process: subprocess.Popen[bytes] | None = None
        self._jars = fetch_jars()
        self._port, controller = port or free_port(), free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._config = self.home / "server.properties"
        self._config.write_text(_server_properties(self._port, controller, self.home / "data"))
        if not (self.home / "data" / "meta.properties").exists():
            self._format()
        self.start()

    @property
    def pid(self) -> int:
        """The broker's process id."""
        if self._process is None:
            raise RuntimeError("the broker is not running")
        return self._process.pid

    def start(self) -> None:
        """Start (again) on the same port and data; returns when it answers. Raises `DependencyDown`."""
        if self._process is not None:
            return
        with (self.home / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*dying_with_us(), *self._java("kafka.Kafka", str(self._config))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        give_up = time.monotonic() + _START_SECONDS
        while not _answers(self.address):
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise DependencyDown(f"Kafka did not start; the end of {self.home}/kafka.log:\n{self._log_end()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in good order; data and port stay, so that `start` goes on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does; data and port stay."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it hang: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def create_topics(self, names: Iterable[str], partitions: int = PARTITIONS) -> None:
        """Make topics that keep append time; those that exist stay as they are."""
        ExternalBroker(self.address).create_topics(names, partitions)

    def close(self) -> None:
        """End it and remove its data if the directory was ours."""
        self.kill()
        if self._temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a frozen one would never see SIGTERM
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _java(self, main: str, *arguments: str) -> list[str]:
        return ["java", f"-Xmx{self._heap}", "-Xshare:auto", "-cp", f"{self._jars}/*", main, *arguments]

    def _format(self) -> None:
        identity = uuid.uuid4().bytes
        cluster = _base64_url(identity)
        done = subprocess.run(
            [*self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DependencyDown(
                f"Kafka's storage could not be formatted: {done.stderr[-2000:] or done.stdout[-2000:]}"
            )

    def _log_end(self) -> str:
        return (self.home / "kafka.log").read_text(errors="replace")[-2000:]


def find_broker(address: str | None = None) -> Broker:
    """The broker at `address`; else a real one if Java and Maven are here; else the mock cluster."""
    if address:
        return ExternalBroker(address)
    return RealBroker() if why_no_real_broker() is None else MockBroker()


def why_no_real_broker() -> str | None:
    """What is missing for `RealBroker`, as a sentence; None if it can run."""
    if shutil.which("java") is None:
        return "java is not on the PATH (Kafka needs Java 17 or newer)"
    if not _complete(cache_dir()) and shutil.which("mvn") is None:
        return "mvn (Maven), which fetches Kafka's jars once, is not on the PATH"
    return None


def fetch_jars() -> Path:
    """The directory with Kafka's jars, filled from Maven Central the first time (44 MB). Raises `DependencyDown`."""
    jars = cache_dir()
    jars.parent.mkdir(parents=True, exist_ok=True)
    with (jars.parent / f"{jars.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once: one fetches, the other waits
        if _complete(jars):
            return jars
        if (missing := why_no_real_broker()) is not None:
            raise DependencyDown(missing)
        with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
            pom, fresh = Path(scratch, "pom.xml"), Path(scratch, "lib")
            pom.write_text(_POM)
            done = subprocess.run(
                ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={fresh}"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode or not _complete(fresh):
                raise DependencyDown(f"Maven could not fetch Kafka {KAFKA}: {(done.stdout + done.stderr)[-2000:]}")
            shutil.rmtree(jars, ignore_errors=True)
            fresh.rename(jars)
    return jars


def cache_dir() -> Path:
    """Where Kafka's jars are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "livepulse" / f"kafka-{KAFKA}"


def free_port(wanted: int = 0) -> int:
    """A loopback TCP port that is free now: `wanted` if nothing listens there."""
    with socket.socket() as probe:
        if wanted:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was closed a moment ago is free
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            if wanted:
                return free_port()
            raise
        port: int = probe.getsockname()[1]
        return port


def _complete(jars: Path) -> bool:
    return (jars / f"kafka_2.13-{KAFKA}.jar").exists() and (jars / f"slf4j-simple-{SLF4J}.jar").exists()


def dying_with_us(how: str = "KILL") -> list[str]:
    """Words before a command that signal it when the thread that started it ends; none without `setpriv`."""
    return ["setpriv", "--pdeathsig", how] if shutil.which("setpriv") else []


def _base64_url(identity: bytes) -> str:
    """Kafka's spelling of a UUID; it refuses one that begins with a dash."""
    return base64.urlsafe_b64encode(b"\x01" + identity[1:]).decode().rstrip("=")


def _answers(address: str, seconds: float = 1.0, properties: Mapping[str, str] | None = None) -> bool:
    """A client gets the list of topics in time."""
    client = AdminClient({**(properties or {}), "bootstrap.servers": address, "log_level": 0})
    try:
        return bool(client.list_topics(timeout=seconds).brokers)
    except KafkaException:
        return False


def _wait_for_leaders(admin: AdminClient, names: list[str], address: str) -> None:
    """Return when every partition of the topics has a leader, so that producing and consuming work at once."""
    give_up = time.monotonic() + 15
    while time.monotonic() < give_up:
        topics = admin.list_topics(timeout=10).topics
        if all(
            name in topics and topics[name].partitions and all(p.leader >= 0 for p in topics[name].partitions.values())
            for name in names
        ):
            return
        time.sleep(0.05)
    raise DependencyDown(f"topics {names} at {address} have no leader after 15 s")


def _server_properties(port: int, controller: int, data: Path) -> str:
    return f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes={MAX_MESSAGE_BYTES}
log.message.timestamp.type=LogAppendTime
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.retention.check.interval.ms=1000
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
"""


def main() -> int:
    """Run a real broker with the contract's topics until Ctrl-C; `python -m flows.broker [PORT]`."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        with RealBroker(port=port) as broker:
            broker.create_topics(TOPICS)
            print(f"Kafka {KAFKA} at {broker.address} with topics {', '.join(TOPICS)}; Ctrl-C ends it")
            print(
                f"try: livepulse simulate --brokers {broker.address}   and   livepulse run --brokers {broker.address}"
            )
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except DependencyDown as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
