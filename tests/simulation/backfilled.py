"""Simulated files, taken in by `livepulse backfill`, and questions to the store that they are in."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import polars as pl

from flows.simulate import Options, Truth, file_names, simulate_to_files
from sinks import embedded


def backfilled(directory: Path, options: Options) -> tuple[Path, Truth]:
    """The store, in `directory`, and what the simulator planted."""
    truth = simulate_to_files(directory / "files", options)
    store = directory / "store"
    files = [str(directory / "files" / name) for name in file_names(options)]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "backfill", *files, "--store", str(store)],
        capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return store, truth


def asked(store: Path, sql: str) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(embedded.ask(store, sql + " FORMAT Parquet")))
