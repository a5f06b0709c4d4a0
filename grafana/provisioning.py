"""Provisioning files: data sources, dashboard folder and alerts of Grafana, written and checked with the boards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from grafana import alerting, build
from grafana.boards import BOARDS
from grafana.targets import PLUGIN

ROOT: Final = Path(__file__).resolve().parent

# Fields of version 4 of the plugin: host, port, defaultDatabase. `$` is expanded from Grafana's environment.
_SOURCES: Final = f"""\
# Written by `livepulse boards build`; a test holds it against the code.
apiVersion: 1
datasources:
  - name: LivePulse
    uid: livepulse
    type: {PLUGIN}
    access: proxy
    isDefault: true
    editable: false
    jsonData:
      host: $LIVEPULSE_CLICKHOUSE_HOST
      port: $LIVEPULSE_CLICKHOUSE_PORT
      protocol: http
      secure: false
      username: $LIVEPULSE_READER
      defaultDatabase: livepulse
      dialTimeout: "10"
      queryTimeout: "30"
      validateSql: true
    secureJsonData:
      password: $LIVEPULSE_READER_PASSWORD
  - name: Prometheus
    uid: prometheus
    type: prometheus
    access: proxy
    editable: false
    url: $LIVEPULSE_PROMETHEUS_URL
    jsonData:
      timeInterval: 15s
"""

_DASHBOARDS: Final = """\
# Written by `livepulse boards build`; a test holds it against the code.
apiVersion: 1
providers:
  - name: livepulse
    folder: LivePulse
    type: file
    disableDeletion: true
    allowUiUpdates: false
    updateIntervalSeconds: 30
    options:
      path: /var/lib/grafana/dashboards
      foldersFromFilesStructure: false
"""


def files() -> Iterator[tuple[str, str]]:
    """Path under grafana/ and content of every generated file."""
    yield from build.files(BOARDS)
    yield "provisioning/datasources/livepulse.yaml", _SOURCES
    yield "provisioning/dashboards/livepulse.yaml", _DASHBOARDS
    yield "provisioning/alerting/livepulse.yaml", alerting.text()


def write(root: Path = ROOT) -> list[str]:
    """Write what is not as it should be; the paths that were written or removed."""
    wanted = dict(files())
    changed = drift(root)
    for name in changed:
        path = root / name
        if name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    return changed


def drift(root: Path = ROOT) -> list[str]:
    """Generated files that differ from what the declarations say, are missing, or should not be there."""
    wanted = dict(files())
    present = {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for folder in ("dashboards", "provisioning")
        for path in (root / folder).rglob("*")
        if path.is_file()
    }
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
