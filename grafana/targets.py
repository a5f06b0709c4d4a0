"""Queries of panels, as the ClickHouse plugin and Prometheus take them."""

from __future__ import annotations

from typing import Any, Final

from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import prometheus as sdk_prometheus

from grafana.model import Language, Panel

PLUGIN: Final = "grafana-clickhouse-datasource"
PLUGIN_VERSION: Final = "4.20.0"  # without it the plugin migrates a query as one of version 3
PROMETHEUS: Final = "metrics"
"""Name of the variable that chooses the Prometheus data source."""

ANNOTATION_SQL: Final = (
    "SELECT window_start AS time, explanation AS text, concat(severity, ',', kind, ',', route) AS tags FROM anomalies "
    "WHERE $__timeFilter(window_start) AND severity != 'info' AND state != 'merged' ORDER BY time DESC LIMIT 100"
)


class ClickHouseQuery(Dataquery):
    """A query of the ClickHouse plugin 4.x, which the SDK does not know."""

    def __init__(self, sql: str, *, series: bool) -> None:
        self.sql, self.series = sql, series

    def to_json(self) -> dict[str, Any]:
        """As the plugin's editor saves it."""
        return {
            "refId": "A",
            "datasource": {"type": PLUGIN, "uid": "${datasource}"},
            "editorType": "sql",
            "rawSql": self.sql,
            "format": 0 if self.series else 1,
            "queryType": "timeseries" if self.series else "table",
            "pluginVersion": PLUGIN_VERSION,
            "meta": {},
        }


def source(variable: str = "datasource") -> common.DataSourceRef:
    """The data source that a variable names."""
    kind = "prometheus" if variable == PROMETHEUS else PLUGIN
    return common.DataSourceRef(type_val=kind, uid=f"${{{variable}}}")


def clickhouse(panel: Panel) -> ClickHouseQuery:
    """A panel's query."""
    return ClickHouseQuery(panel.sql, series=panel.is_series)


def prometheus(panel: Panel, language: Language) -> sdk_prometheus.Dataquery:
    """A panel's query to Prometheus."""
    return sdk_prometheus.Dataquery(
        ref_id="A",
        expr=panel.expr,
        legend_format=panel.legend.of(language),
        range_val=True,
        datasource=source(PROMETHEUS),
    )
