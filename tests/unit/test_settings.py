from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.configuration import FIELDS, load_settings, unknown_variables
from flows.durations import format_duration, parse_duration, parse_instant
from flows.errors import BadSetting, Usage
from flows.settings import Settings, outside_name
from schemas.events import DIMENSIONS, Limits


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "livepulse.toml"
    file.write_text('workers = 2\nshards = 8\ngroup = "file"\n')
    environ = {"LIVEPULSE_WORKERS": "3", "LIVEPULSE_SHARDS": "32"}
    settings = load_settings({"workers": "4"}, environ=environ)
    assert (settings.workers, settings.shards, settings.group, settings.currency) == (4, 32, "file", "CNY")
    sources = settings.sources()
    assert [sources[name] for name in ("workers", "shards", "group", "currency")] == [
        "--workers", "LIVEPULSE_SHARDS", "livepulse.toml", "default",
    ]  # fmt: skip


def test_the_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "livepulse.toml").write_text("workers = 2\n")
    other = tmp_path / "other.toml"
    other.write_text("workers = 3\nshards = 3\n")
    assert load_settings(environ={"LIVEPULSE_CONFIG": str(other)}).workers == 3
    assert load_settings(file=other, environ={}).workers == 3
    with pytest.raises(Usage, match=r"absent\.toml: cannot be read"):
        load_settings(file=tmp_path / "absent.toml", environ={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out_of_ordernes = 1", "did you mean out_of_orderness"),
        ("zzzz = 1", "config show"),
        ("workers = [", "not valid TOML"),
        ("epoch = 500\nepoch_ms = 500", "epoch is set twice"),
        ("[kafka]\n'group.id' = 'x'", "use the setting group"),
        ("[workers]\na = 1", "write a whole number"),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "livepulse.toml").write_text(text)
    with pytest.raises(Usage, match=message) as caught:
        load_settings(environ={})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("workers", "two", "write a whole number"),
        ("workers", "65", "must be 64 or less"),
        ("shards", "0", "must be 1 or more"),
        ("epoch", "1ms", "must be 50ms or more"),
        ("epoch", "soon", "not a duration"),
        ("dedupe", "maybe", "write true or false"),
        ("group", "", "must not be empty"),
        ("brokers", "kafka-1", "host:port"),
        ("brokers", "a:9092,b", "host:port"),
        ("store", "tcp://host:9000", "http://host:8123"),
        ("store", "http://host", "http://host:8123"),
        ("store", "http://user:secret@host:8123", "store_user"),
        ("platform_zone", "Mars/Olympus", "IANA"),
        ("currency", "yuan", "must match"),
        ("from", "yesterday", "not a time"),
        ("from", "2026-02-01T08:00:00", "without a zone"),
        ("min_event_time", "latest", "write a time"),
        ("families", "heat,weather", "'weather' is not one of activity, heat, funnel, sessions"),
        ("dimensions", "creator_id", "is not one of surface"),
        ("windows_s", "60,61", "61 s does not divide a day"),
        ("kafka", "security.protocol", "name=value"),
        ("database", "a-b", "must match"),
        ("topic_prefix", "a b", "must match"),
    ],
)
def test_a_bad_value_is_named_with_its_origin_and_the_fix(name: str, value: str, message: str) -> None:
    with pytest.raises(BadSetting, match=message) as caught:
        load_settings({name: value}, environ={})
    flag = "--" + name.replace("_", "-")
    assert str(caught.value).startswith(f"setting {name} = ")
    assert f"(from {flag})" in str(caught.value)
    assert caught.value.exit_code == 2


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    environ = {
        "LIVEPULSE_STORE_PASSWORD": "hunter2",
        "LIVEPULSE_KAFKA": "sasl.password=hunter2,ssl.key.pem=hunter2,sasl.username=ada",
    }
    settings = load_settings(environ=environ)
    assert "hunter2" not in f"{settings} {settings!r} {settings.shown()} {settings.model_dump_json(exclude={'kafka'})}"
    assert settings.shown()["kafka"] == {
        "sasl.password": "********", "ssl.key.pem": "********", "sasl.username": "ada",
    }  # fmt: skip
    assert settings.password() == "hunter2"
    assert settings.client_properties()["sasl.password"] == "hunter2"
    with pytest.raises(BadSetting) as caught:
        load_settings(environ={"LIVEPULSE_KAFKA": "sasl.password=hunter2,group.id=x"})
    assert "hunter2" not in str(caught.value)


def test_secrets_may_be_kept_in_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    flags = {"kafka": [f"sasl.password_file={tmp_path}/secret"], "store_password_file": f"{tmp_path}/secret"}
    settings = load_settings(flags, environ={})
    assert settings.client_properties() == {"bootstrap.servers": "127.0.0.1:9092", "sasl.password": "hunter2"}
    assert settings.password() == "hunter2"
    (tmp_path / "secret").unlink()
    with pytest.raises(BadSetting, match="cannot be read"):
        settings.client_properties()
    with pytest.raises(Usage, match="keep store_password_file"):
        load_settings(flags, environ={"LIVEPULSE_STORE_PASSWORD": "x"})


