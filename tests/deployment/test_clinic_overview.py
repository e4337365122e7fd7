"""The clinic's side of a federation on one screen."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from skinml.cli.main import main
from skinml.clinic.folder import ClinicFolder
from skinml.deployment import proposals
from skinml.deployment.clinic_overview import clinic_overview
from skinml.deployment.node import is_served
from skinml.durable import locked
from skinml.experiments.workspace import TERMS
from tests.deployment.clinic_place import NOW, RUN, make_folder, proposal
from tests.deployment.test_approve import SOON, member_with


@pytest.fixture
def folder(tmp_path: Path) -> ClinicFolder:
    made = make_folder(tmp_path)
    member_with(made, tmp_path)
    (made.path / "federation").mkdir(mode=0o700)
    return made


def write_log(folder: ClinicFolder, *lines: dict[str, object]) -> None:
    text = "\n".join(json.dumps({"at": NOW.isoformat(), **line}) for line in lines)
    (folder.path / "federation" / "node.log").write_text("cut off line}\n" + text + "\n")


ANSWER: dict[str, object] = {"part": "runner", "event": "answered", "words": "query.x in 1 s"}
WHY: dict[str, object] = {"part": "node", "event": "why", "words": "The key was refused."}


def test_a_clinic_that_joined_nothing_has_none(tmp_path: Path) -> None:
    assert clinic_overview(make_folder(tmp_path), NOW) is None


def test_it_tells_what_waits_and_what_may_run(folder: ClinicFolder) -> None:
    proposals.receive(folder, proposal(), now=NOW)
    found = clinic_overview(folder, NOW)
    assert found is not None
    assert (found.waiting, found.approved) == ((RUN,), ())
    proposals.decide(folder, RUN, True, "ada", now=NOW)
    found = clinic_overview(folder, NOW)
    assert found is not None
    assert (found.waiting, found.approved) == ((), (RUN,))


def test_it_is_served_only_while_a_process_has_the_lock(folder: ClinicFolder) -> None:
    assert not is_served(folder)
    with locked(folder.path / "federation" / ".serving.lock", "test"):
        assert is_served(folder)
    assert not is_served(folder)


def test_an_answer_ends_the_trouble_before_it_and_not_after(folder: ClinicFolder) -> None:
    write_log(folder, WHY, ANSWER)
    found = clinic_overview(folder, NOW)
    assert found is not None
    assert (found.heard, found.trouble) == (NOW, "")
    write_log(folder, ANSWER, WHY)
    found = clinic_overview(folder, NOW)
    assert found is not None
    assert (found.heard, found.trouble) == (NOW, "The key was refused.")


def test_the_last_round_and_its_pace_come_from_the_log(folder: ClinicFolder) -> None:
    for number, minute in ((1, 0), (1, 1), (2, 3), (3, 7)):
        at = NOW + timedelta(minutes=minute)
        folder.audit.write("release", "ada", now=at, run=RUN, round=number)
    found = clinic_overview(folder, NOW)
    assert found is not None
    last = found.last_round
    assert last is not None
    assert (last.run, last.number, last.minutes) == (RUN, 3, 4.0)


def test_it_tells_how_far_each_run_is_here(folder: ClinicFolder) -> None:
    def here() -> tuple[str, int | None] | None:
        found = clinic_overview(folder, NOW)
        assert found is not None
        return (found.runs[0].stage, found.runs[0].round) if found.runs else None

    def answered(kind: str, **more: object) -> dict[str, object]:
        return {"part": "runner", "event": "answered", "kind": kind, "run": RUN, **more}

    assert here() is None
    proposals.receive(folder, proposal(), now=NOW)
    assert here() == ("pending", None)
    proposals.decide(folder, RUN, True, "ada", now=NOW)
    assert here() == ("approved", None)
    folder.run(RUN).mkdir(parents=True)
    (folder.run(RUN) / TERMS).write_text("{}")
    said = [answered("query.prepare")]
    write_log(folder, *said)
    assert here() == ("ready", None)
    said += [answered("train", round=0), answered("train", round=4)]
    write_log(folder, *said)
    assert here() == ("round", 4)
    (folder.run(RUN) / TERMS).unlink()
    write_log(folder, *said, answered("query.finish"))
    assert here() is None


def test_it_is_connected_from_the_moment_when_the_coordinator_let_it_in(
    folder: ClinicFolder,
) -> None:
    let_in = {"part": "node", "event": "output", "line": "INFO :  SuperNode ID: 77"}
    with locked(folder.path / "federation" / ".serving.lock", "test"):
        for lines, expected in (
            ([{"part": "node", "event": "started"}], None),
            ([{"part": "node", "event": "started"}, let_in], NOW),
            ([let_in, {"part": "node", "event": "ended"}], None),
        ):
            write_log(folder, *lines)
            found = clinic_overview(folder, NOW)
            assert found is not None
            assert found.connected == expected
    write_log(folder, let_in)
    found = clinic_overview(folder, NOW)
    assert found is not None
    assert found.connected is None, "nothing serves it"


def test_the_screen_stays_one_screen(
    folder: ClinicFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    proposals.receive(folder, proposal(expires=SOON))
    assert main(["clinic", "status", "--folder", str(folder.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(len(line) for line in lines if not line.startswith("next: ")) <= 80
    said = "\n".join(lines)
    assert "DOES NOT TAKE PART" in said
    assert f"{RUN}: waits for your yes or no" in said
    assert "runs: 1 to be answered" in said
    assert lines[-1] == f"next: skinml clinic serve --folder {folder.path}"
    assert main(["clinic", "status", "--folder", str(folder.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["federation"]["waiting"] == [RUN]
    assert told["next"] == lines[-1].removeprefix("next: ")
