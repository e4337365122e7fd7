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


ANSWER: dict[str, object] = {"part": "runner", "event": "output", "line": "answered query.x in 1 s"}
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


def test_the_screen_stays_one_screen(
    folder: ClinicFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    proposals.receive(folder, proposal(expires=SOON))
    assert main(["clinic", "status", "--folder", str(folder.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    said = "\n".join(lines)
    assert "DOES NOT TAKE PART" in said
    assert "1 run waits for an answer" in said
    assert main(["clinic", "status", "--folder", str(folder.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["federation"]["waiting"] == [RUN]
