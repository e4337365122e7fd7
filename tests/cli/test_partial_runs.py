"""A run that a clinic was missing from: finished only where the config allows it, and never whole.

Under `federation.max_update_norm` a clinic whose sum is too long is missing from that round.
Without noise the same config and seed give the same sums: which clinic it is, is known before.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from skinml.cli.runs import _show
from skinml.experiments.run import run

# The larger clinic's sum of features is longer than this, all others are shorter.
BOUND = 27
PARTIAL = ("privacy.trust=none", f"federation.max_update_norm={BOUND}")


def _tags(place: Path) -> dict[str, str]:
    with sqlite3.connect(place / "mlflow.db") as store:
        found = dict(store.execute("select key, value from tags where key like 'skinml.%'"))
    store.close()
    return found


def _metrics(place: Path) -> dict[str, float]:
    with sqlite3.connect(place / "mlflow.db") as store:
        found = dict(store.execute("select key, value from latest_metrics"))
    store.close()
    return found


def test_a_quorum_that_the_config_allows_ends_well_and_is_stamped_incomplete(
    skinml: Callable[..., Any], clinics_place: Path, small: tuple[str, ...]
) -> None:
    words = (*small, *PARTIAL, "federation.allowed_missing=1", f"work_dir={clinics_place}")
    outcome = skinml("run", "quickstart", *words)
    assert outcome.code == 0, outcome.told
    first, second, *_ = outcome.out.splitlines()
    assert "INCOMPLETE" in first
    assert second == "Clinics were missing: alderbrook from 1 of 6 rounds."
    (folder,) = clinics_place.glob("runs/*")
    result = json.loads((folder / "result.json").read_text())
    assert result["complete"] is False
    begun, *others = result["participation"]
    assert list(begun["missing"]) == ["alderbrook"]
    assert "max_update_norm" in begun["missing"]["alderbrook"]
    assert not any(each["missing"] for each in others)
    assert result["secure_sums"] is None
    header = (folder / "report.html").read_text().split("<main>")[0]
    assert "INCOMPLETE" in header
    assert "Missing, of 6 rounds: alderbrook from 1." in header


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_quorum_that_the_config_does_not_allow_is_exit_code_4_and_no_run(
    skinml: Callable[..., Any], clinics_place: Path, small: tuple[str, ...], attempts: int
) -> None:
    words = (*small, *PARTIAL, f"federation.attempts={attempts}", f"work_dir={clinics_place}")
    outcome = skinml("run", "quickstart", *words, "--json")
    assert outcome.code == 4, outcome.told
    assert outcome.json["error"]["code"] == 4
    assert "in round 1 without alderbrook" in outcome.json["error"]["got"]
    assert not list(clinics_place.glob("runs/*"))


class OutOfOrder:
    """Puts a folder in the place of a clinic's ledger for some rounds, then puts it back."""

    def __init__(self, ledger: Path, first: int, last: int) -> None:
        self._ledger, self._first, self._last = ledger, first, last
        self._stage = ""

    def begin(self, stage: str, total: int) -> None:
        self._stage = stage

    def reached(self, done: int) -> None:
        aside = self._ledger.with_name("aside")
        if self._stage == "rounds" and done == self._first - 1:
            self._ledger.rename(aside)
            self._ledger.mkdir()
        if self._stage == "rounds" and done == self._last:
            self._ledger.rmdir()
            aside.rename(self._ledger)

    def say(self, text: str) -> None:
        pass


@pytest.mark.slow
def test_secure_sums_without_a_clinic_tell_who_it_was_and_how_much_noise_was_left(
    tmp_path: Path, small: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (
        "data.synthetic.num_clinics=3",
        "federation.allowed_missing=1",
        "privacy.tolerated_dropouts=1",
        "tracking.enabled=true",
    )
    ledger = tmp_path / "clinics" / "birchmoor" / "ledger.jsonl"
    words = (*small, *settings, f"work_dir={tmp_path}")
    finished = run("quickstart", words, progress=OutOfOrder(ledger, 3, 4))
    result = finished.result
    assert result["complete"] is False
    assert result["secure_sums"] == {"clinics": 3, "threshold": 2, "colluding": 0}
    rounds = {each["round"]: each for each in result["participation"]}
    for number, each in rounds.items():
        away = ["birchmoor"] if number in (3, 4) else []
        assert list(each["missing"]) == away
        # Two shares of the noise are all of it; the third is more.
        assert each["noise"] == pytest.approx(1.0 if away else sqrt(1.5))
    _show(finished.record, result)
    assert "INCOMPLETE" in capsys.readouterr().out.splitlines()[0]
    page = (finished.folder / "report.html").read_text()
    assert "INCOMPLETE" in page.split("<main>")[0]
    assert "<td>1.00 times</td>" in page
    assert "<td>1.22 times</td>" in page
    assert _tags(tmp_path)["skinml.complete"] == "False"
    metrics = _metrics(tmp_path)
    assert metrics["least_noise_ratio"] == pytest.approx(1)
    assert (metrics["least_survivors"], metrics["num_incomplete_rounds"]) == (2, 2)
    for sums in finished.record.guarantee.sums:
        assert sums.std > 0
