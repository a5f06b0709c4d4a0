"""A disk of a few megabytes (tmpfs) that can be filled and emptied."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


class Disk:
    """Mounted at `path`; skips the test where nothing may be mounted."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        self._filler = path / "filler"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")

    def fill(self, leave_bytes: int = 0) -> None:
        """Leave so many bytes free."""
        with self._filler.open("ab") as file:
            while (free := shutil.disk_usage(self.path).free - leave_bytes) > 0:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), max(4096, free // 2 // 4096 * 4096))

    def make_room(self) -> None:
        """Take away what fills it."""
        self._filler.unlink()

    def close(self) -> None:
        """Unmount, whoever still looks at it."""
        subprocess.run(["umount", "-l", str(self.path)], check=False)
