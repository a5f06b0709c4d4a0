"""The benchmark's own parts: its events keep the contract, its truth is the contract's, its comparison can fail."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import polars as pl
import pytest
import zstandard
from typer.testing import CliRunner

from flows import bench, bench_latency, bench_targets, bench_throughput, bench_truth
from flows.bench_engine import EngineProcess, _Usage
from flows.bench_latency import Latency, Probes, percentile
from flows.bench_throughput import Throughput, noop
from flows.bench_traffic import DISORDER_MS, SHARES, encode, make_events, produce, write_ndjson
from flows.bench_views import Views
from flows.broker import MockBroker
from flows.cli_commands import app
from flows.errors import CHECK_FAILED, OK, Usage
from schemas.events import CORE_TOPICS, VIEW, Limits
from schemas.validate import Valid, judge

END_MS = 1_795_570_800_000  # on an hour, so that an hour's events begin in the hour before
COUNT = 20_000
Truths = dict[str, bench_truth.Truth]
Plain = dict[str, dict[tuple[Any, ...], tuple[float, ...]]]


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    return make_events(COUNT, 7, END_MS + 1_234_567)


def messages(events: pl.DataFrame) -> list[tuple[str, bytes]]:
    """(topic, JSON) in the order produced."""
    found = [
        (number, topic, value.encode())
        for kind, topic in enumerate(CORE_TOPICS)
        for number, _, value in encode(events, kind).iter_rows()
    ]
    return [(topic, value) for _, topic, value in sorted(found)]


def test_events_are_a_function_of_the_seed(events: pl.DataFrame) -> None:
    assert make_events(COUNT, 7, END_MS + 1_234_567).equals(events)
    assert not make_events(COUNT, 8, END_MS + 1_234_567).equals(events)


def test_every_message_keeps_the_contract(events: pl.DataFrame) -> None:
    judged = [judge(value, topic, END_MS + 1_234_567, Limits()) for topic, value in messages(events)]
    assert [outcome for outcome in judged if not isinstance(outcome, Valid)] == []


def test_messages_are_as_many_and_as_large_as_stated(events: pl.DataFrame) -> None:
    sent = messages(events)
    assert len(sent) == COUNT
    for topic, share in zip(CORE_TOPICS, SHARES, strict=True):
        assert sum(name == topic for name, _ in sent) == pytest.approx(COUNT * share, rel=0.15)
    assert sum(len(value) for _, value in sent) / COUNT == pytest.approx(243, abs=4)
    assert len({orjson.loads(value)["event_id"] for _, value in sent}) == COUNT


def test_event_times_fill_the_hour_before_and_are_never_late(events: pl.DataFrame) -> None:
    times = events["event_time"].to_list()
    greatest = itertools.accumulate(times, max)
    assert all(before - time <= DISORDER_MS for time, before in zip(times, greatest, strict=True))
    assert max(times) - min(times) > 3_590_000
    assert max(times) < END_MS + 1_234_567


def test_the_kept_file_has_the_messages_with_their_topics_in_order(events: pl.DataFrame, tmp_path: Path) -> None:
    write_ndjson(events, tmp_path / "events.ndjson.zst")
    with zstandard.open(tmp_path / "events.ndjson.zst", "rb") as file:
        lines = file.read().splitlines()
    expected = [json.loads(value) | {"topic": topic} for topic, value in messages(events)]
    assert [json.loads(line) for line in lines] == expected


@pytest.fixture(scope="module")
def plain(events: pl.DataFrame) -> Plain:
    """The views by plain Python over the decoded messages, from the text of TABLES.md."""
    activity = defaultdict(lambda: [0, set(), 0])
    heat = defaultdict(lambda: [0, set()])
    weights = defaultdict(list)
    sent = [(topic, json.loads(value)) for topic, value in messages(events)]
    for topic, e in sent:
        at, user = e["event_time"], e["user_id"]
        dims = {"all": ""} | {d: e[d] for d in ("surface", "category", "region", "platform") if d in e}
        for seconds in (60, 3600):
            for dim, value in dims.items():
                row = activity[at // (seconds * 1000) * seconds * 1000, seconds, dim, value]
                row[0] += 1
                row[1].add(user)
                row[2] += e.get("watch_ms", 0)
        for tag in set(e.get("tags", [])):
            tick = (at // 60_000 + 1) * 60_000
            heat[tick, tag][0] += 1
            heat[tick, tag][1].add(user)
            weights[tag].append((at, 1 if topic == "view" else 3))
    return {
        "active_users": {key: (n, len(users), ms) for key, (n, users, ms) in activity.items()},
        "topic_heat": {
            (tick, tag): (
                n,
                len(users),
                sum(w * 2 ** (-(tick - at) / 21_600_000) for at, w in weights[tag] if at < tick),
            )
            for (tick, tag), (n, users) in heat.items()
        },
        "funnel": recounted_funnel(sent),
    }


def recounted_funnel(sent: list[tuple[str, dict[str, Any]]]) -> dict[tuple[Any, ...], tuple[float, ...]]:
    videos: dict[str, list[int]] = defaultdict(list)
    rooms: dict[tuple[str, str], int] = {}
    for topic, e in sent:
        if topic == "view" and e["surface"] == "video":
            videos[e["user_id"]].append(e["event_time"])
        elif topic == "view":
            key = (e["user_id"], e["live_id"])
            rooms[key] = min(e["event_time"], rooms.get(key, e["event_time"]))
    reached, money = defaultdict(set), defaultdict(int)
    for user, times in videos.items():
        for at in times:
            reached["user", at // 3_600_000 * 3_600_000, 1].add(user)
    done = later_steps(sent)
    for (user, room), entered in rooms.items():
        first = max((at for at in videos[user] if entered - 1_800_000 <= at <= entered), default=None)
        if first is None:
            continue
        hour = first // 3_600_000 * 3_600_000
        steps = [(2, entered, 0)] + [s for s in done[user, room] if entered <= s[1] <= entered + 86_400_000]
        for step, _, amount in steps:
            for unit, member in (("user", user), ("user_live", (user, room))):
                reached[unit, hour, step].add(member)
                money[unit, hour, step] += amount
    return {key: (len(members), money[key]) for key, members in reached.items()}


def later_steps(sent: list[tuple[str, dict[str, Any]]]) -> dict[tuple[str, str], list[tuple[int, int, int]]]:
    """(user, room) → (step, time, money) of steps 3 to 5."""
    found = defaultdict(list)
    for topic, e in sent:
        if topic in ("like", "gift", "order") and "live_id" in e and e.get("status", "paid") == "paid":
            step = {"like": 3, "gift": 4, "order": 5}[topic]
            found[e["user_id"], e["live_id"]].append((step, e["event_time"], e.get("amount_minor", 0)))
    return found


@pytest.fixture(scope="module")
def truths(events: pl.DataFrame) -> Truths:
    return {truth.view.name: truth for truth in bench_truth.all_families(events)}


@pytest.mark.parametrize("view", ["active_users", "topic_heat", "funnel"])
def test_the_truth_is_that_of_a_plain_recount(plain: Plain, truths: Truths, view: str) -> None:
    truth = truths[view]
    keys = list(truth.view.keys)
    got = {row[: len(keys)]: row[len(keys) :] for row in truth.rows.select(*keys, *truth.view.figures).iter_rows()}
    expected = plain[view]
    assert got.keys() == expected.keys()
    for key, figures in expected.items():
        assert got[key] == pytest.approx(figures, rel=1e-9), key


def test_the_funnel_of_the_traffic_reaches_every_step(truths: Truths) -> None:
    assert set(truths["funnel"].rows["step"]) == {1, 2, 3, 4, 5}


def test_the_truth_of_w1_counts_views_alone(events: pl.DataFrame) -> None:
    ledger, activity = bench_truth.w1(events)
    views = events.filter(pl.col("kind") == VIEW)
    assert ledger.rows.rows() == [("view", views.height, views.height, 0, 0, 0, 0)]
    assert activity.rows.filter(pl.col("dim") == "category")["events"].sum() == views.height
    assert set(activity.rows["window_seconds"]) == {60}


def shown(truth: bench_truth.Truth) -> pl.DataFrame:
    """The truth as the store would answer: every field as text."""
    rows = truth.rows.select(*truth.view.keys, *truth.view.figures).cast(pl.String)
    return rows.rename({name: f"{name}_" for name in rows.columns})


@pytest.mark.parametrize("view", ["ingest_ledger", "active_users", "topic_heat", "funnel"])
def test_the_comparison_finds_nothing_but_what_is_wrong(truths: Truths, view: str) -> None:
    truth = truths[view]
    right = shown(truth)
    figure = f"{truth.view.figures[0]}_"
    more = (pl.col(figure).cast(pl.Int64) + (pl.int_range(pl.len()) == 1)).cast(pl.String)
    assert bench_truth.differences(truth, right) == []
    (sentence,) = bench_truth.differences(truth, right.with_columns(more.alias(figure)))
    assert f"{view}.{truth.view.figures[0]}: 1 of {right.height} rows differ" in sentence
    assert len(bench_truth.differences(truth, right[1:])) == len(truth.view.figures)  # a row is missing


def test_the_comparison_finds_rows_that_should_not_be(truths: Truths) -> None:
    truth = truths["funnel"]
    extra = pl.concat([shown(truth), shown(truth)[:1].with_columns(step_=pl.lit("9"))])
    assert any("step 9" in sentence for sentence in bench_truth.differences(truth, extra))


def test_the_no_op_reads_what_was_produced(events: pl.DataFrame) -> None:
    with MockBroker() as broker:
        broker.create_topics(CORE_TOPICS)
        average = produce(broker.address, events[:2_000])
        assert average == pytest.approx(243, abs=8)
        assert noop(broker.address, CORE_TOPICS) > 0


def test_percentiles_are_measured_values() -> None:
    samples = [float(n) for n in range(1, 1001)]
    assert [percentile(samples, share) for share in (0.5, 0.99, 0.999, 1.0)] == [500, 990, 999, 1000]
    assert percentile([3.0], 0.999) == 3


def test_a_probe_takes_as_long_as_the_slowest_view_and_a_lost_one_until_the_end() -> None:
    probes = Probes(sent={"a": 10.0, "b": 11.0}, waiting={"a": None, "b": None})
    probes.seen = {"active_users": {"a": 10.1, "b": 11.2}, "topic_heat": {"a": 10.5}, "funnel": {"a": 10.2}}
    reader = mock.Mock(ask=lambda _: b"topic_heat\ta\ntopic_heat\tb\nfunnel\tforeign\n")
    with mock.patch("time.monotonic", return_value=11.1):
        probes.poll(reader)
    assert list(probes.waiting) == ["b"]
    assert probes.latencies_ms(20.0) == pytest.approx([500, 9000])
    assert probes.latencies_ms(20.0, "active_users") == pytest.approx([100, 200])
    assert bench_latency._figures(probes, 20.0)["lost"] == 1


def test_memory_and_cpu_of_a_process_tree_are_seen(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'b = bytes(range(256)) * 400_000; input()'])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE) as process:
        usage = _Usage(process.pid, tmp_path / "endpoint.json")
        give_up = time.monotonic() + 20
        while usage.costs[0].peak_rss_mb < 98 and time.monotonic() < give_up:
            time.sleep(0.05)
        engine, store = usage.costs
        process.communicate(b"\n")
    assert engine.peak_rss_mb > 98  # the grandchild's 100 MB
    assert store.peak_rss_mb == 0


def test_figures_are_medians_over_runs_and_exact_needs_all_runs() -> None:
    run = bench_throughput.EngineRun(2.0, 1.5, 1.0, 0.5, 100.4, 200.0, ())
    one = {"noop_events_per_s": 1000, "w1_noop_events_per_s": 900}
    runs = [
        one | run.figures("engine", 1000, noop) | run.figures("w1", 900, 900.0) for noop in (1000.0, 2000.0, 1250.0)
    ]
    summary = bench_throughput._summary(Throughput(events=1000), runs, [], 243.0)
    assert (summary["engine_events_per_s"], summary["engine_ratio"], summary["w1_ratio"]) == (500, 0.4, 0.5)
    assert summary["peak_rss_mb"] == 100
    assert summary["exact"] is True
    assert bench_throughput._summary(Throughput(events=1000), runs, ["funnel: …"], 243.0)["exact"] is False


def test_a_benchmark_keeps_what_an_earlier_one_left(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(Usage, match="earlier benchmark"):
        Throughput(keep=tmp_path)
    with pytest.raises(Usage):
        Throughput(runs=0)
    with pytest.raises(Usage):
        Latency(rate=0)
    with pytest.raises(Usage, match="earlier benchmark"):
        Views(keep=tmp_path)
    with pytest.raises(Usage, match="two minutes"):
        Views(seconds=119)


def test_reading_begins_when_the_log_says_so_else_when_all_was_prepared(tmp_path: Path) -> None:
    engine = EngineProcess.__new__(EngineProcess)
    engine._log = tmp_path / "engine.log"
    engine._log.write_text("not JSON\n")
    assert engine.reading_since(5.0) == 5
    with engine._log.open("a") as log:
        for second in ("01", "02"):
            log.write(json.dumps({"event": "reading", "timestamp": f"2026-02-01T00:00:{second}.250000Z"}) + "\n")
    assert engine.reading_since(5.0) == 1_769_904_001.25


THROUGHPUT = {"benchmark": "throughput", "engine_ratio": 0.35, "w1_ratio": 0.6, "exact": True, "peak_rss_mb": 2047.9}
LATENCY = {"benchmark": "latency", "p99_ms": 2000, "lost": 0, "rows_per_event": 1, "active_parts": 100,
           "peak_rss_mb": 500.0}  # fmt: skip
VIEWS = {"benchmark": "views", "slowest_p50_ms": 300}
REPLAY = {"benchmark": "replay", "memory_ratio": 1.2, "exact": True}


@pytest.mark.parametrize(
    ("told", "changes", "said"),
    [
        (THROUGHPUT, {}, []),
        (THROUGHPUT, {"engine_ratio": 0.315}, ["engine_ratio is 0.315, wanted ≥ 0.35: off by 0.035 (10.0%)"]),
        (
            THROUGHPUT,
            {"w1_ratio": 0.5, "peak_rss_mb": 2048},
            [
                "w1_ratio is 0.5, wanted ≥ 0.6: off by 0.1 (16.7%)",
                "peak_rss_mb is 2048, wanted < 2048: off by 0 (0.0%)",
            ],
        ),
        (THROUGHPUT, {"exact": False}, ["exact is False, wanted True"]),
        (THROUGHPUT, {"w1_ratio": None}, ["w1_ratio was not measured, wanted ≥ 0.6"]),
        (THROUGHPUT, {"engine_ratio": float("nan")}, ["engine_ratio is nan, wanted ≥ 0.35: off by nan (nan%)"]),
        (LATENCY, {}, []),
        (LATENCY, {"p99_ms": 2500}, ["p99_ms is 2500, wanted ≤ 2000: off by 500 (25.0%)"]),
        (LATENCY, {"lost": 3}, ["lost is 3, wanted 0: off by 3"]),
        (LATENCY, {"rows_per_event": 1.25}, ["rows_per_event is 1.25, wanted ≤ 1: off by 0.25 (25.0%)"]),
        (VIEWS, {}, []),
        (REPLAY, {}, []),
        (REPLAY, {"memory_ratio": 1.25}, ["memory_ratio is 1.25, wanted ≤ 1.2: off by 0.05 (4.2%)"]),
        (REPLAY, {"exact": False}, ["exact is False, wanted True"]),
        (VIEWS, {"slowest_p50_ms": 450.0}, ["slowest_p50_ms is 450.0, wanted ≤ 300: off by 150 (50.0%)"]),
    ],
)
def test_a_missed_target_is_told_and_is_the_exit_code_with_check(
    told: dict[str, Any], changes: dict[str, Any], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = told | changes
    wrong = not result.get("exact", True) or bool(result.get("lost"))
    assert bench.show(result, tmp_path / "found.json", as_json=True) == wrong  # a target alone changes nothing
    assert capsys.readouterr().err == ""
    assert bench.show(result, tmp_path / "found.json", as_json=True, check=True) == bool(said)
    out, err = capsys.readouterr()
    assert err.splitlines() == [f"target missed: {line}" for line in said]
    assert len(out.splitlines()) == 1  # one JSON object, whatever was missed


def test_the_table_and_the_help_show_the_targets_that_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for told in (THROUGHPUT, LATENCY, VIEWS, REPLAY):
        name = told["benchmark"]
        assert bench_targets.TARGETS[name].keys() == told.keys() - {"benchmark"}
        bench.show(told, tmp_path / "found.json")
        shown = capsys.readouterr().out
        helped = CliRunner().invoke(app, ["bench", name, "--help"], env={"COLUMNS": "400", "NO_COLOR": "1"}).output
        assert bench_targets.listed(name) in helped
        for target in bench_targets.TARGETS[name].values():
            assert str(target) in shown


def test_check_reaches_what_judges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for result in (
        THROUGHPUT | {"w1_ratio": 0.1},
        LATENCY | {"p99_ms": 9_000},
        VIEWS | {"slowest_p50_ms": 301},
        REPLAY | {"memory_ratio": 1.3},
    ):
        name = result["benchmark"]
        monkeypatch.setattr(bench, name, mock.Mock(return_value=result))
        flags = ["bench", name, "--json", "--json-file", str(tmp_path / "found.json")]
        assert CliRunner().invoke(app, flags).exit_code == OK
        assert CliRunner().invoke(app, [*flags, "--check"]).exit_code == CHECK_FAILED
