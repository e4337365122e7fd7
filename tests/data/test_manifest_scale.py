from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

MOST_GIB = 3.0
# SHA-256 over row, patient, clinic and split, from before anything was made faster.
DIVIDED = "e5499a4b64522027d50c993526ed359038a038dd3065a524a23cc6f3c926d9ca"


sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
bench_manifest = import_module("bench_manifest")


def test_a_drawn_manifest_is_divided_as_it_always_was(tmp_path: Path) -> None:
    bench_manifest.lay_out(tmp_path, 3000)
    outcome = bench_manifest.go_through(tmp_path)
    assert outcome.digest == DIVIDED
    assert outcome.num_images == 3000
    assert outcome.num_near_duplicates == bench_manifest.PLANTED


@pytest.mark.slow
def test_a_million_rows_fit_into_three_gib(tmp_path: Path) -> None:
    bench_manifest.lay_out(tmp_path, 1_000_000)
    outcome = bench_manifest.measured(tmp_path)
    assert outcome.num_images == 1_000_000
    assert outcome.num_near_duplicates == bench_manifest.PLANTED
    assert outcome.gib < MOST_GIB
