"""How panels of each type look: options, field configuration and transformations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from grafana_foundation_sdk.models import (
    barchart,
    bargauge,
    common,
    dashboard,
    heatmap,
    piechart,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)

from grafana.model import Column, Language, Panel
from grafana.palette import BLUE
from grafana.words import columns_of, values_of

_LEGEND = common.VizLegendOptions(
    display_mode=common.LegendDisplayMode.LIST, placement=common.LegendPlacement.BOTTOM, show_legend=True, calcs=[]
)
_TOOLTIP = common.VizTooltipOptions(mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING)


def options(panel: Panel, language: Language) -> object:
    """The panel type's own options."""
    each_row = common.ReduceDataOptions(values=True, calcs=["lastNotNull"], fields="", limit=50)
    made: dict[str, Any] = {
        "stat": lambda: stat.Options(
            graph_mode=common.BigValueGraphMode.NONE,
            color_mode=common.BigValueColorMode.VALUE,
            text_mode=common.BigValueTextMode.VALUE,
            justify_mode=common.BigValueJustifyMode.AUTO,
            reduce_options=common.ReduceDataOptions(
                values=False, calcs=["lastNotNull"], fields="/.*/" if panel.unit == "string" else ""
            ),
        ),
        "timeseries": lambda: timeseries.Options(legend=_LEGEND, tooltip=_TOOLTIP),
        "barchart": lambda: barchart.Options(
            orientation=common.VizOrientation.AUTO,
            legend=_hidden_legend(),
            tooltip=_TOOLTIP,
            show_value=common.VisibilityMode.AUTO,
            stacking=common.StackingMode.NONE,
        ),
        "piechart": lambda: piechart.Options(
            pie_type=piechart.PieChartType.DONUT,
            reduce_options=each_row,
            display_labels=[piechart.PieChartLabels.PERCENT],
            tooltip=_TOOLTIP,
            legend=piechart.PieChartLegendOptions(
                display_mode=common.LegendDisplayMode.LIST, placement=common.LegendPlacement.RIGHT, show_legend=True,
                values=[], calcs=[],
            ),
        ),
        "table": lambda: table.Options(show_header=True, cell_height=common.TableCellHeight.SM),
        "heatmap": lambda: heatmap.Options(
            calculate=False,
            color=heatmap.HeatmapColorOptions(
                mode=heatmap.HeatmapColorMode.SCHEME, scheme="Cividis", steps=64, exponent=0.5, fill=BLUE
            ),
            cell_gap=1,
        ),
        "bargauge": lambda: bargauge.Options(
            display_mode=common.BarGaugeDisplayMode.GRADIENT,
            orientation=common.VizOrientation.HORIZONTAL,
            reduce_options=each_row,
            show_unfilled=True,
        ),
        "state-timeline": lambda: statetimeline.Options(
            merge_values=True, show_value=common.VisibilityMode.NEVER, row_height=0.8, legend=_LEGEND, tooltip=_TOOLTIP
        ),
        "text": lambda: text.Options(
            mode=text.TextMode.MARKDOWN, content=panel.content.of(language) if panel.content else ""
        ),
    }  # fmt: skip
    return made[panel.kind]()


def _hidden_legend() -> common.VizLegendOptions:
    return common.VizLegendOptions(
        display_mode=common.LegendDisplayMode.LIST, placement=common.LegendPlacement.BOTTOM, show_legend=False, calcs=[]
    )


def field_config(panel: Panel, language: Language) -> dashboard.FieldConfigSource:
    """Unit, thresholds, colours, no-data text; a column's own settings as overrides."""
    steps = [dashboard.Threshold(value=step.value, color=step.colour) for step in panel.thresholds]
    by_threshold = panel.kind == "stat"
    mode = dashboard.FieldColorModeId.THRESHOLDS if by_threshold else dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME
    defaults = dashboard.FieldConfig(
        unit=panel.unit,
        decimals=panel.decimals,
        min_val=panel.low if panel.kind in ("timeseries", "barchart", "bargauge") else None,
        no_value=panel.no_value.of(language),
        color=dashboard.FieldColor(mode=mode),
        thresholds=dashboard.ThresholdsConfig(
            mode=dashboard.ThresholdsMode.ABSOLUTE, steps=steps or [dashboard.Threshold(value=None, color=BLUE)]
        ),
        mappings=_mappings(panel, language) if panel.kind not in ("table", "text") else None,
        custom=_custom(panel),
    )
    overrides = [_coloured(name, colour) for name, colour in panel.colours.items() if panel.kind != "state-timeline"]
    overrides += [_named(name, text) for name, text in _names(panel, language).items()]
    overrides += [_column(panel, name, column, language) for name, column in panel.columns.items()]
    return dashboard.FieldConfigSource(defaults=defaults, overrides=overrides)


