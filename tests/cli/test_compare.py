"""`skinml compare`: arms with seeds on one cohort, reused, refused early, and told in words."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

Invoke = Callable[..., Any]
ARMS = ("--epsilon", "none,8", "--seeds", "0,1")


@pytest.fixture(scope="module")
def words(small: tuple[str, ...]) -> tuple[str, ...]:
    return (*small, "federation=centralised", "training.head.rounds=2")


@pytest.fixture
def unspent(pooled_place: Path) -> Path:
    """A working folder with caches in which nothing was ever released."""
    return pooled_place


@pytest.fixture(scope="module")
def compared(
    skinml: Invoke,
    words: tuple[str, ...],
    warm_pooled: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Any]:
    """A working folder with four runs, compared, and what was printed."""
    place = tmp_path_factory.mktemp("compared") / "work"
    shutil.copytree(warm_pooled, place, symlinks=True)
    outcome = skinml("compare", "quickstart", *words, f"work_dir={place}", *ARMS, "--json")
    assert outcome.code == 0, outcome.told
    return place, outcome


@pytest.fixture
def result(compared: tuple[Path, Any]) -> dict[str, Any]:
    found = compared[1].json
    assert isinstance(found, dict)
    return found


def runs_of(result: dict[str, Any]) -> list[str]:
    return [run["run"] for arm in result["arms"] for run in arm["runs"]]


@pytest.mark.slow
def test_each_arm_has_a_run_of_each_seed_and_its_promise(
    compared: tuple[Path, Any], result: dict[str, Any]
) -> None:
    bare, private = result["arms"]
    assert (bare["name"], bare["private"], bare["epsilon"]) == ("none", False, None)
    assert (private["name"], private["private"]) == ("epsilon 8", True)
    assert 7.9 < private["epsilon"] <= 8
    assert [run["seed"] for run in private["runs"]] == [0, 1]
    assert sorted(runs_of(result)) == sorted(
        path.name for path in (compared[0] / "runs").iterdir() if not path.name.startswith(".")
    )
    assert "4 runs were charged" in result["charged"][0]
    assert "unbounded" in result["charged"][-1]


@pytest.mark.slow
def test_means_are_those_of_the_runs_own_results(
    compared: tuple[Path, Any], result: dict[str, Any]
) -> None:
    for arm in result["arms"]:
        own = [
            json.loads((compared[0] / "runs" / run["run"] / "result.json").read_text())
            for run in arm["runs"]
        ]
        for figure in result["found"]["figures"]:
            if figure["arm"] != arm["name"]:
                continue
            groups = [
                each["overall"]
                if figure["attribute"] == "overall"
                else each["groups"][figure["attribute"]][figure["group"]]
                for each in own
            ]
            values = [group[figure["metric"]]["value"] for group in groups]
            mean = figure["mean"]
            if None in values:
                assert mean["estimate"]["value"] is None
            else:
                assert mean["by_seed"] == pytest.approx(values)
                assert mean["estimate"]["value"] == pytest.approx(sum(values) / 2)


@pytest.mark.slow
def test_every_number_of_the_table_is_in_the_json(result: dict[str, Any]) -> None:
    rows = list(csv.DictReader(Path(result["artifacts"]["csv"]).read_text().splitlines()))
    found = result["found"]
    assert len(rows) == len(found["figures"]) + len(found["gaps"]) + len(found["changes"])
    gaps = [row for row in rows if row["kind"] == "change: gap"]
    for row, change in zip(
        gaps, [c for c in found["changes"] if c["question"] == "gap"], strict=True
    ):
        value = change["mean"]["estimate"]["value"]
        assert row["value"] == ("" if value is None else str(value))
        assert row["answer"] == change["verdict"]


@pytest.mark.slow
def test_no_patient_is_named_in_what_is_written(
    compared: tuple[Path, Any], result: dict[str, Any]
) -> None:
    (cohort,) = (compared[0] / "cohorts").iterdir()
    rows = csv.DictReader((cohort / "manifest.csv").read_text().splitlines())
    patients = {row["patient_id"] for row in rows}
    assert len(patients) == 90
    folder = Path(result["artifacts"]["html"]).parent
    assert {path.name for path in folder.iterdir()} == {
        *(f"compare.{kind}" for kind in ("html", "json", "csv", "svg")),
        "result.json",
    }
    for path in folder.iterdir():
        text = path.read_text()
        assert not [name for name in patients if name in text], path.name


@pytest.mark.slow
def test_finished_runs_are_taken_as_they_are_and_give_the_same_numbers(
    skinml: Invoke, words: tuple[str, ...], compared: tuple[Path, Any], result: dict[str, Any]
) -> None:
    place = compared[0]
    again = skinml("compare", "quickstart", *words, f"work_dir={place}", *ARMS, "--json")
    assert again.code == 0, again.told
    assert runs_of(again.json) == runs_of(result)
    assert again.json["found"] == result["found"]
    assert again.json["charged"] == ["4 runs were there already and cost nothing more."]


@pytest.mark.slow
def test_runs_by_name_are_put_into_arms_by_what_their_configs_differ_in(
    skinml: Invoke, compared: tuple[Path, Any], result: dict[str, Any]
) -> None:
    found = skinml("compare", *runs_of(result), f"work_dir={compared[0]}", "--json")
    assert found.code == 0, found.told
    assert [arm["name"] for arm in found.json["arms"]] == ["none", "epsilon 8"]
    assert found.json["found"] == result["found"]
    assert "nothing" in found.json["charged"][0]


@pytest.mark.slow
def test_the_screen_fits_and_says_what_the_arms_are(
    skinml: Invoke,
    compared: tuple[Path, Any],
    result: dict[str, Any],
) -> None:
    shown = skinml("compare", *runs_of(result), f"work_dir={compared[0]}")
    assert shown.code == 0, shown.told
    *lines, page = shown.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert page.startswith("Page:")
    for part in ("NOT PRIVATE", "SIMULATED", "AUROC", "On whom does it fall harder?", "none"):
        assert part in shown.out


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (("3,2", "privacy.budget.epsilon=3.2"), "after the 2 runs of this comparison"),
        (("3,none", "privacy.budget.epsilon=9"), "unbounded"),
        (("3,none", "clinic.policy.trust=[distributed]"), "trust none where distributed is"),
    ],
    ids=["both together", "none", "policy"],
)
def test_what_a_budget_or_a_policy_would_stop_later_stops_before_the_first_run(
    skinml: Invoke, words: tuple[str, ...], tmp_path: Path, told: tuple[str, ...], said: str
) -> None:
    refused = skinml("compare", "quickstart", *words, f"work_dir={tmp_path}", "--epsilon", *told)
    assert refused.code == 3, refused.told
    assert said in refused.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_the_ledgers_hold_already_counts(
    skinml: Invoke, words: tuple[str, ...], unspent: Path
) -> None:
    place = ("quickstart", *words, f"work_dir={unspent}")
    assert skinml("run", *place, "privacy.epsilon=3").code == 0
    told = ("--epsilon", "2", "privacy.budget.epsilon=3.1")
    refused = skinml("compare", *place, *told)
    assert refused.code == 3, refused.told
    assert "at clinic pooled" in refused.err


@pytest.mark.slow
def test_a_comparison_that_was_stopped_goes_on_and_is_tracked_above_its_runs(
    skinml: Invoke,
    small: tuple[str, ...],
    clinics_place: Path,
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    """Stopped in its second run: the first is kept, the second resumed."""
    words = ("quickstart", *small, "training.head.rounds=60", f"work_dir={clinics_place}")
    words = (*words, "tracking.enabled=true", "--epsilon", "8", "--seeds", "0,1", "--json")
    process = start("compare", *words)
    runs, until = clinics_place / "runs", time.monotonic() + 240
    while not list(runs.glob("quick*")) or not list(runs.glob(".*.draft/checkpoint")):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out.startswith('{"error": {"code": 130')
    kept = [path.name for path in runs.glob("quick*")]
    broken_off = [path.name[1:].removesuffix(".draft") for path in runs.glob(".*.draft")]
    done = skinml("compare", *words)
    assert done.code == 0, done.told
    assert [run["run"] for run in done.json["arms"][0]["runs"]] == [*kept, *broken_off]
    assert "1 run was charged" in done.json["charged"][0]
    client = MlflowClient(f"sqlite:///{clinics_place / 'mlflow.db'}")
    own = client.get_run(done.json["artifacts"]["mlflow_run"])
    assert own.data.metrics["epsilon 8/auroc"] > 0
    for run in done.json["arms"][0]["runs"]:
        parent = client.get_run(run["mlflow_run"]).data.tags["mlflow.parentRunId"]
        assert parent == own.info.run_id
    names = {each.path for each in client.list_artifacts(own.info.run_id, "compare")}
    assert names == {f"compare/compare.{kind}" for kind in ("html", "json", "csv", "svg")}


@pytest.mark.slow
def test_runs_that_publish_counts_stand_side_by_side(
    skinml: Invoke, words: tuple[str, ...], unspent: Path
) -> None:
    told = ("fairness.evaluation=dp_counts", "--epsilon", "8,4", f"work_dir={unspent}", "--json")
    done = skinml("compare", "quickstart", *words, *told)
    assert done.code == 0, done.told
    found = done.json["found"]
    assert "noised counts" in found["unpaired"]
    assert found["changes"] == []
    assert {each["arm"] for each in found["figures"]} == {"epsilon 8", "epsilon 4"}
    assert "NOT PAIRED" in Path(done.json["artifacts"]["html"]).read_text()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (("quickstart", "--epsilon", "none,0"), "epsilons above 0"),
        (("quickstart", "--epsilon", "3,3"), "epsilon 3 twice"),
        (("quickstart", "--seeds", "0,-1"), "whole numbers"),
        (("quickstart", "--epsilon", "3", "--groups", "shoe_size"), "shoe_size"),
        (("quickstart", "--epsilon", "3", "privacy.trust=none"), "promises something"),
        (("quickstart", "--arm", "training.rounds=3"), "training.rounds"),
        (("no-such-run", "another"), "finished run"),
        (("no-such-run",), "2 to 500"),
        (("no-such-run", "--epsilon", "3"), "no experiment"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    skinml: Invoke, tmp_path: Path, told: tuple[str, ...], said: str
) -> None:
    refused = skinml("compare", *told, f"work_dir={tmp_path}")
    assert refused.code == 2, refused.told
    assert said in refused.err
    assert list(tmp_path.iterdir()) == []
