"""All boards. Adding one is a declaration and a name here."""

from __future__ import annotations

from typing import Final

from grafana.active_hours import ACTIVE_HOURS
from grafana.anomalies import ANOMALIES
from grafana.engine_health import ENGINE_HEALTH
from grafana.funnels import FUNNELS
from grafana.live_ops import LIVE_OPS
from grafana.live_room import LIVE_ROOM
from grafana.model import Board
from grafana.topics import TOPICS

BOARDS: Final[tuple[Board, ...]] = (LIVE_OPS, LIVE_ROOM, ACTIVE_HOURS, TOPICS, FUNNELS, ANOMALIES, ENGINE_HEALTH)
