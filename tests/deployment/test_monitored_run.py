"""A run of real processes, watched: one clinic leaves, and every log and screen tells it."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from skinml.cli.main import main
from skinml.deployment.clinic_overview import clinic_overview
from skinml.deployment.log_lines import Line
from skinml.tracking.quiet import quiet
from tests.deployment.real_federation import (
    LOCAL,
    SKINML,
    Federation,
    real_federation,
    wait_for,
)

NAMES = ("east", "north", "south")
KEYS = frozenset(Line.__annotations__)
DEADLINE_S = 80.0
SETTINGS = (
    *LOCAL,
    "federation.allowed_missing=1",
    f"federation.round_deadline_s={DEADLINE_S}",
    "tracking.enabled=true",
)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_watched_run_tells_who_was_missing_and_its_logs_name_no_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with real_federation(tmp_path, *NAMES) as net:
        run = net.submit(*SETTINGS)
        watching = watch(net)
        assert watching.poll() is None
        wait_for(lambda: net.reached(run, "round", 1))
        (north,) = [each for each in overviews(net, "north") if each]
        assert [(each.run, each.stage) for each in north.runs] == [(run, "round")]
        assert north.connected is not None
        wait_for(lambda: net.reached(run, "round", 2))
        net.serving["south"].terminate()  # its people end it in the middle of a run
        result = net.finished(run)
        words, complaint = watching.communicate(timeout=60)
        assert watching.returncode == 0, complaint
        shown = json.loads(words.splitlines()[-1])["runs"][run]
        assert (shown["state"], shown["stage"]) == ("finished", "finished")
        without_south(shown, result)
        lines = every_line(net, run)
        told_by_north(lines["north"], run, shown["rounds"])
        in_mlflow(net, run, shown["rounds"])
        assert main(["clinic", "status", "--folder", str(net.clinics["north"].path)]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def watch(net: Federation) -> subprocess.Popen[str]:
    """What a script would wait with."""
    words = ("federation", "status", "--until-finished", "--folder", str(net.folder.path))
    return subprocess.Popen(
        [*SKINML, *words, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def overviews(net: Federation, *names: str) -> list[Any]:
    return [clinic_overview(net.clinics[name], datetime.now(UTC)) for name in names]


def without_south(shown: dict[str, Any], result: dict[str, Any]) -> None:
    """Its rounds have times, those without the clinic say so, and what not waiting has saved."""
    course = shown["course"]
    assert [each["round"] for each in course["rounds"]] == list(range(1, shown["rounds"] + 1))
    away = [each for each in course["rounds"] if each["missing"]]
    expected = [each["round"] for each in result["participation"] if each["missing"]]
    assert [each["round"] for each in away] == expected
    assert expected
    assert {name for each in away for name in each["missing"]} == {"south"}
    # A node that signs off is known to be gone: what was left of the deadline was saved.
    assert all(0 < each["saved_s"] <= DEADLINE_S for each in away)
    assert shown["pace"]["saved_s"] == pytest.approx(sum(each["saved_s"] for each in away), abs=0.1)
    stages = [each["stage"] for each in course["stages"]]
    assert stages == ["proposed", "preparing", "round", "evaluating", "finished"]
    assert all(each["ended"] for each in course["stages"])
    assert set(course["asked"]["answers"]) == {"east", "north"}


def every_line(net: Federation, run: str) -> dict[str, list[dict[str, Any]]]:
    """All log files, each line held to the form."""
    files = {"net": net.folder.logs / "serve.jsonl", "run": net.folder.runs / run / "log.jsonl"}
    files |= {name: each.path / "federation" / "node.log" for name, each in net.clinics.items()}
    found = {}
    for name, path in files.items():
        content = path.read_text()
        assert "PATIENT-" not in content
        found[name] = [json.loads(line) for line in content.splitlines()]
        for line in found[name]:
            assert {"at", "part", "event"} <= set(line) <= KEYS
            assert datetime.fromisoformat(line["at"]).utcoffset() == timedelta(0)
    missing = [line["clinic"] for line in found["run"] if line["event"] == "missing"]
    assert set(missing) == {"south"}
    assert [line["event"] for line in found["run"]][-1] == "finished"
    return found


def told_by_north(lines: list[dict[str, Any]], run: str, rounds: int) -> None:
    answered = [line for line in lines if line["event"] == "answered"]
    assert {line["run"] for line in answered} == {run}
    trained = {line["round"] for line in answered if line["kind"] == "train"}
    assert trained == set(range(1, rounds + 1))
    assert all(line["seconds"] >= 0 for line in answered)


def in_mlflow(net: Federation, run: str, rounds: int) -> None:
    """The parent has a child for each clinic; each tells its attendance, round by round."""
    with quiet():
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{net.folder.path / 'mlflow.db'}")
    every = client.search_runs(["1"])
    (parent,) = [each for each in every if each.data.tags.get("skinml.kind") == "run"]
    assert (parent.data.tags["skinml.run"], parent.info.status) == (run, "FINISHED")
    children = {
        each.data.tags["skinml.clinic"]: each
        for each in every
        if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert set(children) == set(NAMES)
    steps = {
        name: [each.step for each in client.get_metric_history(child.info.run_id, "took_part")]
        for name, child in children.items()
    }
    trained = list(range(1, rounds))  # the evaluation has no figures
    assert steps == {name: trained for name in NAMES}  # noqa: C420 each list is looked at alone
    assert children["south"].data.metrics["rounds_share"] < 1
    assert children["north"].data.metrics["rounds_share"] == 1
    assert children["north"].data.metrics["answer_s"] > 0
