"""What is measured in a live room, stated once: the kernels' columns, the tables' and the comments derive from it.

A *session* is one live room: its `live_id`. Its events are all accepted events with that `live_id` but ads and views of
a video. Time is cut into *steps* of 10 s and minutes (UTC); every measure is a function of the events alone:

- A view on `live` is a *report* of a stay: it covers `[event_time, event_time + watch_ms)` (10 min of it at most; a
  report comes at least every 60 s) and is made at its end.
- A user was *present* in a step when one of its reports covers any part of it; a report of `watch_ms = 0` covers its
  own instant. PCU = the greatest number of users present in one step (the greatest overlap of viewing intervals, at a
  resolution of 10 s).
- A user is *watching* at an instant (a multiple of 10 s) when it made a report in the 90 s before it.
- Users, buyers, orders … are exactly distinct within the room. In minutes each is counted in the minute of its first
  event of that sort in the room, so that minutes add up to the room. A first event is remembered for a day (setting
  `session_memory`), of an order for 10 days (`room_memory`); one that comes later than that counts anew.
- Entering is the first view in the room that is no continued report; that view's `channel` is the user's source (of two
  in one millisecond the one with the lesser hash).
- The room starts with its first `live_start`, else with its first event. It ends with its last `live_end` unless a
  later `live_start` re-opened it, or after 5 min with no event and nobody's report covering; it then ended when that
  silence began. Orders that go on to be paid, cancelled, refunded or redeemed are no sign of life.

Compiled code holds these numbers; `schemas.decode_compile` keeps it under a digest of every text that names it, as this
one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MINUTE_MS: Final = 60_000
STEP_MS: Final = 10_000
STEPS: Final = MINUTE_MS // STEP_MS
"""Steps of a minute."""
PART_MS: Final = 86_400_000
"""A room's figures are kept by UTC day, so that an order refunded weeks later needs nothing of the days before."""
REPORT_MS_MAX: Final = 600_000
"""Most of one report's `watch_ms` that counts as presence (all of it counts as time watched)."""
WATCHING_MS: Final = 90_000
SILENCE_MS: Final = 300_000


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a room that adds up over minutes, days and shards."""

    name: str
    comment: str
    is_money: bool = False


MEASURES: Final = (
    Measure("events", "Accepted events in the room"),
    Measure("views", "Views of the room, continued reports left out"),
    Measure("watch_ms", "Time watched, in ms"),
    Measure("exposures", "live_exposure events: the room was shown to somebody outside of it"),
    Measure("exposed_users", "Users that the room was shown to"),
    Measure("entered_users", "Users who entered: their first view in the room"),
    Measure("entered_from_video", "Those of entered_users who came by way of a video"),
    Measure("likes", "Likes"),
    Measure("comments", "Comments"),
    Measure("shares", "Shares"),
    Measure("follows", "Follows"),
    Measure("followers", "Users who followed"),
    Measure("unfollows", "Unfollows"),
    Measure("gifts", "Gifts, by quantity"),
    Measure("gifters", "Users who gave"),
    Measure("gift_amount_minor", "Money of gifts, in minor units of the platform's currency", is_money=True),
    Measure("product_clicks", "Clicks on products"),
    Measure("clickers", "Users who clicked a product"),
    Measure("orders_created", "Orders created (order_id)"),
    Measure("gmv_created_minor", "Money of orders created, in minor units of the platform's currency", is_money=True),
    Measure("orders", "Orders paid (order_id)"),
    Measure("buyers", "Users who paid an order"),
    Measure("gmv_minor", "GMV: money of orders paid, in minor units of the platform's currency", is_money=True),
    Measure("orders_refunded", "Orders refunded, in whole or in part (order_id)"),
    Measure("gmv_refunded_minor", "Money refunded, in minor units of the platform's currency", is_money=True),
    Measure("other_currency_events", "Gifts and orders in other currencies: counted, but their money is not summed"),
)
"""Sums of a room and minute."""

(
    EVENTS, VIEWS, WATCH, EXPOSURES, EXPOSED, ENTERED, FROM_VIDEO, LIKES, COMMENTS, SHARES, FOLLOWS, FOLLOWERS,
    UNFOLLOWS, GIFTS, GIFTERS, GIFT_AMOUNT, CLICKS, CLICKERS, ORDERS_CREATED, GMV_CREATED, ORDERS, BUYERS, GMV,
    ORDERS_REFUNDED, GMV_REFUNDED, OTHER_CURRENCY,
) = range(len(MEASURES))  # fmt: skip

VIEWERS: Final = len(MEASURES)  # users present in the minute
PRESENT: Final = VIEWERS + 1  # and the next: users present in each step of the minute
WATCHING: Final = PRESENT + STEPS  # users watching at the end of each step
FIRST_EVENT: Final = WATCHING + STEPS  # least and greatest times; `NEVER` and −`NEVER` without one
FIRST_START: Final = FIRST_EVENT + 1
LAST_START: Final = FIRST_EVENT + 2
LAST_END: Final = FIRST_EVENT + 3
LAST_ACTIVE: Final = FIRST_EVENT + 4
ROOM_WIDTH: Final = FIRST_EVENT + 5
"""Columns of an increment of a room and minute."""

NEVER: Final = 1 << 62

PRODUCT_MEASURES: Final = (
    Measure("product_clicks", "Clicks on the product in the room"),
    Measure("clickers", "Users who clicked it"),
    Measure("orders_created", "Orders created with it (order_id)"),
    Measure("gmv_created_minor", "Money of its order lines created, in minor units", is_money=True),
    Measure("orders", "Orders paid with it (order_id)"),
    Measure("buyers", "Users who paid for it"),
    Measure("quantity", "Pieces paid"),
    Measure("gmv_minor", "GMV: money of its order lines paid, in minor units", is_money=True),
    Measure("orders_refunded", "Orders with it refunded, in whole or in part (order_id)"),
    Measure("gmv_refunded_minor", "Money of its order lines refunded, in minor units", is_money=True),
    Measure("other_currency_events", "Its order lines in other currencies, whose money is not summed"),
)
"""Sums of a room, a product and a day."""

(
    P_CLICKS, P_CLICKERS, P_ORDERS_CREATED, P_GMV_CREATED, P_ORDERS, P_BUYERS, P_QUANTITY, P_GMV, P_ORDERS_REFUNDED,
    P_GMV_REFUNDED, P_OTHER_CURRENCY,
) = range(len(PRODUCT_MEASURES))  # fmt: skip

SOURCE_MEASURES: Final = (
    Measure("entered_users", "Users who entered the room from this source"),
    Measure("entered_from_video", "Those of them who came by way of a video"),
)
"""Sums of a room, a source and a day."""
