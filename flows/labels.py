"""Names of opaque ids, from CSV files into the view `labels`: what boards show beside a `live_id` or a `creator_id`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from flows.engine import opened_store
from flows.errors import Usage
from flows.settings import Settings
from schemas.label_messages import KINDS

COLUMNS: Final = ("kind", "id", "name")


def read_labels(path: Path) -> pl.DataFrame:
    """The labels of a CSV file with the columns `kind`, `id` and `name`; of two for one id the last holds.

    Raises:
        Usage: it cannot be read, lacks a column, or has a label that names nothing.
    """
    try:
        frame = pl.read_csv(path, infer_schema=False, encoding="utf8")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise Usage(f"{path} cannot be read as CSV: {error}") from error
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise Usage(f"{path} has no column {', '.join(missing)}; its first line must be {','.join(COLUMNS)}")
    labels = frame.select(pl.col(COLUMNS).str.strip_chars().fill_null(""))
    for number, (kind, id_, name) in enumerate(labels.iter_rows(), start=2):
        if kind not in KINDS:
            raise Usage(f"{path}, line {number}: kind {kind!r} is not one of {', '.join(KINDS)}")
        if not id_ or not name:
            raise Usage(f"{path}, line {number}: id and name must not be empty")
    return labels.unique(["kind", "id"], keep="last", maintain_order=True)


def load_labels(files: Sequence[Path], settings: Settings) -> int:
    """Put the labels of these files into the store; how many. Those that are there keep their names unless named anew.

    Raises:
        LivePulseError: a file cannot be used, or the store is down.
    """
    labels = pl.concat([read_labels(path) for path in files]).unique(["kind", "id"], keep="last", maintain_order=True)
    with opened_store(settings) as address:
        store = address.connect()
        try:
            store.insert("labels", labels)
        finally:
            store.close()
    return labels.height