def _custom(panel: Panel) -> object | None:
    if panel.kind == "timeseries":
        stacking = common.StackingMode.NORMAL if panel.stacked else common.StackingMode.NONE
        return common.GraphFieldConfig(
            draw_style=common.GraphDrawStyle.BARS if panel.bars else common.GraphDrawStyle.LINE,
            line_width=2,
            fill_opacity=80 if panel.bars else 40 if panel.stacked else 8,
            show_points=common.VisibilityMode.NEVER,
            span_nulls=False,
            stacking=common.StackingConfig(mode=stacking, group="A"),
        )
    return None


def _mappings(panel: Panel, language: Language) -> list[dashboard.ValueMapping] | None:
    """Texts of a chart in its language; states with their colours."""
    words = {name: text.of(language) for texts in values_of(panel).values() for name, text in texts.items()}
    if panel.kind == "state-timeline":
        return [_mapped({name: words.get(name, name) for name in panel.colours}, panel.colours)]
    return [_mapped(words)] if words else None


def _mapped(words: Mapping[str, str], colours: Mapping[str, str] | None = None) -> dashboard.ValueMap:
    shown = {
        name: dashboard.ValueMappingResult(text=text, color=(colours or {}).get(name), index=at)
        for at, (name, text) in enumerate(words.items())
    }
    return dashboard.ValueMap(options=shown)


def _names(panel: Panel, language: Language) -> dict[str, str]:
    """What series are called: columns, and values that split them."""
    texts = dict(columns_of(panel))
    if panel.kind == "timeseries":
        for words in values_of(panel).values():
            texts.update(words)
    return {name: text.of(language) for name, text in texts.items() if text.of(language) != name}


def _named(name: str, text: str) -> dashboard.DashboardFieldConfigSourceOverrides:
    return _override(name, [dashboard.DynamicConfigValue(id_val="displayName", value=text)])


def _coloured(name: str, colour: str) -> dashboard.DashboardFieldConfigSourceOverrides:
    fixed = {"mode": "fixed", "fixedColor": colour}
    return _override(name, [dashboard.DynamicConfigValue(id_val="color", value=fixed)])


def _column(
    panel: Panel, name: str, column: Column, language: Language
) -> dashboard.DashboardFieldConfigSourceOverrides:
    properties = [dashboard.DynamicConfigValue(id_val="displayName", value=column.title.of(language))]
    if words := values_of(panel).get(name):
        mapped = _mapped({value: text.of(language) for value, text in words.items()})
        properties.append(dashboard.DynamicConfigValue(id_val="mappings", value=[mapped]))
    if column.unit:
        properties.append(dashboard.DynamicConfigValue(id_val="unit", value=column.unit))
    if column.decimals is not None:
        properties.append(dashboard.DynamicConfigValue(id_val="decimals", value=column.decimals))
    if column.heat:
        properties.append(dashboard.DynamicConfigValue(id_val="color", value={"mode": "continuous-blues"}))
        cell = {"type": "color-background", "mode": "basic"}
        properties.append(dashboard.DynamicConfigValue(id_val="custom.cellOptions", value=cell))
    if column.link:
        chosen = f"var-{quote(column.as_variable)}=${{__value.raw:percentencode}}&" if column.as_variable else ""
        chosen += "".join(f"var-{name}=${{__data.fields.{name}:percentencode}}&" for name in column.and_columns)
        target = f"/d/{quote(column.link)}?{chosen}${{__url_time_range}}"
        link = {"title": column.title.of(language), "url": target}
        properties.append(dashboard.DynamicConfigValue(id_val="links", value=[link]))
    return _override(name, properties)


def _override(
    name: str, properties: list[dashboard.DynamicConfigValue]
) -> dashboard.DashboardFieldConfigSourceOverrides:
    return dashboard.DashboardFieldConfigSourceOverrides(
        matcher=dashboard.MatcherConfig(id_val="byName", options=name), properties=properties
    )


def transformations(panel: Panel) -> list[dashboard.DataTransformerConfig] | None:
    """A state timeline needs a field for each entity, a query gives rows."""
    if panel.kind != "state-timeline":
        return None
    return [
        dashboard.DataTransformerConfig(
            id_val="partitionByValues",
            options={"fields": [panel.entity], "keepFields": False, "naming": {"asLabels": False}},
        )
    ]
