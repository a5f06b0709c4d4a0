"""What happens on the simulated platform, as arrays of events in the order in which they arrive.

An event is one row of a NumPy structured array (`EVENT`); the JSON of it is made by `simulate_json`. Rows carry integer
codes into the tables of `simulate_world`; −1 is "none".
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flows.simulate_world import (
    CHANNEL_SHARES,
    GIFT_SHARES,
    GIFTS,
    MINUTE_MS,
    Catalogue,
    Crowd,
    DayCurve,
    Int64s,
    Options,
    Rooms,
    Trends,
    power_law_rank,
)  # fmt: skip
from schemas.events import AD, AD_ACTIONS, ENGAGE, ENGAGE_ACTIONS, GIFT, LIKE, ORDER, ORDER_STATUSES, VIEW

Events = npt.NDArray[np.void]

EVENT: Final = np.dtype([
    ("arrival", "i8"), ("time", "i8"),  # epoch ms: when it is sent, and its event_time
    ("id", "i8"), ("user", "i4"), ("video", "i4"), ("room", "i4"),
    ("trend", "i2"),  # planted topic beside the target's own tags
    ("kind", "u1"),  # index into schemas.events.TOPICS
    ("action", "i1"),  # of engage and ad; status of order; gift of gift
    ("channel", "i1"), ("continued", "?"),
    ("copy", "?"),  # the same event sent a second time
    ("watch", "i4"), ("amount", "i4"), ("quantity", "i2"),
    ("item", "i4"),  # order number, ad
])  # fmt: skip

LIKE_SHARE, COMMENT_SHARE, SHARE_SHARE, FOLLOW_SHARE = 0.09, 0.012, 0.008, 0.004  # of video views
ROOM_FOLLOW_SHARE, EXPOSED_PER_ENTRY = 0.03, 3  # of rooms entered; exposures of a room, the one that led in among them
AD_SHARE, CLICK_SHARE, CONVERSION_SHARE = 0.02, 0.10, 0.15  # of video views, of impressions, of clicks
TAGGED_ACTIONS: Final = ("comment", "share")
"""`engage` actions that carry category and tags of their target; the others carry none."""
_ACTION = {name: index for index, name in enumerate(ENGAGE_ACTIONS)}
_STATUS = {name: index for index, name in enumerate(ORDER_STATUSES)}
_BUCKET_MS: Final = 1_000
_DECIDE_MS: Final = 1_000  # from the click on a product to its order
_CLICK_IDS: Final = 1 << 40  # where their ids begin


def rows(count: int, **columns: Any) -> Events:  # noqa: ANN401 - scalars and arrays of any integer type
    """`count` events with these columns; codes that are not given are −1."""
    events = np.zeros(count, EVENT)
    for name in ("video", "room", "trend", "action", "channel"):
        events[name] = -1
    for name, value in columns.items():
        events[name] = value
    return events


def described(events: Events) -> npt.NDArray[np.bool_]:
    """True for events that carry category and tags of the video or room that they are about."""
    engaged = (events["kind"] == ENGAGE) & np.isin(events["action"], tagged_codes())
    mask: npt.NDArray[np.bool_] = (events["kind"] == VIEW) | (events["kind"] == LIKE) | engaged
    return mask


def tagged_codes() -> list[int]:
    """Codes of the `engage` actions that carry tags."""
    return [_ACTION[name] for name in TAGGED_ACTIONS]


def joined(pieces: list[Events]) -> Events:
    """One array after another. (`np.concatenate` looks for a common type field by field: 40 µs a piece.)"""
    whole = np.empty(sum(map(len, pieces)), EVENT)
    at = 0
    for piece in pieces:
        whole[at : at + len(piece)] = piece
        at += len(piece)
    return whole


class Schedule:
    """Events that are known but have not arrived yet, in buckets of a second of arrival."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[Events]] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def add(self, events: Events) -> None:
        """Expect these."""
        if not len(events):
            return
        self._waiting += len(events)
        events = events[np.argsort(events["arrival"], kind="stable")]
        buckets = events["arrival"] // _BUCKET_MS
        starts = np.flatnonzero(np.diff(buckets, prepend=-1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
            self._buckets.setdefault(int(buckets[start]), []).append(events[start:end])

    def take(self, until: int) -> Events:
        """Events that arrive before `until`, in order of arrival."""
        due = sorted(bucket for bucket in self._buckets if bucket * _BUCKET_MS < until)
        taken = joined([piece for bucket in due for piece in self._buckets.pop(bucket)])
        taken = taken[np.argsort(taken["arrival"], kind="stable")]
        count = int(np.searchsorted(taken["arrival"], until))
        if count < len(taken):  # the rest of the last bucket
            self._buckets[due[-1]] = [taken[count:]]
        self._waiting -= count
        return taken[:count]


class Traffic:
    """The stream of events. `until(time)` gives the next ones; time only goes forward, in steps of at most a minute."""

    def __init__(self, options: Options, start: int) -> None:
        self.options = options
        self.start = self.clock = start
        self.crowd, self.catalogue, self.curve = Crowd(options), Catalogue(options), DayCurve(options)
        self.rooms, self.trends = Rooms(options, start), Trends(options, start)
        self.video_views = self.entries = self.orders = 0
        self._rng = np.random.default_rng((options.seed, 5))
        self._clicks_rng = np.random.default_rng((options.seed, 8))  # of its own: a change here moves nothing else
        self._schedule = Schedule()
        self._next_id, self._next_click = 0, _CLICK_IDS
        self._tagged_per_view = 1.0
        self._events_per_view, self._tagged_per_view = self._measured()

    @property
    def scheduled(self) -> int:
        """Events that have yet to arrive."""
        return len(self._schedule)

    def until(self, time: int, *, fresh: bool = True) -> Events:
        """Events that arrive before `time`; with `fresh` false nothing new begins."""
        if fresh:
            self._schedule.add(self._begin(self.clock, time))
        self.clock = time
        return self._schedule.take(time)

    def new_ids(self, count: int) -> Int64s:
        """Numbers of events that no other has."""
        self._next_id += count
        return np.arange(self._next_id - count, self._next_id)

    def _measured(self) -> tuple[float, float]:
        """Events that one video view leads to on average, and how many of them carry its tags: a trial of 20,000."""
        trial, self._rng = self._rng, np.random.default_rng((self.options.seed, 6))
        self.rooms.advance(self.start)
        times = np.full(20_000, self.start, dtype=np.int64)
        events = self._sessions(times, 1.0)
        tagged = int((described(events) & (events["room"] < 0)).sum())
        sent = len(self._with_faults(events))
        self._rng, self._next_id = trial, 0
        self.video_views = self.entries = self.orders = 0
        self.rooms = Rooms(self.options, self.start)
        return sent / len(times), tagged / len(times)

    def _begin(self, start: int, end: int) -> Events:
        """Everything that sessions which begin in [start, end) will do."""
        opened = self.rooms.advance(start)
        rate = self.options.rate * self.curve.level(start) * (1 - self.options.bad_share) / self._events_per_view
        count = int(self._rng.poisson(rate * (end - start) / 1000))
        times = np.sort(self._rng.integers(start, end, count))
        shows, sessions = self._shows(opened), self._with_faults(self._sessions(times, rate))
        return joined([shows, sessions, self._clicks_before(sessions)])

    def _sessions(self, times: Int64s, rate: float) -> Events:
        """Video views at these times and all that follows from them. `rate`: video views per second."""
        views, watched = self._views(times, rate)
        reports = _further_reports(views, watched)
        plain = [reports, *self._reactions(views), self._ads(views)]
        visits = self._visits(views)
        events = joined([views, *plain, *visits])
        events["id"] = self.new_ids(len(events))
        events["arrival"] = events["time"] + events["watch"] + self._delays(len(events))
        may_be_late = len(views) + sum(map(len, plain))  # a visit's own events never, nor the view that led to it
        led = np.zeros(len(events), dtype=np.bool_)
        led[may_be_late:] = True
        led[np.flatnonzero(views["item"] == 1)] = True
        events["item"][: len(views)] = 0
        self._delay_some(events, np.flatnonzero(~led))
        return events

    def _delays(self, count: int) -> Int64s:
        """Network and client delay in ms: 0.8 s on average, 20 s at most."""
        delays: Int64s = np.minimum(self._rng.exponential(800, count), 20_000).astype(np.int64)
        return delays

    def _views(self, times: Int64s, rate: float) -> tuple[Events, Int64s]:
        """First reports of video views, and how long each is watched in all."""
        rng, count = self._rng, len(times)
        weights = self.curve.zone_weights(int(times[0])) if count else np.ones(len(self.crowd.sizes))
        zone = np.searchsorted(np.cumsum(weights / weights.sum())[:-1], rng.random(count), side="right")
        user = self.crowd.offsets[zone] + power_law_rank(rng.random(count), self.crowd.sizes[zone], 0.3)
        video = power_law_rank(rng.random(count), self.options.videos, 0.85)
        watched = (self.catalogue.duration_ms[video] * np.minimum(1.0, rng.exponential(0.7, count))).astype(np.int64)
        channel = np.searchsorted(np.cumsum(CHANNEL_SHARES)[:-1], rng.random(count), side="right")
        views = rows(
            count, time=times, user=user, video=video, channel=channel, kind=VIEW, watch=np.minimum(watched, MINUTE_MS),
            trend=self._trend_of(times, rate),
        )  # fmt: skip
        self.video_views += count
        return views, watched

    def _trend_of(self, times: Int64s, rate: float) -> Int64s:
        """The planted topic of each view, so that its rate is what was planted whatever the hour."""
        chosen = np.full(len(times), -1, dtype=np.int64)
        if not len(times):
            return chosen
        draw, low = self._rng.random(len(times)), np.zeros(len(times))
        for index, trend in enumerate(self.trends.until(int(times[-1]) + 1)):
            if trend.end > times[0] and trend.start <= times[-1]:
                high = low + trend.shape(times) * (trend.peak_per_minute / 60 / self._tagged_per_view / rate)
                chosen[(draw >= low) & (draw < high)] = index
                low = high
        return chosen

    def _reactions(self, views: Events) -> list[Events]:
        """Likes, comments, shares and follows of videos."""
        found = []
        for kind, action, share in (
            (LIKE, -1, LIKE_SHARE), (ENGAGE, _ACTION["comment"], COMMENT_SHARE),
            (ENGAGE, _ACTION["share"], SHARE_SHARE), (ENGAGE, _ACTION["follow"], FOLLOW_SHARE),
        ):  # fmt: skip
            parents = views[self._rng.random(len(views)) < share]
            time = parents["time"] + (parents["watch"] * self._rng.random(len(parents))).astype(np.int64)
            found.append(_like_parent(parents, time, kind, action, trend=parents["trend"]))
        return found

    def _ads(self, views: Events) -> Events:
        """Ad impressions, the clicks on them, the conversions of these."""
        rng = self._rng
        shown = views[rng.random(len(views)) < AD_SHARE]
        impressions = rows(len(shown), kind=AD, action=AD_ACTIONS.index("impression"), user=shown["user"],
                           channel=shown["channel"], time=shown["time"], item=rng.integers(0, 50, len(shown)),
                           amount=rng.integers(1, 30, len(shown)))  # fmt: skip
        clicks = impressions[rng.random(len(impressions)) < CLICK_SHARE]
        clicks["action"], clicks["time"] = AD_ACTIONS.index("click"), clicks["time"] + 3_000
        bought = clicks[rng.random(len(clicks)) < CONVERSION_SHARE]
        bought["action"], bought["time"] = AD_ACTIONS.index("conversion"), bought["time"] + 40_000
        bought["amount"] = rng.integers(1_000, 30_000, len(bought))
        return joined([impressions, clicks, bought])

    def _visits(self, views: Events) -> list[Events]:
        """Rooms entered by way of a video: entry, reports, engagement, gifts, orders. Marks those views (item = 1)."""
        rng, conversion = self._rng, self.options.conversion
        led = np.flatnonzero(rng.random(len(views)) < conversion.enter)
        room = self.rooms.enter(views["user"][led].astype(np.int64), rng)
        led, room = led[room >= 0], room[room >= 0]
        views["item"][led] = 1
        count = len(led)
        self.entries += count
        time = views["time"][led] + np.minimum(views["watch"][led], 30_000) + rng.integers(300, 3_000, count)
        left = np.array(self.rooms.ends, dtype=np.int64)[room] - time
        stay = np.clip(rng.lognormal(11.4, 1.0, count), 5_000, left).astype(np.int64)
        entries = rows(count, kind=VIEW, user=views["user"][led], room=room, video=views["video"][led], time=time,
                       channel=views["channel"][led])  # fmt: skip
        reports = _further_reports(entries, stay)
        engaged = self._chosen(entries, conversion.engage, np.minimum(stay, 120_000))
        comment = rng.random(len(engaged)) < 0.4
        engaged["kind"] = np.where(comment, ENGAGE, LIKE)
        engaged["action"] = np.where(comment, _ACTION["comment"], -1)
        clicks = self._chosen(entries, 0.08, stay)
        clicks["kind"], clicks["action"] = ENGAGE, _ACTION["product_click"]
        clicks["item"] = rng.integers(0, 1_000, len(clicks))
        follows = self._chosen(entries, ROOM_FOLLOW_SHARE, stay)
        follows["kind"], follows["action"] = ENGAGE, _ACTION["follow"]
        shown = self._exposures(views, entries)
        gifts, orders = self._gifts(entries, stay), self._orders(entries, stay)
        return [entries, reports, engaged, clicks, follows, shown, gifts, *orders]

    def _exposures(self, views: Events, entries: Events) -> Events:
        """Rooms shown in the feed: to those who enter, just before, and to others who do not."""
        rng = self._rng
        others = np.repeat(entries, EXPOSED_PER_ENTRY - 1)
        others["user"] = views["user"][rng.integers(0, max(1, len(views)), len(others))]
        shown = joined([entries, others])
        return _like_parent(shown, shown["time"] - 200, ENGAGE, _ACTION["live_exposure"])

    def _chosen(self, entries: Events, share: float, within: Int64s) -> Events:
        """A share of the entries, each as an event in the room (of no kind yet) within so many ms after it."""
        mine = np.flatnonzero(self._rng.random(len(entries)) < share)
        time = entries["time"][mine] + (within[mine] * self._rng.random(len(mine))).astype(np.int64)
        return _like_parent(entries[mine], time, VIEW, -1)

    def _gifts(self, entries: Events, stay: Int64s) -> Events:
        """One gift or several of each giver."""
        rng = self._rng
        givers = self._chosen(entries, self.options.conversion.gift, stay)
        gifts = np.repeat(givers, np.minimum(rng.geometric(0.6, len(givers)), 20))
        again = np.concatenate(
            ([False], (gifts["user"][1:] == gifts["user"][:-1]) & (gifts["room"][1:] == gifts["room"][:-1]))
        )
        gifts["time"] += np.where(again[: len(gifts)], rng.integers(0, 20_000, len(gifts)), 0)
        gift = np.searchsorted(np.cumsum(GIFT_SHARES)[:-1], rng.random(len(gifts)), side="right")
        gifts["kind"], gifts["action"] = GIFT, gift
        gifts["quantity"] = np.minimum(rng.geometric(0.7, len(gifts)), 99)
        gifts["amount"] = np.array([price for _, price in GIFTS])[gift] * gifts["quantity"]
        return gifts

    def _orders(self, entries: Events, stay: Int64s) -> list[Events]:
        """Orders that are paid, some of them refunded in part; others that nobody pays and are cancelled."""
        rng = self._rng
        created = self._chosen(entries, self.options.conversion.order, stay)
        unpaid = self._chosen(entries, self.options.conversion.order / 4, stay)
        both = joined([created, unpaid])
        both["kind"], both["action"], both["quantity"] = ORDER, _STATUS["created"], 1
        both["amount"] = np.clip(rng.lognormal(8.8, 0.8, len(both)), 100, 2_000_000).astype(np.int64)
        both["item"] = np.arange(self.orders, self.orders + len(both))
        self.orders += len(both)
        paid, cancelled = both[: len(created)].copy(), both[len(created) :].copy()
        paid["action"], paid["time"] = _STATUS["paid"], paid["time"] + rng.integers(3_000, 60_000, len(paid))
        cancelled["action"], cancelled["time"] = _STATUS["cancelled"], cancelled["time"] + 5 * MINUTE_MS
        refunded = paid[rng.random(len(paid)) < 0.08]
        refunded["action"], refunded["amount"] = _STATUS["refunded"], refunded["amount"] // 2
        refunded["time"] += rng.integers(MINUTE_MS, 10 * MINUTE_MS, len(refunded))
        return [both, paid, cancelled, refunded]

    def _clicks_before(self, events: Events) -> Events:
        """The click on its product before each order, beside those of `_visits` that lead to none."""
        orders = events[(events["kind"] == ORDER) & (events["action"] == _STATUS["created"]) & ~events["copy"]]
        time = orders["time"] - _DECIDE_MS
        clicks = _like_parent(orders, time, ENGAGE, _ACTION["product_click"], item=orders["item"])
        clicks["arrival"] = time + self._clicks_rng.integers(0, _DECIDE_MS, len(clicks))
        clicks["id"] = np.arange(self._next_click, self._next_click + len(clicks))
        self._next_click += len(clicks)
        return clicks

    def _shows(self, opened: list[tuple[int, int, int]]) -> Events:
        """Begin and end of live rooms, told by their creators."""
        room, begin, end = np.array(opened, dtype=np.int64).reshape(-1, 3).T
        user = self.crowd.viewers + np.array(self.rooms.creator, dtype=np.int64)[room]
        events = joined([
            rows(len(opened), kind=ENGAGE, action=_ACTION["live_start"], room=room, user=user, time=begin),
            rows(len(opened), kind=ENGAGE, action=_ACTION["live_end"], room=room, user=user, time=end),
        ])  # fmt: skip
        events["arrival"] = events["time"] + self._delays(len(events))
        events["id"] = self.new_ids(len(events))
        return events

    def _delay_some(self, events: Events, candidates: npt.NDArray[np.intp]) -> None:
        """Send a share of the candidates so much later that their partition's log has long gone on."""
        options = self.options
        share = min(1.0, options.late_share * len(events) / max(1, len(candidates)))
        late = candidates[self._rng.random(len(candidates)) < share]
        events["arrival"][late] += options.out_of_orderness_ms + self._rng.integers(20_000, 240_000, len(late))

    def _with_faults(self, events: Events) -> Events:
        """These events and a second copy of some, sent half a second to two minutes after the first."""
        copies = events[self._rng.random(len(events)) < self.options.duplicate_share]
        copies["copy"] = True
        copies["arrival"] += self._rng.integers(500, 120_000, len(copies))
        return joined([events, copies])


def _like_parent(parents: Events, time: Int64s, kind: int, action: int, **columns: Any) -> Events:  # noqa: ANN401
    """Events of the same users on the same video or room."""
    video = np.where(parents["room"] >= 0, -1, parents["video"])
    return rows(len(parents), user=parents["user"], video=video, room=parents["room"], channel=parents["channel"],
                time=time, kind=kind, action=action, **columns)  # fmt: skip


def _further_reports(entries: Events, watched: Int64s) -> Events:
    """Continued reports of stays: each at most 60 s long, its time the start of its interval.

    What an entry itself reported (`watch`) comes off `watched` first.
    """
    rest = np.maximum(0, watched - entries["watch"])
    counts = (rest + MINUTE_MS - 1) // MINUTE_MS
    parent = np.repeat(np.arange(len(entries)), counts)
    number = np.arange(len(parent)) - np.repeat(np.cumsum(counts) - counts, counts)
    reports = entries[parent]
    reports["continued"], reports["trend"] = True, entries["trend"][parent]
    reports["time"] = entries["time"][parent] + entries["watch"][parent] + number * MINUTE_MS
    reports["watch"] = np.minimum(MINUTE_MS, rest[parent] - number * MINUTE_MS)
    reports["video"] = np.where(reports["room"] >= 0, -1, reports["video"])
    return reports
