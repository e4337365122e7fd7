"""A sweep: each combination is a run, what is there already is taken, and one parent names all."""

from __future__ import annotations

import csv
import json
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from time import sleep

import pytest
from mlflow import MlflowClient

from skinml.cli.edge import SAME_COMMAND
from skinml.config import swept
from skinml.errors import ConfigError
from skinml.experiments.sweep import as_they_end


def test_each_combination_is_there_once_and_single_values_are_in_none():
    found = swept(["seed=range(2)", "privacy.epsilon=1,3,3", "data.views=[a,b]"])
    assert found == (
        ("seed=0", "privacy.epsilon=1"),
        ("seed=0", "privacy.epsilon=3"),
        ("seed=1", "privacy.epsilon=1"),
        ("seed=1", "privacy.epsilon=3"),
    )


@pytest.mark.parametrize("word", ["seed=range(2", "privacy.epsilon=interval(1,3)", "seed"])
def test_what_names_no_values_is_refused(word):
    with pytest.raises(ConfigError, match="values with commas between"):
        swept([word])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--sweep"], 2, "--sweep with an experiment"),
        (["quickstart", "--sweep", "seed=1"], 2, "0 combinations"),
        (["quickstart", "--sweep", "seed=range(501)"], 2, "501 combinations"),
        (["quickstart", "--sweep", "privacy.epsilon=1,-3"], 2, "privacy"),
        (["quickstart", "--sweep", "seed=1,2", "privacy.budget.epsilon=4"], 3, "after the 2 runs"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(skinml, tmp_path, words, code, told):
    found = skinml("run", *words, *([f"work_dir={tmp_path}"] if "quickstart" in words else []))
    assert found.code == code, found.told
    assert told in found.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_each_run_is_done_once_and_no_more_than_asked_for_at_a_time(at_once):
    lock, running, most = Lock(), 0, 0

    def work(what: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        sleep(0.01)
        with lock:
            running -= 1
        return what.upper()

    with ThreadPoolExecutor(9) as pool:
        found = dict(as_they_end("abcde", partial(pool.submit, work), at_once))
    assert found == {each: each.upper() for each in "abcde"}
    assert most <= at_once


def test_after_an_interruption_no_further_run_begins():
    begun = []

    def begin(what: str) -> Future[str]:
        begun.append(what)
        task: Future[str] = Future()
        task.set_exception(KeyboardInterrupt())
        return task

    with pytest.raises(KeyboardInterrupt):
        list(as_they_end("abcde", begin, 2))
    assert begun == ["a", "b"]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("sweep", ("run", "quickstart", "--sweep", "seed=1,2")),
        ("compare", ("compare", "quickstart", "--epsilon", "none,3")),
    ],
)
def test_who_breaks_off_several_runs_is_told_that_the_same_command_goes_on(
    skinml, tmp_path, monkeypatch, module, words
):
    def stopped(*_: object, **__: object) -> None:
        error = KeyboardInterrupt()
        error.add_note("Its whole rounds are kept. Go on: skinml run --resume RUN")
        raise error

    monkeypatch.setattr(f"skinml.experiments.{module}.carried_out", stopped)
    found = skinml(*words, f"work_dir={tmp_path}")
    assert found.code == 130, found.told
    assert found.err.splitlines()[-2:] == ["error: interrupted", f"  {SAME_COMMAND}"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_sweep_runs_each_combination_and_goes_on_where_it_was(
    skinml, small, centralised, tmp_path
):
    (tmp_path / "cohorts").symlink_to(centralised[0] / "cohorts")
    words = ["run", "quickstart", "--sweep", *small, "federation=centralised", "--json"]
    words += [f"work_dir={tmp_path}", "tracking.enabled=true"]
    few = skinml(*words, "privacy.epsilon=1", "seed=range(2)")
    assert few.code == 0, few.told
    assert [line["changes"] for line in few.json["runs"]] == ["seed=0", "seed=1"]
    every = skinml(*words, "privacy.epsilon=1,3", "seed=range(2)", "--jobs", "2")
    assert every.code == 0, every.told
    found = every.json
    assert found["reused"] == 2
    assert found["charged"]["num_runs"] == 2
    assert {line["run"] for line in few.json["runs"]} < {line["run"] for line in found["runs"]}
    assert [round(line["epsilon"], 2) for line in found["runs"]] == [1, 1, 3, 3]
    with open(found["artifacts"]["csv"]) as table:
        rows = list(csv.DictReader(table))
    with open(found["artifacts"]["json"]) as kept:
        assert json.load(kept) == found
    assert [row["run"] for row in rows] == [line["run"] for line in found["runs"]]
    assert all(
        float(row["auroc"]) == line["auroc"]["value"]
        for row, line in zip(rows, found["runs"], strict=True)
    )
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    parent = client.get_run(found["artifacts"]["mlflow_run"])
    assert parent.data.tags["skinml.kind"] == "sweep"
    assert (
        parent.data.metrics["privacy.epsilon_3 seed_1/auroc"] == found["runs"][3]["auroc"]["value"]
    )
    below = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    )
    assert {each.data.tags["skinml.run"] for each in below} == {
        line["run"]
        for line in found["runs"][2:]  # the others are below the first sweep
    }
