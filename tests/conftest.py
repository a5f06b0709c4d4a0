"""What all tests share: brokers, topic names of one test's own, a store's directory, and how hard Hypothesis looks."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from flows.broker import Broker, ExternalBroker, MockBroker, RealBroker, why_no_real_broker
from flows.settings import Settings
from schemas.events import TOPICS

hypothesis_settings.register_profile(
    "default", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
hypothesis_settings.register_profile("thorough", max_examples=1_000, deadline=None)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun with `&`: what we start would be deaf to it
    signal.signal(signal.SIGINT, signal.default_int_handler)

_TESTS = Path(__file__).parent
_ONE_AFTER_THE_OTHER = ("alerts", "boards", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Among several processes (pytest -n) a file stays whole, and tests that kill or starve engines do not meet."""
    for item in items:
        place = item.path.relative_to(_TESTS)
        group = "faults" if place.parts[0] in _ONE_AFTER_THE_OTHER else str(place)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's LIVEPULSE_ variables must not change what tests see."""
    for name in os.environ:
        if name.startswith("LIVEPULSE_") and name != "LIVEPULSE_TEST_KAFKA":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_of_its_own() -> Iterator[None]:
    """A command run inside a test lets logging go to a stream that is closed with it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """A real broker: the one that LIVEPULSE_TEST_KAFKA names, else our own; without Java the test is skipped."""
    address = os.environ.get("LIVEPULSE_TEST_KAFKA")
    if address:
        yield ExternalBroker(address)
        return
    missing = why_no_real_broker()
    if missing is not None:
        pytest.skip(f"needs a real Kafka broker: {missing}; or name one in LIVEPULSE_TEST_KAFKA")
    with RealBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def mock_kafka() -> Iterator[Broker]:
    """librdkafka's mock cluster: always there; 5 MB a partition, four partitions a topic."""
    with MockBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def any_kafka(request: pytest.FixtureRequest) -> Broker:
    """A real broker where there can be one, else the mock cluster; the name is shown when a test fails."""
    real = bool(os.environ.get("LIVEPULSE_TEST_KAFKA")) or why_no_real_broker() is None
    broker: Broker = request.getfixturevalue("kafka" if real else "mock_kafka")
    return broker


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """A prefix for the setting `topic_prefix`, so that tests on one broker do not see each other's events."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:40]
    return f"{name}-{uuid.uuid4().hex[:8]}."


@pytest.fixture
def topics(topic_prefix: str) -> Callable[..., dict[str, str]]:
    """`topics(broker, partitions=4, names=TOPICS)` makes this test's topics; returns contract name → topic."""

    def make(broker: Broker, partitions: int = 4, names: tuple[str, ...] = TOPICS) -> dict[str, str]:
        made = {name: topic_prefix + name for name in names}
        broker.create_topics(made.values(), partitions)
        return made

    return make


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    """A directory for an embedded store, not made yet."""
    return tmp_path / "store"


@pytest.fixture
def settings_for(store_dir: Path, topic_prefix: str) -> Callable[..., Settings]:
    """`settings_for(broker, **changes)`: settings of an engine on this test's topics and store."""

    def build(broker: Broker, **changes: object) -> Settings:
        base = {"brokers": broker.address, "topic_prefix": topic_prefix, "store": str(store_dir), "group": topic_prefix}
        return Settings.model_validate(base | changes)

    return build
