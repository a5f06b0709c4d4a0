"""The benchmark's score as its paper defines it, its files, and the detector: online, without look-ahead."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows import bench_nab
from flows.nab_score import PROFILES, LabelledFile, positions, probation, scaled_sigmoid, score
from flows.novelty import QUIET, Novelty

STANDARD, LOW_FP, LOW_FN = PROFILES
ROWS, WINDOWS = 4_032, [(1_000, 1_199), (3_000, 3_199)]
TIMES = 1_396_310_400_000 + 300_000 * np.arange(ROWS, dtype=np.int64)


def labelled(*rows: int, windows: list[tuple[int, int]] | None = None, level: float = 1.0) -> LabelledFile:
    scores = np.zeros(ROWS)
    scores[list(rows)] = level
    return LabelledFile("c/f.csv", scores, WINDOWS if windows is None else windows)


def daily(seed: int = 1, rows: int = ROWS) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, rows)
    return 50 + 20 * np.sin(2 * np.pi * np.arange(rows) / 288) + noise


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_scores_0_and_perfection_100(profile: object) -> None:
    assert score([labelled()], profile, 0.5).score == 0
    assert score([labelled(1_000, 3_000)], profile, 0.5).score == pytest.approx(100)
    assert score([labelled(1_000, 3_000)], profile).score == pytest.approx(100)
    assert score([LabelledFile("c/f.csv", np.full(ROWS, 0.5), WINDOWS)], profile).score <= 0.5


def test_weights_are_those_of_the_profiles() -> None:
    # Far before any window a false alarm costs its whole weight; found windows: none. Spread: 2 windows x (1 + missed).
    assert score([labelled(700)], STANDARD, 0.5).score == pytest.approx(-100 * 0.11 / 4)
    assert score([labelled(700)], LOW_FP, 0.5).score == pytest.approx(-100 * 0.22 / 4)
    assert score([labelled(1_000)], STANDARD, 0.5).score == pytest.approx(50)
    assert score([labelled(1_000)], LOW_FN, 0.5).score == pytest.approx(50)
    assert score([labelled(1_000)], LOW_FN, 0.5).found == 1


def test_positions_follow_the_paper() -> None:
    worth, owner = positions(ROWS, WINDOWS)
    assert worth[1_000] == pytest.approx(1)
    assert worth[1_199] == pytest.approx(float(scaled_sigmoid(np.array([-1 / 200]))[0]) / 0.9866142981514305)
    assert worth[1_200] == pytest.approx(2 / (1 + np.exp(5 / 199)) - 1)
    assert worth[999] == -1
    assert worth[1_199 + 199 * 3 + 1] == -1
    assert (owner[1_000], owner[1_199], owner[1_200], owner[3_100]) == (0, 0, -1, 1)


def test_only_the_earliest_detection_of_a_window_counts() -> None:
    once, often = score([labelled(1_050)], STANDARD, 0.5), score([labelled(*range(1_050, 1_200))], STANDARD, 0.5)
    assert once.score == often.score > score([labelled(1_150)], STANDARD, 0.5).score > 0


def test_probation_is_not_scored() -> None:
    assert (probation(ROWS), probation(22_695), probation(1_243)) == (604, 750, 186)
    assert score([labelled(603)], STANDARD, 0.5).score == 0
    assert score([labelled(604)], STANDARD, 0.5).score < 0


def test_one_threshold_serves_all_files() -> None:
    # The second file is found only at 0.4, which lets through false alarms of the first.
    noisy = labelled(1_000, 3_000)
    noisy.scores[604:980] = 0.45
    faint = labelled(1_000, 3_000, level=0.4)
    best = score([noisy, faint], STANDARD)
    assert best.threshold == 1.0
    assert best.score == pytest.approx(50)
    cheap = [noisy, *[faint] * 40]
    assert score(cheap, STANDARD).threshold == 0.4
    assert score(cheap, STANDARD).score == pytest.approx(100 - 100 * 0.11 * 376 / (4 * 41))


def test_the_detector_does_not_look_ahead() -> None:
    values, zeros = daily(), np.zeros(ROWS, np.int64)
    whole = Novelty(1).score(zeros, TIMES, values)
    changed = values.copy()
    changed[2_500:] += 500
    assert np.array_equal(Novelty(1).score(zeros, TIMES, changed)[:2_500], whole[:2_500])


def test_batches_and_neighbours_change_nothing() -> None:
    values, zeros = daily(), np.zeros(ROWS, np.int64)
    whole = Novelty(1).score(zeros, TIMES, values)
    both = Novelty(2)
    parts = []
    for rows in np.array_split(np.arange(ROWS), 7):
        series = np.tile([0, 1], len(rows))
        mixed = np.stack([values[rows], 7 * daily(2)[rows]], axis=1).ravel()
        parts.append(both.score(series, np.repeat(TIMES[rows], 2), mixed)[::2])
    assert np.array_equal(np.concatenate(parts), whole)


def test_units_do_not_matter() -> None:
    values, zeros = daily(), np.zeros(ROWS, np.int64)
    values[3_000:3_050] += 40
    one, other = (Novelty(1).score(zeros, TIMES, scale * values) for scale in (1.0, 1024.0))
    assert np.array_equal(one >= 0.5, other >= 0.5)


def test_what_is_new_is_told_once_and_what_is_not_is_not() -> None:
    zeros = np.zeros(ROWS, np.int64)
    quiet = Novelty(1).score(zeros, TIMES, daily())
    assert (quiet[probation(ROWS) :] >= 0.5).sum() <= 4
    values = daily()
    values[3_000:3_040] -= 45
    found = np.flatnonzero(Novelty(1).score(zeros, TIMES, values) >= 0.5)
    mine = found[(found >= 3_000) & (found < 3_000 + QUIET)]
    assert 1 <= len(mine) <= 3
    assert mine[0] <= 3_003


def test_values_that_are_none_are_passed_over() -> None:
    values = daily()
    values[100:110] = np.nan
    scores = Novelty(1).score(np.zeros(ROWS, np.int64), TIMES, values)
    assert np.isfinite(scores).all()
    assert (scores[100:110] == 0).all()


def _write_corpus(root: Path, *, labels: bool) -> None:
    (root / "data" / "made").mkdir(parents=True)
    stamps = pl.from_epoch(pl.Series(TIMES), time_unit="ms").dt.strftime("%Y-%m-%d %H:%M:%S")
    values = daily()
    values[3_000:3_040] -= 45
    pl.DataFrame({"timestamp": stamps, "value": values}).write_csv(root / "data" / "made" / "one.csv")
    if labels:
        (root / "labels").mkdir()
        windows = {"made/one.csv": [[f"{stamps[2_900]}.000000", f"{stamps[3_100]}.000000"]]}
        (root / "labels" / "combined_windows.json").write_text(json.dumps(windows))


@pytest.mark.parametrize("labels", [True, False])
def test_a_directory_in_nabs_layout_gives_result_files(tmp_path: Path, labels: bool) -> None:
    _write_corpus(tmp_path, labels=labels)
    told = bench_nab.measure(tmp_path, tmp_path / "out")
    rows = pl.read_csv(tmp_path / "out" / "livepulse" / "made" / "livepulse_one.csv")
    assert rows.columns == ["timestamp", "value", "anomaly_score", "label"]
    assert rows.height == ROWS
    assert rows["label"].sum() == (201 if labels else 0)
    assert rows["anomaly_score"].is_between(0, 1).all()
    assert ("scores" in told) == labels
    if labels:
        assert told["scores"]["standard"]["score"] > 80
