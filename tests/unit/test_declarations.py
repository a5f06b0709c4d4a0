"""A user's declaration file: what it gives, and errors that name field, value and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.declarations import DeclarationError, Declarations, load, load_all
from schemas.funnels import DAY_MS, HOUR_MS, MINUTE_MS, VIDEO_TO_LIVE
from schemas.heat import TOPIC_HEAT
from schemas.watches import ACTIVITY, ROOMS, Measure

EXAMPLE = Path(__file__).parents[2] / "examples" / "declarations.toml"

FUNNEL = """
[[funnel]]
name = "likes"
hold = "live_id"
enter_within_minutes = 5
finish_within_hours = 1
[[funnel.step]]
name = "enter"
events = [{ topic = "view", where = { surface = "live" } }]
[[funnel.step]]
name = "like"
events = [{ topic = "like" }, { topic = "engage", where = { action = ["comment", "share"] } }]
"""


def _load(tmp_path: Path, text: str) -> Declarations:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return load(path)


def test_the_example_declares_a_funnel_weights_and_dimensions() -> None:
    declared = load(EXAMPLE)
    assert declared.funnels[0] == VIDEO_TO_LIVE
    own = declared.funnels[1]
    assert (own.name, own.hold, own.hold_from, own.units) == (
        "click_to_order", "product_id", 1, ("user", "user_product"),
    )  # fmt: skip
    assert (own.enter_within_ms, own.finish_within_ms, own.remember_ms) == (HOUR_MS, 48 * HOUR_MS, 3 * DAY_MS)
    assert [(s.name, s.optional, s.amount) for s in own.steps] == [
        ("click", False, False), ("order_created", False, False), ("order_paid", False, True),
        ("redeemed", False, False),
    ]  # fmt: skip
    assert own.exclusions[0].events[0].where == {"status": ("cancelled",)}
    (heat,) = declared.heats
    assert (heat.name, heat.half_life_minutes) == (TOPIC_HEAT.name, 180)
    assert heat.weights == {"view": 1.0, "like": 2.0, "engage.comment": 8.0, "engage.share": 12.0}
    assert declared.dimensions == ("surface", "category", "region", "platform", "channel")


def test_an_empty_file_leaves_what_is_built_in(tmp_path: Path) -> None:
    assert _load(tmp_path, "") == Declarations((VIDEO_TO_LIVE,), (TOPIC_HEAT,), None)


def test_several_events_and_values_make_a_step(tmp_path: Path) -> None:
    own = _load(tmp_path, FUNNEL).funnels[1]
    assert own.enter_within_ms == 5 * MINUTE_MS
    assert own.units == ("user", "user_live")
    assert [(m.topic, dict(m.where)) for m in own.steps[1].events] == [
        ("like", {}), ("engage", {"action": ("comment", "share")}),
    ]  # fmt: skip


def test_two_files_add_up_and_may_not_name_one_funnel_twice(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(FUNNEL)
    assert [funnel.name for funnel in load_all([EXAMPLE, path]).funnels] == ["video_to_live", "click_to_order", "likes"]
    with pytest.raises(DeclarationError, match=r"own\.toml.*'likes' is taken; choose another"):
        load_all([path, path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dimensions = [", "cannot be read as TOML"),
        ('dimensions = "region"', "dimensions 'region': a list of texts"),
        ('dimensions = ["regoin"]', "dimensions: 'regoin' is no text field of an event; one of .*region"),
        ('dimensions = ["region", "region"]', "each name once"),
        ("colour = 1", "the file: no field 'colour'; one of dimensions, funnel, heat"),
        ("[funnel]\nname = 'x'", "funnel .*a list of tables"),
        (FUNNEL.replace('name = "likes"', 'name = "Likes"'), "funnel 'Likes': a name has lower-case letters"),
        (FUNNEL.replace('name = "likes"', 'name = "video_to_live"'), "'video_to_live' is taken"),
        (FUNNEL.replace('hold = "live_id"', 'hold = "watch_ms"'), "hold 'watch_ms': one of .*live_id"),
        (FUNNEL.replace('hold = "live_id"', ""), r"funnel\[0\].hold None: a text"),
        (FUNNEL.replace('topic = "view"', 'topic = "views"'), "topic 'views': one of view, like"),
        (FUNNEL.replace('"live" }', '"tv" }'), r"step\[0\].events\[0\].*'surface' of topic 'view': 'tv' is none of"),
        (FUNNEL.replace("surface", "watch_ms"), "field 'watch_ms' of topic 'view'"),
        (FUNNEL.replace("enter_within_minutes = 5", ""), "give enter_within once, as enter_within_minutes"),
        (FUNNEL.replace("= 5", "= -5"), "enter_within_minutes -5: a number, not negative"),
        (FUNNEL.replace("= 5", "= '5'"), "enter_within_minutes '5'"),
        (FUNNEL.replace("hours = 1", "days = 30"), "sum to 20 days at most"),
        (FUNNEL.replace("hours = 1", "hours = 1\nremember_minutes = 30"), "remember .*remember for longer"),
        (FUNNEL.replace("hours = 1", "hours = 1\nhold_from = 3"), "hold_from 3: 1 or 2"),
        (FUNNEL.replace("hours = 1", "hours = 1\nunits = ['user_room']"), "units .*of user and user_live"),
        (FUNNEL.replace("hours = 1", "hours = 1\nsteps = 2"), r"funnel\[0\]: no field 'steps'"),
        (FUNNEL.split("[[funnel.step]]", maxsplit=1)[0], "0 steps; it takes 2 to 8"),
        (FUNNEL.replace('name = "like"', 'name = "enter"'), "each name once"),
        (FUNNEL + "optional = true\n", "steps 1 and 2 make the chain"),
        (FUNNEL + "amount = 1\n", r"step\[1\].amount 1: true or false"),
        ("[[heat]]\nhalf_life = 3", r"heat\[0\]: no field 'half_life'; one of .*half_life_minutes"),
        ("[[heat]]\nhalf_life_minutes = 'long'", r"half_life_minutes 'long': a number"),
        ("[[heat]]\nweights = { view = 'much' }", "weights .*a table of numbers"),
        ("[[heat]]\nweights = { views = 1 }", "nothing is called 'views'"),
        ("[[heat]]\nranked = 1.5", "ranked 1.5: a number"),
        ("[[heat]]\n[[heat]]\n", r"heat\[1\].name 'heat' is taken"),
    ],
)
def test_an_error_names_file_field_value_and_what_would_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=r"own\.toml: .*" + message.replace("\n", " ")):
        _load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"none\.toml: cannot be read"):
        load(tmp_path / "none.toml")


def test_further_measures_are_watched() -> None:
    activity, rooms = load(EXAMPLE).watches
    assert activity == ACTIVITY
    assert rooms == ROOMS.with_measures(
        (
            Measure("gift_amount_minor", counted=False, column="gift_amount_minor"),
            Measure("gifter_share", counted=False, column="gifters", over="entered_users"),
        )
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('view = "funnel"\nname = "x"', "one of active_users, live_session_minutes"),
        ('view = "active_users"\nname = "nobody"', r"watch\[0\]: active_users has no columns \['nobody'\]"),
        ('view = "active_users"\nname = "users"', "named twice"),
        ('view = "active_users"\nname = "x"\nmeasure = "users"', "no field 'measure'"),
        ('view = "active_users"', r"watch\[0\].name None: a text"),
    ],
)
def test_a_watch_that_cannot_be_says_what_would_do(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        _load(tmp_path, f"[[watch]]\n{text}\n")
