"""docker-compose.yml, Dockerfile and what they mount: nothing open, nothing floating, no password written down."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KEYS = {
    "image", "build", "user", "environment", "command", "ports", "volumes", "healthcheck", "depends_on", "restart",
    "security_opt", "cap_drop", "logging", "read_only", "tmpfs", "ulimits", "profiles", "stop_grace_period",
    "secrets",
}  # fmt: skip


def test_all_that_is_promised_is_there() -> None:
    assert set(SERVICES) == {"kafka", "clickhouse", "engine", "simulator", "prometheus", "alertmanager", "grafana"}
    assert SERVICES["simulator"]["profiles"] == ["simulate"]


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_pinned_closed_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= KEYS
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+(\.\d+){2,3}", service["image"])
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    assert "test" in service["healthcheck"] or service["healthcheck"] == {"disable": True}
    for other in service.get("depends_on", {}):
        assert "test" in SERVICES[other]["healthcheck"]
    for mount in service.get("volumes", ()):
        source = mount.split(":")[0] if "${" not in mount else "./grafana/dashboards/en"
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
        assert not source.startswith(".") or mount.endswith(":ro")


def test_prometheus_reaches_what_it_scrapes() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8"))
    named = {
        address for job in config["scrape_configs"] for told in job["static_configs"] for address in told["targets"]
    }
    assert named == {"127.0.0.1:9090", "engine:9464", "clickhouse:9363"}
    engine = SERVICES["engine"]
    assert engine["environment"]["LIVEPULSE_METRICS_HOST"] == "0.0.0.0"
    assert "ports" not in engine
    mounted = [mount.split(":")[1] for mount in SERVICES["prometheus"]["volumes"]]
    assert {f"/etc/prometheus/{name}" for name in config["rule_files"]} <= set(mounted)
    metrics = ET.parse(ROOT / "deploy" / "clickhouse-metrics.xml").getroot()
    assert metrics.findtext("prometheus/port") == "9363"
    assert not any("9363" in port for port in SERVICES["clickhouse"]["ports"])


def test_no_password_has_a_default() -> None:
    for line in TEXT.splitlines():
        if re.search(r"PASSWORD|CLUSTER_ID", line):
            assert ":?run make env}" in line
    for path in [*(ROOT / "deploy").iterdir(), *(ROOT / "grafana" / "provisioning").rglob("*.yaml")]:
        for found in re.findall(r"password[\"']?\s*[:=>]\s*(\S+)", path.read_text(encoding="utf-8"), re.IGNORECASE):
            assert found.startswith(("$", "from_env")), path


def test_make_env_writes_every_variable_once_and_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text(encoding="utf-8"))
    done = subprocess.run(["make", "env"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert set(re.findall(r"\$\{(\w+):\?", TEXT)) <= set(written)
    assert {secret["environment"] for secret in COMPOSE["secrets"].values()} <= set(written)
    passwords = [value for name, value in written.items() if "PASSWORD" in name]
    assert len(set(passwords)) == 3
    assert all(len(value) >= 32 for value in passwords)
    assert subprocess.run(["make", "env"], cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_configs_that_are_mounted_parse() -> None:
    for path in [*(ROOT / "deploy").glob("*.yml"), *(ROOT / "grafana" / "provisioning").rglob("*.yaml")]:
        assert yaml.safe_load(path.read_text(encoding="utf-8"))
    tree = ET.parse(ROOT / "deploy" / "clickhouse-reader.xml").getroot()
    profile = tree.find("profiles/livepulse_reader")
    assert profile is not None
    assert profile.findtext("readonly") == "1"
    assert profile.find("constraints/max_execution_time/changeable_in_readonly") is not None
    sources = yaml.safe_load((ROOT / "grafana/provisioning/datasources/livepulse.yaml").read_text(encoding="utf-8"))
    told = sources["datasources"][0]["jsonData"]
    assert {"host", "port", "protocol", "username", "defaultDatabase"} <= set(told)
    assert not {"server", "database"} & set(told)  # names of version 3 of the plugin
    variables = set(re.findall(r"\$(LIVEPULSE_\w+)", str(sources)))
    assert variables <= set(SERVICES["grafana"]["environment"])


def test_the_image_is_built_in_two_stages_and_runs_as_nobody_in_particular() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(stages) == 2
    assert all(re.fullmatch(r"python:3\.1[12]\.\d+-slim-\w+", stage) for stage in stages)
    assert "--require-hashes" in text
    assert re.search(r"^USER 10001", text.split(stages[1])[-1], re.MULTILINE)
