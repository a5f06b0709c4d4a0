"""One question to a broker whose failure is told in words: not there at all, or there and not letting us in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from flows.errors import DependencyDown

# Underscored names are the library's public ones for errors of its own.
_NOT_LET_IN: Final = frozenset({KafkaError._SSL, KafkaError._AUTHENTICATION})  # noqa: SLF001
_TIMEOUT_SECONDS: Final = 15.0


class Asker:
    """An admin client that keeps what the library says of its connections, instead of printing each attempt."""

    def __init__(self, properties: Mapping[str, str]) -> None:
        self._brokers = properties["bootstrap.servers"]
        self._heard: list[KafkaError] = []
        told: dict[str, Any] = {**properties, "log_level": 0, "error_cb": self._heard.append}
        self.admin = AdminClient(told)

    def metadata(self, timeout: float = _TIMEOUT_SECONDS) -> ClusterMetadata:
        """Brokers and topics.

        Raises:
            DependencyDown: no broker answers, or the one there does not let us in; its text says which and why.
        """
        try:
            return self.admin.list_topics(timeout=timeout)
        except KafkaException as error:
            while self.admin.poll(0):
                continue
            why = next((heard for heard in self._heard if heard.code() in _NOT_LET_IN), None)
            if why is not None:
                text = f"the Kafka broker at {self._brokers} does not let us in: {why.str()}; see the setting kafka"
                raise DependencyDown(text) from None
            raise DependencyDown(
                f"no Kafka broker answers at {self._brokers} ({error.args[0].str()}); "
                "start one (make kafka) or name another with --brokers"
            ) from None
