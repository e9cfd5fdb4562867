"""What the picker keeps of NAB's labelled anomalies: the goals of the project, and never less than MinMax."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import downsampling
from benchmarks.downsampling import judge_a, judge_b, labelled, lines, means_beside, points_of, share_kept

SHARED = Path(os.environ.get("METRICSDB_SHARED", Path(__file__).parents[3] / "shared"))
NAB = SHARED / "data" / "nab"


@pytest.fixture(scope="module")
def files():
    if not NAB.is_dir():
        pytest.skip(f"NAB is not here: no folder {NAB}")
    return list(labelled(NAB))


@pytest.fixture(scope="module")
def scores(files):
    return {"A": [judge_a(f.values) for f in files], "B": [judge_b(f.values) for f in files]}


def picked(files, picker, share):
    return [picker(f.frame, points_of(f, share)) for f in files]


@pytest.mark.parametrize(("share", "least_a", "least_b"), [(1, 0.80, 0.92), (5, 0.95, 0.98)])
def test_anomalies_of_nab_are_kept(files, scores, share, least_a, least_b):
    ours = picked(files, downsampling.ours, share)
    assert all(len(p) <= points_of(f, share) for f, p in zip(files, ours, strict=True))
    assert share_kept(files, scores["A"], ours) >= least_a
    assert share_kept(files, scores["B"], ours) >= least_b


@pytest.mark.parametrize("share", [1, 2, 5, 10])
def test_minmax_never_keeps_more(files, scores, share):
    ours = picked(files, downsampling.ours, share)
    for name, pick in downsampling.pickers().items():
        if name.lower().endswith("minmax"):
            theirs = picked(files, pick, share)
            for judged in scores.values():
                assert share_kept(files, judged, ours) >= share_kept(files, judged, theirs)


def test_with_means_beside_the_points_a_series_is_there_again(files):
    ours = picked(files, downsampling.ours, 5)
    assert downsampling.mean_error(files, ours, means_beside) < 0.85 < downsampling.mean_error(files, ours, lines)
