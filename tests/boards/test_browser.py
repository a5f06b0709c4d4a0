"""The embedded board in a real Chromium."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import polars as pl
import pytest

from grafana import live
from grafana.boards import BOARDS
from grafana.build import plain
from grafana.live import LiveBoard
from grafana.preview import view_of
from grafana.words import VALUES
from sinks.clickhouse import Store as Writer
from tests.boards.chromium import READY, Page, find_chromium
from tests.boards.conftest import Filled

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]
EVENING = "from=1767610800000&to=1767618000000&zone=Asia/Shanghai"
HOSTILE = "<img src=x onerror=alert(1)><script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    made = Page()
    yield made
    made.close()


@pytest.mark.parametrize("uid", [board.uid for board in BOARDS])
def test_each_board_draws_all_of_its_panels_without_a_complaint(
    page: Page, site: str, uid: str, tmp_path: Path
) -> None:
    page.problems.clear()
    page.open(f"{site}/d/{uid}?range=24h")
    page.wait(f"location.pathname === '/d/{uid}' && {READY}")
    board = next(board for board in BOARDS if board.uid == uid)
    told = page.run(
        "[...document.querySelectorAll('.panel')].map(p => p.querySelector('.body').textContent || p.querySelector('.body').innerHTML)"
    )
    assert len(told) == sum(not panel.expr for panel in board.panels)  # the others are named, see below
    assert all(told)
    assert page.run("document.querySelectorAll('.none.error').length") == 0
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert page.problems == []
    page.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_nothing_comes_from_elsewhere(page: Page, site: str) -> None:
    page.requests.clear()
    page.open(f"{site}/d/livepulse-ops?{EVENING}")
    page.wait(f"location.pathname.endsWith('ops') && {READY}")
    assert {url for url in page.requests if not url.startswith((site, "about:", "data:", "blob:"))} == set()
    with urlopen(f"{site}/d/livepulse-ops") as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe-eval" not in policy
    assert re.search(r"default-src 'none'", policy)


def test_a_variable_and_the_range_change_the_answer(page: Page, site: str) -> None:
    names = "[...document.querySelectorAll('[data-panel] .body .legendtext')].map(e => e.textContent).join()"
    page.open(f"{site}/d/livepulse-ops?{EVENING}&var-dim=category")
    page.wait(READY)
    before = page.run(names)
    assert "food" in before
    page.run("""(() => { const select = [...document.querySelectorAll('label.field')].find(e => e.textContent.startsWith('Split by')).querySelector('select');
        select.value = 'platform'; select.dispatchEvent(new Event('change')); })()""")
    page.wait(f"{names}.includes('douyin')")
    assert "var-dim=platform" in page.run("location.search")
    figure = "document.querySelector('[data-panel=\"2\"] .figure')?.textContent"
    evening = page.run(figure)
    page.open(f"{site}/d/livepulse-ops?from=1767567600000&to=1767571200000")
    page.wait(f"{READY} && location.search.includes('1767567600000')")
    assert page.run(figure) != evening


def test_what_only_prometheus_knows_is_named_and_takes_no_room(page: Page, site: str) -> None:
    page.open(f"{site}/d/livepulse-engine?range=24h")
    page.wait(f"location.pathname.endsWith('engine') && {READY}")
    board = next(board for board in BOARDS if board.uid == "livepulse-engine")
    named = [panel.title.en for panel in board.panels if panel.expr]
    assert len(named) > 3
    assert page.run("[...document.querySelectorAll('.elsewhere span')].map(e => e.textContent)") == named
    shown = page.run("[...document.querySelectorAll('[data-panel] h3')].map(e => e.textContent)")
    assert len(shown) > 6
    assert not set(shown) & set(named)


def test_pages_that_were_left_hold_no_connection(page: Page, site: str) -> None:
    """Chromium keeps pages for "back", and has six connections to a host: the seventh page would wait for ever."""
    assert len(BOARDS) * 2 > 7
    for number, board in enumerate([*BOARDS, *BOARDS]):
        page.open(f"{site}/d/{board.uid}?range=24h&number={number}")
        page.wait(f"location.search.endsWith('number={number}') && {READY}", 90)


def test_back_goes_on_where_it_was(page: Page, site: str) -> None:
    page.open(f"{site}/d/livepulse-engine?range=24h")
    page.wait(f"location.search.endsWith('24h') && {READY}")
    page.open(f"{site}/d/livepulse-ops?range=24h")
    page.wait(f"location.pathname.endsWith('ops') && {READY}")
    page.run("history.back()")
    page.wait(f"location.pathname.endsWith('engine') && {READY}")
    rounds = page.run("Number(document.body.dataset.rounds)")
    assert page.wait(f"Number(document.body.dataset.rounds) > {rounds}", 20)


def test_every_chart_has_a_table_and_the_keyboard_reaches_it(page: Page, site: str) -> None:
    page.open(f"{site}/d/livepulse-funnels?range=24h")
    page.wait(READY)
    page.wait("location.pathname.endsWith('funnels') && document.querySelector('.panel.bargauge .plot')")
    button = "document.querySelector('.panel.bargauge .head button')"
    assert page.run(f"{button}.tabIndex") == 0
    page.run(f"{button}.click()")
    page.wait("document.querySelector('.panel.bargauge table')")
    assert page.run("document.querySelector('.panel.bargauge th').textContent") == "step"
    assert page.run("document.querySelectorAll('.panel.bargauge tbody tr').length") == 5
    unnamed = "[...document.querySelectorAll('button, select, summary')].filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length"
    assert page.run(unnamed) == 0


def test_what_is_cut_off_is_said(page: Page, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "[...document.querySelectorAll('.panel [role=status]')].filter(e => !e.hidden).map(e => e.textContent)"
    page.open(f"{site}/d/livepulse-ops?range=24h")
    page.wait(READY)
    assert page.run(told) == []
    monkeypatch.setattr(live, "_ROWS_MAX", 50)
    page.open(f"{site}/d/livepulse-ops?range=3h")
    page.wait(READY)
    page.wait(f"{told}.length > 0")
    assert set(page.run(told)) == {"Only the first 50 rows are shown: choose a shorter range or fewer values."}


def test_text_of_events_stays_text_and_new_rows_appear_at_once(page: Page, site: str, filled: Filled) -> None:
    page.problems.clear()
    page.open(f"{site}/d/livepulse-ops?range=1h&every=1000&var-dim=category")
    page.wait(READY)
    assert HOSTILE not in page.run("document.body.textContent")
    newest = filled.store.ask(
        "SELECT toUnixTimestamp(max(window_start)) FROM active_users WHERE window_seconds = 60"
    ).rows[0][0]
    row = {
        "window_start": newest * 1000, "window_seconds": 60, "dim": "category", "value": HOSTILE, "events": 9_000_000,
        "users": 7_654_321, "watch_ms": 0, "is_final": 0, "version": 1 << 60,
    }  # fmt: skip
    frame = pl.DataFrame({name: [value] for name, value in row.items()}, schema_overrides={"version": pl.UInt64})
    writer = Writer.connect(filled.up.url, user=filled.up.user, password=filled.up.token, database="livepulse")
    began = time.monotonic()
    writer.insert("active_users", frame)
    writer.insert("active_users", frame.with_columns(window_seconds=pl.lit(3600)))
    page.wait("document.querySelector('[data-panel=\"16\"], .panel.piechart').textContent.includes('img src=x')", 15)
    took = time.monotonic() - began
    assert took < 12  # the list of values is asked anew every 10 s; figures every second
    assert page.run("window.hacked === undefined && !document.querySelector('img[src=x]')")
    assert page.problems == []
    whole = {"dim": "all", "value": "", "users": 4_321, "is_final": 1, "version": 15 << 60}
    changed = frame.with_columns(**{name: pl.lit(value) for name, value in whole.items()})
    writer.insert("active_users", changed)
    began = time.monotonic()
    page.wait("document.querySelector('[data-panel=\"2\"] .figure').textContent === '4,321'", 15)
    assert time.monotonic() - began < 2 * max(1.0, os.getloadavg()[0] / 2)  # a loaded machine is slower by its load
    writer.close()


def test_it_fits_a_phone_in_chinese(site: str) -> None:
    phone = Page(390, 800, dark=False, mobile=True)
    try:
        phone.open(f"{site}/d/livepulse-hours?lang=zh")
        phone.wait(READY)
        assert phone.run("document.documentElement.scrollWidth") == 390
        assert phone.run("document.querySelector('h1').textContent") == "活跃时段"
        assert phone.run("document.documentElement.dataset.theme") == "light"
        assert phone.problems == []
    finally:
        phone.close()


def test_foreign_hosts_and_paths_are_refused(site: str) -> None:
    for path, host, status in [
        ("/d/livepulse-ops", "evil.example", 400), ("/static/../preview.py", None, 404), ("/static/board.html", None, 404),
        ("/d/nope", None, 404), ("/api/stream/nope", None, 404), ("/static/%2e%2e%2fpreview.py", None, 404),
    ]:  # fmt: skip
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(site + path, headers={"Host": host} if host else {}))
        assert refused.value.code == status, path
    with urlopen(site + "/api/boards/livepulse-ops?lang=zh") as answer:
        assert json.load(answer)["title"].endswith("直播运营总览")


PROPER = set(re.findall(
    "[A-Za-z]+", "LivePulse GMV PCU ACU GPM UV AOV Kafka Prometheus Grafana SRE ID UTC min English Asia/Shanghai Asia/Kolkata"
    " Europe/London America/New_York"
))  # fmt: skip
UNITS = re.compile(r"\d\s?[kMGTsdhmy]\b|\d+ (?:ms|min)|/min|/s\b|\bR²|p99")


def data_of(filled: Filled, uid: str, back: str) -> set[str]:
    """Words that events and the engine gave, which no language changes."""

    async def told() -> set[str]:
        board = plain(next(board for board in BOARDS if board.uid == uid), "zh")
        live = LiveBoard(filled.store, board, view_of({"range": back}))
        found: set[str] = set()
        async for name, one in live.round():
            if name == "state":
                found |= {text for options in one["options"].values() for pair in options for text in pair}
            elif name == "panel" and "rows" in one:
                open_ones = [at for at, (column, _) in enumerate(one["columns"]) if column not in VALUES]
                found |= {row[at] for row in one["rows"] for at in open_ones if isinstance(row[at], str)}
                found |= {row[at] for row in one["rows"] for at, (c, _) in enumerate(one["columns"]) if c == "value"}
        return found

    return {word for text in asyncio.run(told()) for word in re.findall(r"[A-Za-z]+", text)}


@pytest.mark.parametrize("uid", [board.uid for board in BOARDS])
def test_in_chinese_no_english_word_of_ours_is_left(page: Page, site: str, filled: Filled, uid: str) -> None:
    page.open("about:blank")
    page.open(f"{site}/d/{uid}?range=24h&lang=zh")
    page.wait(f"location.pathname === '/d/{uid}' && {READY} && document.documentElement.lang === 'zh'")
    look = (
        "[...document.querySelectorAll('header, .bar, #notice, .panel, h2')].flatMap(e => [e.innerText || '', "
        "...[...e.querySelectorAll('svg text, option, summary')].map(t => t.textContent)]).join('\\n')"
    )
    seen = page.run(look)
    page.run("document.querySelectorAll('.panel .head button[aria-label^=表格]').forEach(b => b.click())")
    words = set(re.findall(r"[A-Za-z]{2,}", UNITS.sub(" ", f"{seen}\n{page.run(look)}")))
    assert words - PROPER - data_of(filled, uid, "24h") == set()
