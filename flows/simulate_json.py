"""Simulated events as the JSON of the contract (EVENTS.md), and messages that are bad on purpose."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flows.simulate_traffic import Events, Traffic, tagged_codes
from flows.simulate_world import CATEGORIES, CHANNELS, GIFTS, product_number, topic_name
from schemas.events import AD, AD_ACTIONS, ENGAGE, ENGAGE_ACTIONS, GIFT, LIKE, ORDER, ORDER_STATUSES, TOPICS, VIEW


class JsonWriter:
    """Writes events of one world. `with_topic`: each object names its topic, as files of events do.

    Lists of texts are indexed by the events' codes; where a code may be −1, the last text stands for "none".
    """

    def __init__(self, traffic: Traffic, id_prefix: str, *, with_topic: bool) -> None:
        self._traffic, self._id_prefix = traffic, id_prefix
        self._topics = [f'","topic":"{name}","event_time":' if with_topic else '","event_time":' for name in TOPICS]
        crowd, catalogue = traffic.crowd, traffic.catalogue
        self._users = crowd.fragments()
        self.keys = [f"u{i}" for i in range(crowd.viewers)] + [f"c{i}" for i in range(len(crowd.zone) - crowd.viewers)]
        self._videos = [f'"video_id":"v{i}","creator_id":"c{c}"' for i, c in enumerate(catalogue.creator.tolist())]
        self._durations = catalogue.duration_ms.tolist()
        self._about = [
            _about(c, *tags) for c, tags in zip(catalogue.category.tolist(), catalogue.tags.tolist(), strict=True)
        ]
        self._rooms: list[str] = []
        self._about_rooms: list[str] = []
        self._trends = ["]"]
        self._channels = [*(f',"channel":"{name}"' for name in CHANNELS), ""]
        self._bodies = (  # events of one form have the same JSON members; `_forms` tells the form
            self._video_view, self._video_view,  # first report, continued
            self._room_entry, self._room_stay,
            self._like, self._like,  # of a video, in a room
            self._gift, self._order,
            self._engage, self._engage,  # of a video, in a room
            self._tagged_engage, self._tagged_engage,
            self._ad,
        )  # fmt: skip

    def write(self, events: Events) -> list[str]:
        """One JSON object each, in the order of `events`."""
        self._learn()
        columns = {name: events[name].tolist() for name in ("kind", "id", "time", "user", "channel")}
        users, channels, topics, start = self._users, self._channels, self._topics, f'{{"event_id":"{self._id_prefix}'
        texts = [
            f"{start}{number}{topics[kind]}{time},{users[user]}{channels[channel]}"
            for kind, number, time, user, channel in zip(*columns.values(), strict=True)
        ]
        form = _forms(events)
        for index, body in enumerate(self._bodies):
            places = np.flatnonzero(form == index)
            if len(places):
                for place, tail in zip(places.tolist(), body(events[places]), strict=True):
                    texts[place] += tail
        return texts

    def _learn(self) -> None:
        """Texts of rooms and planted topics that came since the last call."""
        rooms, trends = self._traffic.rooms, self._traffic.trends.all
        for i in range(len(self._rooms), len(rooms.creator)):
            self._rooms.append(f'"live_id":"l{i}","creator_id":"c{rooms.creator[i]}"')
            self._about_rooms.append(_about(rooms.category[i], *rooms.tags[i]))
        self._trends[:-1] = [f',"{trend.topic}"]' for trend in trends]

    def _target(self, events: Events) -> list[str]:
        """The video or room that each event is about (of these events all are about one or all about the other)."""
        if events["room"][0] >= 0:
            return [self._rooms[room] for room in events["room"].tolist()]
        return [self._videos[video] for video in events["video"].tolist()]

    def _described(self, events: Events) -> list[str]:
        """The target with its category and tags, among them the planted topic."""
        if events["room"][0] >= 0:
            rooms, about = self._rooms, self._about_rooms
            return [f"{rooms[room]},{about[room]}]" for room in events["room"].tolist()]
        videos, about, trends = self._videos, self._about, self._trends
        codes = zip(events["video"].tolist(), events["trend"].tolist(), strict=True)
        return [f"{videos[video]},{about[video]}{trends[trend]}" for video, trend in codes]

    def _video_view(self, events: Events) -> list[str]:
        end = ',"continued":true}' if events["continued"][0] else "}"
        durations = self._durations
        columns = zip(self._described(events), events["watch"].tolist(), events["video"].tolist(), strict=True)
        return [f',"surface":"video",{about},"watch_ms":{watch},"duration_ms":{durations[video]}{end}'
                for about, watch, video in columns]  # fmt: skip

    def _room_entry(self, events: Events) -> list[str]:
        columns = zip(self._described(events), events["watch"].tolist(), events["video"].tolist(), strict=True)
        return [
            f',"surface":"live",{about},"watch_ms":{watch},"from_video_id":"v{video}"}}'
            for about, watch, video in columns
        ]

    def _room_stay(self, events: Events) -> list[str]:
        columns = zip(self._described(events), events["watch"].tolist(), strict=True)
        return [f',"surface":"live",{about},"watch_ms":{watch},"continued":true}}' for about, watch in columns]

    def _like(self, events: Events) -> list[str]:
        return [f",{about}}}" for about in self._described(events)]

    def _gift(self, events: Events) -> list[str]:
        columns = (self._target(events), *(events[name].tolist() for name in ("action", "quantity", "amount")))
        return [f',{target},"gift_id":"{GIFTS[gift][0]}","quantity":{quantity},"amount_minor":{amount}}}'
                for target, gift, quantity, amount in zip(*columns, strict=True)]  # fmt: skip

    def _order(self, events: Events) -> list[str]:
        category = self._traffic.rooms.category
        columns = (
            self._target(events),
            *(events[name].tolist() for name in ("room", "item", "action", "quantity", "amount")),
        )
        return [f',{target},"category":"{CATEGORIES[category[room]]}","order_id":"o{item}",'
                f'"product_id":"p{product_number(room, item)}","status":"{ORDER_STATUSES[status]}",'
                f'"quantity":{quantity},"amount_minor":{amount},"currency":"CNY"}}'
                for target, room, item, status, quantity, amount in zip(*columns, strict=True)]  # fmt: skip

    def _engage(self, events: Events) -> list[str]:
        columns = (self._target(events), *(events[name].tolist() for name in ("action", "room", "item")))
        return [f',"action":"{ENGAGE_ACTIONS[action]}",{target}{_clicked(action, room, item)}}}'
                for target, action, room, item in zip(*columns, strict=True)]  # fmt: skip

    def _tagged_engage(self, events: Events) -> list[str]:
        columns = zip(self._described(events), events["action"].tolist(), strict=True)
        return [f',"action":"{ENGAGE_ACTIONS[action]}",{about}}}' for about, action in columns]

    def _ad(self, events: Events) -> list[str]:
        money = {"impression": ',"cost_minor":{}', "click": "", "conversion": ',"value_minor":{}'}
        columns = zip(*(events[name].tolist() for name in ("action", "item", "amount")), strict=True)
        return [f',"action":"{AD_ACTIONS[action]}","ad_id":"a{ad}","campaign_id":"k{ad % 7}"'
                f"{money[AD_ACTIONS[action]].format(amount)}}}" for action, ad, amount in columns]  # fmt: skip


_CLICK: Final = ENGAGE_ACTIONS.index("product_click")


def _clicked(action: int, room: int, item: int) -> str:
    return f',"product_id":"p{product_number(room, item)}"' if action == _CLICK else ""


_FIRST_FORM: Final = {VIEW: 0, LIKE: 4, GIFT: 6, ORDER: 7, ENGAGE: 8, AD: 12}


def _forms(events: Events) -> npt.NDArray[np.int8]:
    """Form of each event: events of one form have the same JSON members."""
    kind, room = events["kind"], (events["room"] >= 0).astype(np.int8)
    form: npt.NDArray[np.int8] = np.array([_FIRST_FORM[k] for k in range(len(TOPICS))], dtype=np.int8)[kind]
    form += np.where(kind == VIEW, 2 * room + events["continued"], 0).astype(np.int8)
    form += np.where(kind == LIKE, room, 0).astype(np.int8)
    form += np.where(kind == ENGAGE, room + 2 * np.isin(events["action"], tagged_codes()), 0).astype(np.int8)
    return form


def _about(category: int, first: int, second: int) -> str:
    return f'"category":"{CATEGORIES[category]}","tags":["{topic_name(first)}","{topic_name(second)}"'


@dataclass(frozen=True, slots=True)
class Bad:
    """A class of message that must be rejected. `make(members)` gets valid members, such as `"event_id":"…",…`."""

    topic: str
    make: Callable[[str], bytes | None]
    framed: bool = False  # no JSON object with a topic in it: in a file nobody can tell where it belongs
    in_files: bool = True  # fits on one line


_VIEW: Final = ',"surface":"video","video_id":"v1","creator_id":"c1"'
_GIFT: Final = ',"live_id":"l1","creator_id":"c1","gift_id":"rose"'


def _with(topic: str, rest: str) -> Bad:
    """An object of the topic with these members beside the common ones."""
    return Bad(topic, lambda members: f"{{{members}{rest}}}".encode())


def _view_with(rest: str) -> Bad:
    return _with("view", _VIEW + rest)


def _gift_with(rest: str) -> Bad:
    return _with("gift", _GIFT + rest)


def _invalid_utf8(members: str) -> bytes:
    return f"{{{members}{_VIEW}".encode() + b',"watch_ms":5,"region":"\xff\xfe"}'


def _replaced(name: str, value: str) -> Bad:
    """A valid view in which a common member (id or time) has another value."""
    return Bad("view", lambda members: f'{{{_without(members, name)}"{name}":{value}{_VIEW},"watch_ms":5}}'.encode())


def _without(members: str, name: str) -> str:
    return "".join(f"{member}," for member in members.split(",") if not member.startswith(f'"{name}"'))


BAD: Final[dict[str, Bad]] = {
    "tombstone": Bad("view", lambda _: None, framed=True, in_files=False),
    "empty": Bad("like", lambda _: b"", framed=True, in_files=False),
    "gzip": Bad("view", lambda members: gzip.compress(members.encode(), mtime=0), framed=True, in_files=False),
    "null": Bad("view", lambda _: b"null", framed=True),
    "array": Bad("view", lambda members: f"[{{{members}}}]".encode(), framed=True),
    "truncated": Bad("view", lambda members: f"{{{members}{_VIEW},".encode(), framed=True),
    "two_documents": Bad("like", lambda members: f"{{{members}}}{{{members}}}".encode(), framed=True),
    "invalid_utf8": Bad("view", _invalid_utf8, framed=True),
    "missing_watch": _view_with(""),
    "null_watch": _view_with(',"watch_ms":null'),
    "text_watch": _view_with(',"watch_ms":"5000"'),
    "negative_watch": _view_with(',"watch_ms":-5'),
    "long_watch": _view_with(',"watch_ms":86400001'),
    "huge_watch": _view_with(',"watch_ms":9223372036854775808'),
    "unknown_surface": _with("view", ',"surface":"vr","video_id":"v1","creator_id":"c1","watch_ms":5'),
    "object_for_id": _with("view", ',"surface":"video","video_id":{},"creator_id":"c1","watch_ms":5'),
    "negative_money": _gift_with(',"quantity":1,"amount_minor":-1'),
    "zero_quantity": _gift_with(',"quantity":0,"amount_minor":100'),
    "unknown_status": _with("order", ',"order_id":"o","status":"lost","product_id":"p1","quantity":1,"amount_minor":5'),
    "unknown_action": _with("engage", ',"action":"wink","video_id":"v1"'),
    "unknown_version": _view_with(',"watch_ms":5,"v":99'),
    "unknown_zone": _view_with(',"watch_ms":5,"tz":"Mars/Olympus"'),
    "empty_id": _replaced("event_id", '""'),
    "long_id": _replaced("event_id", f'"{"x" * 65}"'),
    "time_without_zone": _replaced("event_time", '"2026-01-05T12:00:00"'),
    "thirtieth_of_february": _replaced("event_time", '"2026-02-30T12:00:00Z"'),
    "epoch_zero": _replaced("event_time", "0"),
    "seconds_for_ms": _replaced("event_time", "1767571200"),
    "far_future": _replaced("event_time", "4900000000000"),
}  # fmt: skip
"""Bad messages by class. Each is rejected wherever it is read and whatever the clock says."""


def bad_classes(*, in_files: bool) -> list[str]:
    """Classes that can be sent (or written to a file), in a fixed order."""
    return [name for name, bad in BAD.items() if bad.in_files or not in_files]


def bad_message(name: str, event_id: str, time: int, user: str, *, with_topic: bool) -> bytes | None:
    """The bytes of one bad message of the class (None: a null value)."""
    topic = f',"topic":"{BAD[name].topic}"' if with_topic else ""
    return BAD[name].make(f'"event_id":"{event_id}","event_time":{time},"user_id":"{user}"{topic}')
