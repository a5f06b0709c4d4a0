"""`livepulse bench nab`: the detector over a directory in NAB's layout, NAB's result files, and its score."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from flows.errors import OK
from flows.nab_corpus import NabFile, read_corpus, read_windows, write_result
from flows.nab_score import PROFILES, Floats, LabelledFile, Result, score
from flows.novelty import Novelty

_STANDARD: Final = PROFILES[0]
_HALVES: Final = 20
"""How often the files are split in half at random, to choose the threshold on one half and score the other."""
_EVERY: Final = 300
"""Rows between the alarms of a detector that looks at no value: what the score gives for nothing."""


def measure(root: Path, out: Path) -> dict[str, Any]:
    """Score every file of `root`, write result files to `out` and, where there are labels, tell the score.

    Raises:
        Usage: `root` is not in NAB's layout.
    """
    files = read_corpus(root)
    windows = read_windows(root, files)
    scores_of(files[0])  # compiles
    start = time.perf_counter()
    scores = [scores_of(file) for file in files]
    seconds = time.perf_counter() - start
    for file, found in zip(files, scores, strict=True):
        write_result(out, file, found, (windows or {}).get(file.name, []))
    rows = sum(len(file.values) for file in files)
    told: dict[str, Any] = {"files": len(files), "rows": rows, "rows_per_s": round(rows / seconds), "out": str(out)}
    if windows is not None:
        corpus = [
            LabelledFile(file.name, found, windows[file.name])
            for file, found in zip(files, scores, strict=True)
            if file.name in windows
        ]
        told |= figures(corpus)
    return told


def scores_of(file: NabFile) -> Floats:
    """Anomaly scores 0–1 of one file, by a detector that begins with it."""
    return Novelty(1).score(np.zeros(len(file.values), np.int64), file.times, file.values)


def figures(corpus: Sequence[LabelledFile]) -> dict[str, Any]:
    """Scores by profile, by category (at the corpus' threshold), and at thresholds chosen on other files."""
    whole = {profile.name: score(corpus, profile) for profile in PROFILES}
    threshold = whole[_STANDARD.name].threshold
    parts = _by_category(corpus)
    blind = [LabelledFile(f.name, _periodic(len(f.scores)), f.windows) for f in corpus]
    return {
        "windows": whole[_STANDARD.name].windows,
        "scores": {name: _plain(result) for name, result in whole.items()},
        "categories": {name: _plain(score(part, _STANDARD, threshold)) for name, part in parts.items()},
        "at_half": _plain(score(corpus, _STANDARD, 0.5)),
        "held_out_category": _held_out(corpus, parts),
        "held_out_half": _held_out_halves(corpus),
        "blind": round(score(blind, _STANDARD, 0.5).score, 1),
    }


def _plain(result: Result) -> dict[str, float | int | None]:
    """Without windows there is no scale: then `score` is None and false alarms tell."""
    return {
        "score": round(result.score, 1) if result.windows else None,
        "threshold": round(result.threshold, 4),
        "windows": result.windows,
        "found": result.found,
        "false_alarms": result.false_alarms,
    }


def _by_category(corpus: Sequence[LabelledFile]) -> Mapping[str, list[LabelledFile]]:
    parts: dict[str, list[LabelledFile]] = {}
    for file in corpus:
        parts.setdefault(file.name.partition("/")[0], []).append(file)
    return parts


def _held_out(corpus: Sequence[LabelledFile], parts: Mapping[str, Sequence[LabelledFile]]) -> dict[str, float | None]:
    """Each category's score at the threshold that is best for all others."""
    found: dict[str, float | None] = {}
    for name, part in parts.items():
        others = [file for file in corpus if file not in part]
        if any(file.windows for file in part) and any(file.windows for file in others):
            found[name] = round(score(part, _STANDARD, score(others, _STANDARD).threshold).score, 1)
    return found


def _held_out_halves(corpus: Sequence[LabelledFile]) -> dict[str, float]:
    """Scores of random halves at the threshold that is best for the other half."""
    found = []
    for seed in range(_HALVES):
        order = np.random.default_rng(seed).permutation(len(corpus))
        one, other = ([corpus[i] for i in half] for half in np.array_split(order, 2))
        if any(f.windows for f in one) and any(f.windows for f in other):
            found.append(score(other, _STANDARD, score(one, _STANDARD).threshold).score)
    if not found:
        return {}
    return {"mean": round(float(np.mean(found)), 1), "least": round(min(found), 1), "greatest": round(max(found), 1)}


def _periodic(rows: int) -> Floats:
    scores = np.zeros(rows)
    scores[_EVERY // 2 :: _EVERY] = 1.0
    return scores


def show(told: Mapping[str, Any], *, as_json: bool) -> int:
    """Print the figures."""
    if as_json:
        print(json.dumps(told))  # noqa: T201  # the result is the output
        return OK
    console = Console()
    console.print(f"{told['files']} files, {told['rows']:,} rows at {told['rows_per_s']:,}/s; results in {told['out']}")
    if "scores" not in told:
        console.print("no labels/combined_windows.json: nothing to score against")
        return OK
    table = Table("", "score", "windows found", "false alarms", "threshold")
    for name, part in (*told["scores"].items(), *((f"standard, {n}", p) for n, p in told["categories"].items())):
        shown = "-" if part["score"] is None else f"{part['score']:.1f}"
        table.add_row(
            name, shown, f"{part['found']} of {part['windows']}", str(part["false_alarms"]), str(part["threshold"])
        )
    console.print(table)
    console.print(f"threshold chosen without the category: {told['held_out_category']}")
    console.print(f"threshold chosen on the other half of the files ({_HALVES} splits): {told['held_out_half']}")
    console.print(
        f"an alarm every {_EVERY} rows, whatever the values (what the score gives for nothing): {told['blind']}"
    )
    return OK
