"""Colours that people with any colour vision can tell apart (Okabe and Ito), one an entity on every board."""

from __future__ import annotations

from typing import Final

from grafana.model import Threshold

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
VERMILION: Final = "#D55E00"
SKY: Final = "#56B4E9"
PURPLE: Final = "#CC79A7"
YELLOW: Final = "#F0E442"
GREY: Final = "#8C8C8C"

SURFACES: Final = {"video": BLUE, "live": ORANGE, "all": GREY}
STAGES: Final = {
    "emerging": SKY, "growing": GREEN, "peak": ORANGE, "declining": VERMILION, "tail": GREY, "revival": PURPLE,
    "unknown": "#5A5A5A",
}  # fmt: skip
OUTCOMES: Final = {"accepted": GREEN, "duplicate": SKY, "late": ORANGE, "rejected": VERMILION, "filtered": GREY}
SEVERITIES: Final = {"critical": VERMILION, "warning": ORANGE, "info": SKY}
LADDER: Final = {"created": SKY, "paid": GREEN, "refunded": VERMILION, "net": BLUE}


def steady(colour: str) -> tuple[Threshold, ...]:
    """One colour whatever the value."""
    return (Threshold(None, colour),)


def rising(warn: float, bad: float) -> tuple[Threshold, ...]:
    """The higher the worse."""
    return (Threshold(None, GREEN), Threshold(warn, ORANGE), Threshold(bad, VERMILION))