def test_kafka_properties_of_all_sources_come_together(tmp_path: Path) -> None:
    (tmp_path / "livepulse.toml").write_text('[kafka]\n"security.protocol" = "SASL_SSL"\n"sasl.mechanism" = "PLAIN"\n')
    settings = load_settings({"kafka": ["sasl.mechanism=SCRAM-SHA-512"]}, environ={})
    assert settings.kafka == {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"}
    assert settings.sources()["kafka"] == "livepulse.toml + --kafka"


def test_the_dedupe_horizon_covers_lateness() -> None:
    assert Settings().dedupe_horizon_ms == 600_000
    assert (
        load_settings({"out_of_orderness": "1h", "allowed_lateness": "5min"}, environ={}).dedupe_horizon_ms == 3_900_000
    )
    with pytest.raises(Usage, match="set dedupe_horizon to 1h or more"):
        load_settings({"out_of_orderness": "1h", "dedupe_horizon": "10min"}, environ={})
    assert not load_settings({"out_of_orderness": "1h", "dedupe_horizon": "10min", "dedupe": False}, environ={}).dedupe


def test_a_server_needs_a_recovery_directory_to_run_but_not_to_be_asked() -> None:
    server = load_settings({"store": "https://clickhouse.example:8443/"}, environ={})
    assert (server.is_server, server.store) == (True, "https://clickhouse.example:8443")
    with pytest.raises(BadSetting, match="durable disk"):
        _ = server.recovery_path
    with pytest.raises(ValueError, match="not a directory"):
        _ = server.store_dir


def test_paths_are_absolute_and_recovery_lies_in_the_store(tmp_path: Path) -> None:
    settings = load_settings({"store": "data"}, environ={})
    assert settings.store_dir == tmp_path / "data"
    assert settings.recovery_path == tmp_path / "data" / "recovery"
    assert load_settings({"recovery_dir": "r"}, environ={}).recovery_path == tmp_path / "r"


def test_start_is_an_end_or_epoch_ms() -> None:
    assert [Settings(from_=text).start for text in ("earliest", "latest", "1000", "1970-01-01T00:00:01Z")] == [
        "earliest", "latest", 1000, 1000,
    ]  # fmt: skip


def test_limits_follow_the_settings() -> None:
    assert Settings().limits == Limits()
    changed = Settings(min_event_time="1970-01-02", max_future_ms="1min").limits
    assert (changed.min_event_time, changed.max_future_ms) == (86_400_000, 60_000)


def test_more_workers_than_shards_are_refused() -> None:
    with pytest.raises(Usage, match="use fewer"):
        load_settings({"workers": "4", "shards": "2"}, environ={})


def test_lists_keep_the_order_of_the_contract() -> None:
    settings = load_settings({"families": "funnel,activity", "dimensions": "channel,surface"}, environ={})
    assert settings.families == ("activity", "funnel")
    assert settings.dimensions == ("surface", "channel")
    assert Settings().dimensions == DIMENSIONS


def test_misspelt_variables_are_found() -> None:
    environ = {"LIVEPULSE_WORKER": "2", "LIVEPULSE_WORKERS": "2", "LIVEPULSE_EPOCH_MS": "500", "LIVEPULSE_DEBUG": "1"}
    assert unknown_variables(environ) == ["LIVEPULSE_WORKER"]
    assert load_settings(environ=environ).epoch_ms == 500


def test_settings_survive_the_way_to_a_worker_process() -> None:
    settings = load_settings({"epoch": "2s", "kafka": ["debug=broker"]}, environ={})
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert copy.sources() == settings.sources()


def test_every_setting_has_a_meaning_and_an_outside_name_of_its_own() -> None:
    assert all(info.description for info in Settings.model_fields.values())
    assert len(FIELDS) == len(Settings.model_fields)
    assert {outside_name(field) for field in Settings.model_fields} == set(FIELDS)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0", 0), (250, 250), ("250", 250), ("250ms", 250), ("1.5s", 1_500), ("5min", 300_000), ("5m", 300_000),
     ("1h30min", 5_400_000), ("1h 30min", 5_400_000), ("10d", 864_000_000)],
)  # fmt: skip
def test_durations(text: object, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "min", "5 parsecs", "-5s", "5s5", True, None, 1.5, "1e3", "9" * 400, "11000d"])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|ten years"):
        parse_duration(text)


@given(st.integers(0, 3_660 * 86_400_000))
def test_durations_round_trip(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    ("text", "epoch_ms"),
    [
        ("2026-02-01", 1_769_904_000_000),
        ("2026-02-01T08:00:00+08:00", 1_769_904_000_000),
        ("1769904000000", 1_769_904_000_000),
        ("2026-02-01T00:00:00.250Z", 1_769_904_000_250),
    ],
)
def test_instants(text: str, epoch_ms: int) -> None:
    assert parse_instant(text) == epoch_ms
