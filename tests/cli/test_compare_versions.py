"""`skinml compare --report`: two runs side by side, paired where test patients are the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Invoke = Callable[..., Any]
FIGURES = {"auroc", "balanced_accuracy", "sensitivity", "specificity", "ece"}


@pytest.fixture(scope="module")
def runs(centralised: tuple[Path, Any], simulated: tuple[Path, Any]) -> tuple[Path, Path]:
    """The folders of two runs on the same patients: at one clinic, and across two."""
    first, second = (place / "runs" / done.json["run"] for place, done in (centralised, simulated))
    return first, second


@pytest.fixture(scope="module")
def compared(skinml: Invoke, runs: tuple[Path, Path], tmp_path_factory: Any) -> Any:
    place = tmp_path_factory.mktemp("versions")
    done = skinml("compare", "--report", *runs, f"work_dir={place}", "--json")
    assert done.code == 0, done.told
    return done.json


def test_figures_of_both_are_those_of_their_own_reports(
    compared: dict[str, Any], runs: tuple[Path, Path]
) -> None:
    assert compared["found"]["arms"] == ["before", "after"]
    assert set(compared["found"]["metrics"]) == FIGURES
    for arm, folder in zip(("before", "after"), runs, strict=True):
        own = json.loads((folder / "result.json").read_text())
        figures = [each for each in compared["found"]["figures"] if each["arm"] == arm]
        assert {each["attribute"] for each in figures} == {"overall", "skin_tone"}
        for each in figures:
            group = (
                own["overall"]
                if each["attribute"] == "overall"
                else own["groups"][each["attribute"]][each["group"]]
            )
            value = each["mean"]["estimate"]["value"]
            if each["metric"] != "ece":  # debiased anew in each resample
                assert value == pytest.approx(group[each["metric"]]["value"])


def test_a_difference_is_after_less_before_in_each_figure_and_group(
    compared: dict[str, Any],
) -> None:
    found = compared["found"]
    assert found["unpaired"] == ""
    value = {
        (each["arm"], each["attribute"], each["group"], each["metric"]): each["mean"]["estimate"][
            "value"
        ]
        for each in found["figures"]
    }
    asked = [each for each in found["changes"] if each["question"] != "gap"]
    for question in ("overall", "group"):
        assert {each["metric"] for each in asked if each["question"] == question} == FIGURES
    known = 0
    for each in asked:
        key = (each["attribute"], each["group"], each["metric"])
        one, other = value["before", *key], value["after", *key]
        if None not in (one, other):
            assert each["mean"]["estimate"]["value"] == pytest.approx(other - one)
            known += 1
    assert known >= len(FIGURES)


def test_what_is_different_about_two_versions_is_told(
    compared: dict[str, Any], runs: tuple[Path, Path]
) -> None:
    changed = {each["what"]: (each["before"], each["after"]) for each in compared["changed"]}
    assert changed["run"] == tuple(folder.name for folder in runs)
    assert changed["clinics, rounds"][0].startswith("1, ")
    assert changed["clinics, rounds"][1].startswith("2, ")
    assert changed["setting federation.mode"] == ("centralised", "simulation")
    assert changed["code"][0] == changed["code"][1] != ""
    assert not any(what.startswith("skin tone") for what in changed)
    page = Path(compared["artifacts"]["html"]).read_text()
    assert "Side by side" in page
    assert "What is different about them" in page
    assert "Before" in page


def test_versions_that_were_tested_on_others_stand_beside_each_other_untested(
    skinml: Invoke, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    alone = shutil.copytree(runs[0], tmp_path / "elsewhere" / "runs" / runs[0].name)
    done = skinml("compare", "--report", alone, runs[1], f"work_dir={tmp_path}")
    assert done.code == 0, done.told
    assert "Not paired, no difference tested" in done.out
    (page,) = (tmp_path / "comparisons").glob("*/compare.html")
    assert "NOT PAIRED" in page.read_text()


@pytest.mark.parametrize("number", [1, 3])
def test_two_runs_and_no_other_number_are_put_side_by_side(
    skinml: Invoke, runs: tuple[Path, Path], number: int
) -> None:
    done = skinml("compare", "--report", *(runs * 2)[:number])
    assert done.code == 2
    assert "two different finished runs" in done.err


def test_a_mistyped_experiment_is_named_as_it_was_typed(skinml: Invoke) -> None:
    done = skinml("compare", "quickstrat")
    assert done.code == 2
    assert "got quickstrat alone, which is no experiment" in done.err


def test_one_run_has_no_other_side(skinml: Invoke, runs: tuple[Path, Path]) -> None:
    done = skinml("compare", "--report", runs[0], runs[0])
    assert done.code == 2
    assert "one run alone" in done.err
