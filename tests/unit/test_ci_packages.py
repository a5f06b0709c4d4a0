"""CI brings the programs that tests drive; where it cannot, it says what is absent and goes on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "packages"
NEEDED = ("bash", "mktemp", "tail", "timeout", "sort", "rm")


def machine(folder: Path, *, root: bool, apt: str | None) -> Path:
    """A PATH with the tools that every machine has, and perhaps an apt-get that does as told."""
    for name in NEEDED:
        (folder / name).symlink_to(f"/usr/bin/{name}")
    programs = {"id": f"echo {0 if root else 1000}"} | ({"apt-get": apt} if apt else {})
    for name, text in programs.items():
        (folder / name).write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "{folder}/calls"\n{text}\n')
        (folder / name).chmod(0o755)
    (folder / "env").symlink_to("/usr/bin/env")
    return folder


def run(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/usr/bin/bash", str(SCRIPT)], env={"PATH": str(path)}, capture_output=True, text=True, check=False, timeout=60
    )


def test_absent_programs_are_installed_without_their_services(tmp_path: Path) -> None:
    done = run(machine(tmp_path, root=True, apt='[ "$RUNLEVEL" = 1 ]'))
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text()
    for package in ("chromium", "prometheus", "prometheus-alertmanager"):
        assert f"install -y --no-install-recommends {package}\n" in calls
    assert "skip" not in done.stdout


def test_what_cannot_be_had_is_named_and_keeps_nothing_away(tmp_path: Path) -> None:
    done = run(machine(tmp_path, root=True, apt='case "$*" in *chromium*) echo no such package; exit 100;; esac'))
    assert done.returncode == 0
    assert "chromium: no such package; its tests skip" in done.stdout
    assert "recommends prometheus\n" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(("root", "apt"), [(False, "true"), (True, None)])
def test_without_root_or_apt_it_says_what_is_absent(tmp_path: Path, root: bool, apt: str | None) -> None:
    done = run(machine(tmp_path, root=root, apt=apt))
    assert done.returncode == 0
    assert "absent: chromium prometheus prometheus-alertmanager" in done.stdout
    assert "apt-get install" in done.stdout
    assert os.access(SCRIPT, os.X_OK)


def test_nothing_is_done_where_all_is_there(tmp_path: Path) -> None:
    path = machine(tmp_path, root=True, apt="true")
    for name in ("chromium", "promtool", "prometheus-alertmanager", "amtool"):
        (path / name).write_text("#!/bin/sh\n")
        (path / name).chmod(0o755)
    done = run(path)
    assert (done.returncode, done.stdout) == (0, "")
    assert not (path / "calls").exists()
