"""What a user may set: each setting once, with its default, its bounds and its meaning.

`Settings(...)` is pure; `flows.configuration.load_settings` reads flags, environment and `livepulse.toml`. Flags, help,
`config show` and docs/settings.md derive from the fields below. Outside of Python a setting's name has no `_ms` and no
trailing underscore: `out_of_orderness = "5min"`, `--from`, `LIVEPULSE_FROM`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from flows.durations import format_duration, parse_duration, parse_instant
from flows.errors import BadSetting
from flows.masking import MASK, is_secret, remember, without_login
from schemas.events import DIMENSIONS, Limits

FAMILIES: Final = ("activity", "heat", "funnel", "sessions", "anomalies")
ENGINE_OWNED: Final = {
    "bootstrap.servers": "use the setting brokers",
    "group.id": "use the setting group",
    "auto.offset.reset": "use the setting from",
    "enable.auto.commit": "the engine commits offsets itself, after its state",
    "enable.auto.offset.store": "the engine commits offsets itself, after its state",
    "enable.partition.eof": "the engine needs it as it sets it",
}


def _listed(value: object) -> object:
    """A comma-separated string (environment, flag) as a tuple; anything else as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _properties(value: object) -> object:
    """`security.protocol=SSL,…` (environment) or several such (flags) as a mapping; anything else as it is."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        return value
    pairs = [str(part).partition("=") for part in value]
    if not all(separator for _, separator, _ in pairs):
        raise ValueError("write librdkafka properties as name=value, several with commas between")
    return {name.strip(): text.strip() for name, _, text in pairs}


def _horizon(earlier: dict[str, Any]) -> int:
    """10 min, or as long as events may be late if that is longer."""
    wait: int = earlier["out_of_orderness_ms"] + earlier["allowed_lateness_ms"]
    return max(600_000, wait)


DurationMs = Annotated[int, BeforeValidator(parse_duration)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Seconds = Annotated[tuple[int, ...], BeforeValidator(_listed)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_listed)]
Properties = Annotated[dict[str, str], BeforeValidator(_properties)]


class Settings(BaseModel):
    """Everything that a user may set. Fields `*_ms` are milliseconds and accept `"5min"`; immutable once built."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    # Kafka
    brokers: str = "127.0.0.1:9092"
    """Kafka brokers, host:port, several with commas between."""
    group: str = Field("livepulse", min_length=1)
    """Consumer group whose offsets follow the engine (lag tools read them)."""
    kafka: Properties = Field({}, repr=False)
    """More librdkafka properties, such as security.protocol, sasl.*, ssl.*; `<property>_file` reads one from a file."""
    topic_prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]*$", max_length=100)
    """Put before each topic's name."""
    from_: str = "earliest"
    """Where a first start begins: earliest, latest, or a time; later starts resume."""
    accept_loss: bool = False
    """Go on although offsets needed are gone from Kafka; the gap is recorded."""
    batch_messages: int = Field(30_000, ge=1, le=1_000_000)
    """Most messages that one fetch hands over at once."""
    labels_topic: str = Field("labels", pattern=r"^[A-Za-z0-9._-]*$", max_length=100)
    """Compacted topic with names of ids (docs/live-rooms.md); empty: none."""

    # Store and recovery
    store: str = Field("livepulse-data", min_length=1)
    """A directory (embedded store) or http(s)://host:port of a ClickHouse server."""
    store_user: str = ""
    """User at the ClickHouse server."""
    store_password: SecretStr | None = None
    """Password at the ClickHouse server; better as a file."""
    store_password_file: Path | None = None
    """File that holds the password at the ClickHouse server."""
    database: str = Field("livepulse", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    """ClickHouse database of tables and views."""
    recovery_dir: Path | None = None
    """Where offsets and state are kept; default: `recovery` in the embedded store's directory."""
    state_fsync: bool = True
    """Sync state to disk before an epoch counts as done (off: a power cut may need a replay)."""
    events_archive: bool = True
    """Keep every accepted event in the view `events`."""
    events_ttl_days: int = Field(0, ge=0, le=36_500)
    """Days that `events` keeps a row after its ingestion; 0: for ever."""

    # Scale
    workers: int = Field(1, ge=1, le=64)
    """Engine processes; may change between starts."""
    shards: int = Field(2, ge=1, le=64)
    """Slices of the state, and so the most workers; fixed for the life of a recovery directory. Each costs CPU."""
    epoch_ms: DurationMs = Field(1_000, ge=50, le=60_000)
    """How often offsets, state and rows are made durable together."""

    # Meaning of events
    platform_zone: str = "Asia/Shanghai"
    """IANA zone of the platform: hours and days of basis `platform`."""
    currency: str = Field("CNY", pattern=r"^[A-Z]{3}$")
    """Currency that amounts are summed in (ISO 4217)."""
    filter_platforms: Names = ()
    """Only these platforms count, others are ledgered as filtered; empty: all."""
    min_event_time: str = "2005-01-01"
    """Events from before are rejected."""
    max_future_ms: DurationMs = 600_000
    """Events further ahead of the clock than this are rejected."""

    # Time
    out_of_orderness_ms: DurationMs = 300_000
    """How long a window waits for events that come out of order."""
    allowed_lateness_ms: DurationMs = 0
    """How much later still an event may come and correct final rows."""
    dedupe: bool = True
    """Count events with the same event_id once."""
    dedupe_horizon_ms: DurationMs = Field(default_factory=_horizon)
    """Event time over which ids are remembered; never under out_of_orderness + allowed_lateness."""
    idle_timeout_ms: DurationMs = Field(30_000, ge=1_000)
    """A caught-up partition without messages for this long holds no window open."""
    alignment_ms: DurationMs = Field(120_000, ge=1_000)
    """Partitions further ahead in event time than this wait for the others."""
    reopen_ms: DurationMs = 3_600_000
    """How long an on-time event may re-open a window that idleness closed."""
    early_interval_ms: DurationMs = Field(500, ge=50)
    """How often rows of open windows are refreshed; with a backlog, a third as often what has closed goes."""
    backlog_after_ms: DurationMs = Field(10_000, ge=100)
    """No early rows while the engine is further behind than this."""

    # Families
    families: Names = FAMILIES
    """Which families run: activity, heat, funnel, sessions, anomalies (of activity, sessions and funnels)."""
    dimensions: Names = DIMENSIONS
    """Dimensions of active_users and active_hours, beside `all`."""
    dimension_cap: int = Field(10_000, ge=1, le=1_000_000)
    """Values of a dimension beyond this fold into __other__."""
    windows_s: Seconds = (60, 3600)
    """Window lengths of active_users in seconds, each a divisor of a day."""
    active_hours: bool = True
    """Compute active_hours and its profile."""
    heat_half_life_ms: DurationMs = Field(21_600_000, ge=60_000)
    """Half-life of a topic's heat."""
    heat_user_cap: int = Field(0, ge=0)
    """Most weight that one user adds to a topic in a minute; 0: no cap."""
    room_memory_ms: DurationMs = 864_000_000
    """How long a user's first view of a room is remembered in funnels, and how long a room's orders are."""
    session_memory_ms: DurationMs = Field(86_400_000, ge=3_600_000)
    """How long live rooms remember a user: one who comes back later counts once more."""
    anomaly_top: int = Field(1_000, ge=1, le=100_000)
    """Most dimension values that are watched for anomalies at a time: the greatest by volume."""
    anomaly_floor: int = Field(10, ge=0)
    """Least mean of events in a window of a value that is watched."""
    anomaly_warm_ms: DurationMs = Field(86_400_000, ge=60_000)
    """How long a series is watched before it may alarm (a funnel: thrice that); in hours never seen only far out."""
    anomaly_holidays: Names = ()
    """Dates (of platform_zone) that have a shape of their own, such as 2026-02-17."""
    declare: Paths = ()
    """TOML files with own funnels, heat weights, dimensions, watched series (see examples/)."""

    # Bad input
    dead_letters_topic: str = Field("livepulse.dead_letters", pattern=r"^[A-Za-z0-9._-]*$", max_length=100)
    """Kafka topic that dead letters go to beside the view; made if absent; empty: none."""
    reject_ratio: float = Field(0.5, gt=0, le=1)
    """The engine stops when more than this share of a partition's messages is rejected; 1: never."""
    reject_window: int = Field(10_000, ge=1)
    """Messages of a partition over which that share is taken."""

    # Privacy
    user_key_file: Path | None = None
    """File with a secret key: user ids are stored as keyed hashes (HMAC), in dead letters too; none: as they are."""

    # Operations
    metrics_port: int = Field(9464, ge=0, le=65_000)
    """Port of /metrics, /livez and /readyz (worker n: n ports further); 0: none."""
    metrics_host: str = "127.0.0.1"
    """Address on which they are answered, to whoever reaches it: leave loopback only in a network of your own."""
    audit_interval_ms: DurationMs = Field(300_000, ge=0)
    """How often the last closed minutes are recomputed from `events` and compared; 0: never."""

    @field_validator("platform_zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, KeyError) as error:
            raise ValueError("not an IANA time zone; write one such as Asia/Shanghai or Europe/Berlin") from error
        return zone

    @field_validator("brokers")
    @classmethod
    def _addresses(cls, brokers: str) -> str:
        for address in brokers.split(","):
            if not re.fullmatch(r"\s*(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):\d{1,5}\s*", address):
                raise ValueError("write host:port, several with commas between, such as kafka-1:9092,kafka-2:9092")
        return ",".join(address.strip() for address in brokers.split(","))

    @field_validator("kafka")
    @classmethod
    def _not_ours(cls, properties: dict[str, str]) -> dict[str, str]:
        for name in properties.keys() & ENGINE_OWNED.keys():
            raise ValueError(f"{name} is not passed through: {ENGINE_OWNED[name]}")
        return properties

    @field_validator("store")
    @classmethod
    def _directory_or_server(cls, store: str) -> str:
        scheme, separator, _ = store.partition("://")
        if not separator:
            return store
        try:
            parts = urlsplit(store)
            usable = scheme in {"http", "https"} and bool(parts.hostname) and parts.port is not None
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("write a directory, or http://host:8123 (https://host:8443) of a ClickHouse server")
        if parts.username or parts.password or parts.path.strip("/") or parts.query:
            raise ValueError("only scheme, host and port belong here; use store_user, store_password_file and database")
        return store.rstrip("/")

    @field_validator("from_", "min_event_time")
    @classmethod
    def _instants(cls, text: str, info: ValidationInfo) -> str:
        if text not in {"earliest", "latest"}:
            parse_instant(text)
        elif info.field_name == "min_event_time":
            raise ValueError("write a time such as 2005-01-01")
        return text

    @field_validator("anomaly_holidays")
    @classmethod
    def _dates(cls, days: tuple[str, ...]) -> tuple[str, ...]:
        for day in days:
            try:
                date.fromisoformat(day)
            except ValueError as error:
                raise ValueError(f"{day!r} is no date; write dates such as 2026-02-17") from error
        return days

    @field_validator("families", "dimensions")
    @classmethod
    def _known_names(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        allowed = FAMILIES if info.field_name == "families" else DIMENSIONS
        if unknown := [name for name in names if name not in allowed]:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(allowed)}")
        return tuple(name for name in allowed if name in names)

    @field_validator("windows_s")
    @classmethod
    def _divisors_of_a_day(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if wrong := [length for length in lengths if length < 1 or 86_400 % length]:
            raise ValueError(f"{wrong[0]} s does not divide a day; write lengths such as 60, 300, 3600")
        return tuple(sorted(set(lengths)))

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        wait = self.out_of_orderness_ms + self.allowed_lateness_ms
        if self.dedupe and self.dedupe_horizon_ms < wait:
            raise ValueError(
                f"dedupe_horizon {format_duration(self.dedupe_horizon_ms)} is under "
                f"out_of_orderness + allowed_lateness = {format_duration(wait)}: an event could come again "
                f"after its id was forgotten and count twice; set dedupe_horizon to {format_duration(wait)} or more"
            )
        if self.workers > self.shards:
            fix = "use fewer workers, or more shards from the first start on"
            raise ValueError(f"workers {self.workers} is over shards {self.shards}: {fix}")
        if self.store_password is not None and self.store_password_file is not None:
            raise ValueError("store_password and store_password_file are both set; keep store_password_file")
        return self

    @property
    def is_server(self) -> bool:
        """The store is a ClickHouse server, not a directory."""
        return "://" in self.store

    @property
    def store_dir(self) -> Path:
        """The embedded store's directory, absolute."""
        if self.is_server:
            raise ValueError(f"{self.store} is a server, not a directory")
        return Path(self.store).expanduser().absolute()

    @property
    def recovery_path(self) -> Path:
        """Where offsets and state are kept, absolute. Raises `BadSetting` if nobody said where."""
        if self.is_server and self.recovery_dir is None:
            raise BadSetting(
                "recovery_dir", None, "needed with a ClickHouse server: name a directory on a durable disk"
            )
        return (self.recovery_dir.expanduser().absolute()) if self.recovery_dir else self.store_dir / "recovery"

    @property
    def start(self) -> Literal["earliest", "latest"] | int:
        """Where a first start begins; an int is epoch ms."""
        match self.from_:
            case "earliest" | "latest" as end:
                return end
            case time:
                return parse_instant(time)

    @property
    def retain_ms(self) -> int:
        """How far behind the watermark an accepted event may be: how long closed windows are kept."""
        return max(self.reopen_ms, self.allowed_lateness_ms)

    @property
    def limits(self) -> Limits:
        """Bounds of a valid event under these settings."""
        return Limits(min_event_time=parse_instant(self.min_event_time), max_future_ms=self.max_future_ms)

    def topic(self, name: str) -> str:
        """The Kafka topic that carries the contract's topic `name`."""
        return self.topic_prefix + name

    def client_properties(self) -> dict[str, str]:
        """What every Kafka client needs: the brokers and the user's properties, with secrets read from their files."""
        properties = {"bootstrap.servers": self.brokers}
        for name, text in self.kafka.items():
            if name.endswith("_file"):
                properties[name.removesuffix("_file")] = _secret(f"kafka.{name}", Path(text))
            else:
                properties[name] = remember(text) if is_secret(name) else text
        return properties

    def password(self) -> str:
        """The store's password, from wherever it is kept; empty if none is set."""
        if self.store_password_file is not None:
            return _secret("store_password_file", self.store_password_file)
        return remember(self.store_password.get_secret_value()) if self.store_password is not None else ""

    def sources(self) -> dict[str, str]:
        """Per field, where its value came from: `default`, `livepulse.toml`, `LIVEPULSE_STORE`, `--store`, …"""
        return {name: self._origins.get(name, "default") for name in type(self).model_fields}

    def shown(self) -> dict[str, object]:
        """Every setting under its outside name, durations spelled out, secrets masked: safe to print."""
        return {outside_name(name): shown_value(name, getattr(self, name)) for name in type(self).model_fields}


def _secret(setting: str, file: Path) -> str:
    try:
        return remember(file.expanduser().read_text(encoding="utf-8").strip())
    except OSError as error:
        raise BadSetting(setting, str(file), f"cannot be read: {error.strerror or error}") from error


def outside_name(field: str) -> str:
    """A field's name in files, flags and the environment: without `_ms` and trailing underscore."""
    return field.removesuffix("_ms").rstrip("_")


def shown_value(field: str, value: object) -> object:
    """A value that is safe and readable to print: plain JSON types."""
    if field == "store_password":
        return None if value is None else MASK
    if field == "kafka" and isinstance(value, Mapping):
        return {
            name: MASK if is_secret(str(name)) or not isinstance(text, str) else text for name, text in value.items()
        }
    if field in {"store", "brokers"} and isinstance(value, str):
        return without_login(value)
    if field.endswith("_ms") and isinstance(value, int) and not isinstance(value, bool):
        return format_duration(value)
    if isinstance(value, tuple | list):
        return [str(item) if isinstance(item, Path) else item for item in value]
    return str(value) if isinstance(value, Path) else value
