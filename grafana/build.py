"""Boards → Grafana's dashboard JSON, by the models of grafana-foundation-sdk: no field that Grafana lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, dashboard

from grafana.model import LANGUAGES, Board, Language, Panel, Text, Variable
from grafana.panel_options import field_config, options, transformations
from grafana.targets import ANNOTATION_SQL, PROMETHEUS, clickhouse, prometheus, source
from grafana.words import OPTIONS

GRID_WIDTH: Final = 24
ALL: Final = "$__all"
_SOURCE_LABEL: Final = Text("Data source", "数据源")
_METRICS_LABEL: Final = Text("Metrics source", "指标数据源")
_ANOMALIES: Final = Text("Anomalies", "异常")
_ALL: Final = Text("All", "全部")
_BOARDS: Final = Text("Boards", "看板")


def text_of(board: Board, language: Language) -> str:
    """The file of a board."""
    return json.dumps(built(board, language), cls=JSONEncoder, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def plain(board: Board, language: Language = "en") -> dict[str, Any]:
    """The board as JSON values."""
    found: dict[str, Any] = json.loads(text_of(board, language))
    return found


def files(boards: tuple[Board, ...]) -> Iterator[tuple[str, str]]:
    """Path under grafana/ and content of each dashboard file."""
    for language in LANGUAGES:
        for board in boards:
            yield f"dashboards/{language}/{board.uid}.json", text_of(board, language)


def built(board: Board, language: Language) -> dashboard.Dashboard:
    """The SDK's model of a board."""
    return dashboard.Dashboard(
        uid=board.uid,
        title=f"LivePulse · {board.title.of(language)}",
        description=board.description.of(language),
        tags=["livepulse", f"clock:{board.clock}"],
        timezone="browser",
        editable=False,
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        time=dashboard.DashboardDashboardTime(from_val=board.range_from, to="now"),
        timepicker=dashboard.TimePickerConfig(refresh_intervals=["5s", "10s", "30s", "1m", "5m"]),
        refresh=board.refresh,
        week_start="monday",
        panels=list(_panels(board, language)),
        templating=dashboard.DashboardDashboardTemplating(list_val=list(_variables(board, language))),
        annotations=dashboard.AnnotationContainer(list_val=[_annotation(language)]),
        links=[
            dashboard.DashboardLink(
                title=_BOARDS.of(language),
                type_val=dashboard.DashboardLinkType.DASHBOARDS,
                tags=["livepulse"],
                as_dropdown=True,
                keep_time=True,
                icon="dashboard",
            )
        ],
    )


def _panels(board: Board, language: Language) -> Iterator[dashboard.Panel | dashboard.RowPanel]:
    """Rows and panels, left to right and top to bottom."""
    top, number = 0, 0
    for row in board.rows:
        number += 1
        yield dashboard.RowPanel(
            title=row.title.of(language),
            id_val=number,
            grid_pos=dashboard.GridPos(h=1, w=GRID_WIDTH, x=0, y=top),
            panels=[],
        )
        top += 1
        left, height = 0, 0
        for panel in row.panels:
            if left + panel.width > GRID_WIDTH:
                top, left, height = top + height, 0, 0
            number += 1
            yield _panel(panel, language, number, dashboard.GridPos(h=panel.height, w=panel.width, x=left, y=top))
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel, language: Language, number: int, place: dashboard.GridPos) -> dashboard.Panel:
    targets: list[Dataquery]
    if panel.kind == "text":
        targets, ref = [], None
    elif panel.expr:
        targets, ref = [prometheus(panel, language)], source(PROMETHEUS)
    else:
        targets, ref = [clickhouse(panel)], source()
    return dashboard.Panel(
        type_val=panel.kind,
        id_val=number,
        title=panel.title.of(language),
        description=panel.description.of(language),
        grid_pos=place,
        datasource=ref,
        targets=targets,
        options=options(panel, language),
        field_config=field_config(panel, language),
        transformations=transformations(panel),
        max_data_points=1_000 if panel.is_series else None,
    )


def _variables(board: Board, language: Language) -> Iterator[dashboard.VariableModel]:
    yield _source_variable("datasource", _SOURCE_LABEL.of(language), "grafana-clickhouse-datasource")
    if any(panel.expr for panel in board.panels):
        yield _source_variable(PROMETHEUS, _METRICS_LABEL.of(language), "prometheus")
    for variable in board.variables:
        yield _query_variable(variable, language) if variable.sql else _custom_variable(variable, language)


def _source_variable(name: str, label: str, plugin: str) -> dashboard.VariableModel:
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.DATASOURCE, name=name, label=label, query=plugin,
        hide=dashboard.VariableHide.DONT_HIDE, refresh=dashboard.VariableRefresh.ON_DASHBOARD_LOAD,
    )  # fmt: skip


def _query_variable(variable: Variable, language: Language) -> dashboard.VariableModel:
    chosen = (
        dashboard.VariableOption(text=_ALL.of(language), value=ALL)
        if variable.many and variable.starts_with_all
        else None
    )
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.QUERY,
        name=variable.name,
        label=variable.label.of(language),
        datasource=source(),
        query=variable.sql,
        definition=variable.sql,
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        multi=variable.many,
        include_all=variable.many,
        current=chosen,
        sort=dashboard.VariableSort.DISABLED,
    )


def _custom_variable(variable: Variable, language: Language) -> dashboard.VariableModel:
    words = OPTIONS.get(variable.name, {})
    texts = {value: words[value].of(language) if value in words else value for value in variable.options}
    named = [value if text == value else f"{text} : {value}" for value, text in texts.items()]
    choices = [
        dashboard.VariableOption(text=text, value=value, selected=value == variable.options[0])
        for value, text in texts.items()
    ]
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.CUSTOM, name=variable.name, label=variable.label.of(language),
        query=",".join(named), options=choices, current=choices[0], include_all=False, multi=False,
    )  # fmt: skip


def _annotation(language: Language) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery(
        name=_ANOMALIES.of(language),
        datasource=common.DataSourceRef(type_val="grafana-clickhouse-datasource", uid="${datasource}"),
        enable=True,
        icon_color="#D55E00",
        target=clickhouse(Panel("table", _ANOMALIES, _ANOMALIES, ANNOTATION_SQL)),
    )
