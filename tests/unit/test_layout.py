"""The shape of the code: who may import whom, how long things may get, and nothing of one machine in the repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "sinks", "flows", "grafana")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "sinks": {"schemas", "sinks"},
    "flows": {"schemas", "sinks", "flows"},
    "grafana": {"schemas", "grafana"},
}
KERNELS = (
    "active_hours",
    "active_users",
    "topic_heat",
    "topic_lifecycle",
    "conversion_funnel",
    "live_sessions",
    "session_merge",
    "admission",
    "keyed_set",
    "anomalies",
    "anomaly_merge",
)
OUTSIDE = {"bytewax", "confluent_kafka", "clickhouse_connect", "chdb"}
BYTEWAX_ONLY_IN = {"dataflow", "engine", "recovery", "source", "steps", "worker", "rows_sink"}
ASK_GRAFANA = {"cli_alerts.py", "cli_boards.py"}  # commands about boards and rules that are shipped
MOST_LINES, MOST_FUNCTION_LINES = 400, 70


def _python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; write the full name"
            yield node.module or ""


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _python_files(package)
        for name in _imports(path)
        if name.split(".")[0] in PACKAGES
        and name.split(".")[0] not in MAY_IMPORT[package] | ({"grafana"} if path.name in ASK_GRAFANA else set())
    ]
    assert wrong == []


def test_kernels_know_no_framework() -> None:
    present = [ROOT / "flows" / f"{name}.py" for name in KERNELS if (ROOT / "flows" / f"{name}.py").exists()]
    wrong, seen = [], set[Path]()
    while present:
        path = present.pop()
        seen.add(path)
        for name in _imports(path):
            if name.split(".")[0] in OUTSIDE:
                wrong.append(f"{path.name} imports {name}")
            inner = ROOT / (name.replace(".", "/") + ".py")
            if inner.exists() and inner not in seen:
                present.append(inner)
    assert seen
    assert wrong == []


def test_bytewax_stays_behind_the_adapter() -> None:
    using = {
        path.stem for path in _python_files(*PACKAGES) if any(n.split(".")[0] == "bytewax" for n in _imports(path))
    }
    assert using <= BYTEWAX_ONLY_IN


def test_files_stay_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for path in _python_files(*PACKAGES, "tests", "benchmarks")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_functions_stay_short() -> None:
    long = {}
    for path in _python_files(*PACKAGES, "tests", "benchmarks"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = lines
    assert long == {}


def _tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_registry_and_no_machine_is_written_down() -> None:
    registries = re.compile(
        r"--(?:extra-)?index-url|--find-links|registry\s*=\s*.?http|\"resolved\":\s*\"http|"
        + "|".join(map(re.escape, ("pypi." + "org", "pythonhosted." + "org", "repo1.maven." + "org", "/wo" + "rk/")))
    )
    found = []
    for path in _tracked():
        content = path.read_bytes()
        if b"\0" not in content[:4_000] and path != Path(__file__).resolve():
            found += [str(path.relative_to(ROOT)) for _ in registries.findall(content.decode("utf-8", "replace"))]
    assert sorted(set(found)) == []


def test_the_lock_has_hashes_for_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(
        r"^([a-z0-9][a-z0-9._-]*)==.*\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", lock, re.MULTILINE
    )
    assert len(pins) == len(re.findall(r"^[a-z0-9]", lock, re.MULTILINE)) > 30
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=\[; ]", entry, maxsplit=1)[0] for entry in declared}
    assert names <= {name for name, _ in pins}


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=\[; ]", entry, maxsplit=1)[0].replace("-", "_") for entry in project["dependencies"]}
    used = {name.split(".")[0] for path in _python_files(*PACKAGES) for name in _imports(path)}
    third_party = used - set(sys.stdlib_module_names) - set(PACKAGES)
    renamed = {"pydantic_core": "pydantic"}  # comes with it
    assert {renamed.get(name, name) for name in third_party} - declared == set()


def test_every_package_is_shipped() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    present = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in _python_files(*PACKAGES) if path.name == "__init__.py"
    }
    assert present == set(tools["setuptools"]["packages"])
    homeless = [path for path in _python_files(*PACKAGES) if not (path.parent / "__init__.py").exists()]
    assert homeless == []


def test_constants_of_compiled_code_are_in_the_digest_of_what_is_kept() -> None:
    compiling = [path for path in _python_files("flows", "schemas") if "decode_compile" in path.read_text("utf-8")]
    inside = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in compiling}
    assert "schemas.sessions" in inside  # read by flows.session_tally
