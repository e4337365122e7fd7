"""How far a run is and how fast, as it is written down and as it is shown."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from skinml.cli.federation_status import screen
from skinml.cli.main import main
from skinml.deployment.enrolment import invite
from skinml.deployment.federation_folder import FederationFolder, make_federation
from skinml.deployment.flower_runs import FlowerRun
from skinml.deployment.log_lines import Line
from skinml.deployment.open_runs import open_runs
from skinml.deployment.overview import overview
from skinml.deployment.progress import Course, RoundTimes, entered, pace_of, saved_by, taken_up
from skinml.deployment.run_watch import RunWatch
from skinml.deployment.standing import (
    STANDING,
    Standing,
    read_standing,
    take_up,
    write_standing,
)
from skinml.errors import IntegrityError
from skinml.experiments.resuming import turn
from skinml.experiments.workspace import Workspace
from skinml.federated.answer_times import AnswerTimes
from skinml.federated.messages import Reply, Request
from skinml.records import Participation
from tests.deployment.clinic_place import NOW, RUN

CLINICS = ("north", "south", "west")
GONE = "the clinic's node is not connected"


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def whole(number: int, seconds: float, saved_s: float | None = 0.0) -> RoundTimes:
    return RoundTimes(number, 1, 1, at(0).isoformat(), at(1).isoformat(), seconds, (), saved_s)


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    return make_federation(tmp_path / "net", "skin-network", "127.0.0.1:8443", datetime.now(UTC))


@pytest.fixture
def draft(folder: FederationFolder) -> Path:
    made = Workspace(folder.path).draft(RUN)
    made.mkdir(parents=True)
    write_standing(made, Standing("proposed", dict.fromkeys(CLINICS, "not asked yet")))
    return made


def answered(*names: str) -> Iterator[tuple[str, Reply | str]]:
    """Replies of some clinics; the others are gone."""
    for name in CLINICS:
        yield name, Reply(name, 1, {}, {}) if name in names else GONE


def play(watch: RunWatch, number: int, *there: str, patience_s: float = 600.0) -> Participation:
    """A round in which some clinics are there."""
    ask = watch.stopwatch.timed(lambda requests: answered(*there), patience_s)
    told = ask(dict.fromkeys(CLINICS, Request(RUN, number, 1, CLINICS, {})))
    assert not isinstance(told, Mapping)
    list(told)
    missing = {name: GONE for name in CLINICS if name not in there}
    return Participation(number, CLINICS, there, missing, 1)


# What follows from the times


def test_stages_follow_one_another_and_the_last_one_ends_at_once() -> None:
    course = Course()
    for minute, stage in enumerate(("proposed", "proposed", "preparing", "round", "finished")):
        course = entered(course, stage, at(minute))
    told = [
        (each.stage, each.began[11:16], each.ended and each.ended[11:16]) for each in course.stages
    ]
    assert told == [
        ("proposed", "09:30", "09:32"),
        ("preparing", "09:32", "09:33"),
        ("round", "09:33", "09:34"),
        ("finished", "09:34", "09:34"),
    ]
    assert course.proposed == at(0).isoformat()


def test_what_a_killed_process_had_in_hand_ends_with_its_last_sign_of_life() -> None:
    course = taken_up(entered(Course(), "round", at(0)), 2, at(3).isoformat())
    course = entered(course, "round", at(60))
    assert [(each.life, each.began, each.ended) for each in course.stages] == [
        (0, at(0).isoformat(), at(3).isoformat()),
        (2, at(60).isoformat(), None),
    ]


def test_the_end_is_estimated_from_the_last_five_rounds() -> None:
    rounds = tuple(whole(n, s) for n, s in enumerate((900, 60, 60, 120, 60, 60), start=1))
    pace = pace_of(Course(rounds=rounds), 6, 10, NOW)
    assert (pace.round_s, pace.left_s) == (60, 240)
    assert pace.end(NOW + timedelta(seconds=1)) == at(5), "to the minute above"
    asked = AnswerTimes(7, 1, at(-0.5).isoformat())
    assert pace_of(Course(rounds=rounds, asked=asked), 6, 10, NOW).left_s == 210
    late = replace(asked, began=at(-30).isoformat())
    assert pace_of(Course(rounds=rounds, asked=late), 6, 10, NOW).left_s == 180, "never below"


def test_before_the_first_round_nothing_is_estimated() -> None:
    pace = pace_of(Course(asked=AnswerTimes(1, 1, at(0).isoformat())), 0, 10, NOW)
    assert (pace.round_s, pace.left_s, pace.end(NOW), pace.saved_s) == (None, None, None, 0)


def test_what_was_saved_is_what_was_left_of_the_deadline_and_never_invented() -> None:
    times = AnswerTimes(1, 1, "", {"north": 3.0}, {"south": 40.0, "west": 90.0})
    assert saved_by(times, ["south", "west"]) == 90.0, "they would have been waited for together"
    assert saved_by(times, ["south"]) == 40.0
    assert saved_by(times, []) == 0.0
    assert saved_by(times, ["north"]) == 0.0, "it answered, with a refusal"
    assert saved_by(replace(times, given_up={"west": 0.0}), ["west"]) is None
    rounds = (whole(1, 60, 90.0), whole(2, 60, None), whole(3, 60, 10.5))
    pace = pace_of(Course(rounds=rounds), 3, 4, NOW)
    assert (pace.saved_s, pace.unknown) == (100.5, 1)


# What is written down


def test_whoever_writes_a_standing_keeps_the_times_before_it(draft: Path) -> None:
    take_up(draft, 1)
    write_standing(draft, Standing("preparing", {"north": "preparing"}))
    watch = RunWatch(draft, RUN, dict.fromkeys(CLINICS, "taking part"), 0, 3)
    watch.round_done(play(watch, 1, "north", "south"))
    watch.round_done(play(watch, 2, *CLINICS))
    write_standing(draft, Standing("failed", problem="expected a; got b. Do c."))
    found = read_standing(draft)
    assert (found.stage, found.round, found.rounds, found.course.life) == ("failed", 2, 3, 1)
    stages = [each.stage for each in found.course.stages]
    assert stages == ["proposed", "preparing", "round", "evaluating", "failed"]
    first, second = found.course.rounds
    assert (first.round, first.missing, second.missing) == (1, ("west",), ())
    assert 599 < (first.saved_s or 0) <= 600
    assert second.saved_s == 0
    assert set(found.course.asked.answers if found.course.asked else ()) == set(CLINICS)
    assert len((draft / STANDING).read_bytes()) < 2500


def test_each_answer_is_on_the_disk_when_it_is_there(draft: Path) -> None:
    watch = RunWatch(draft, RUN, dict.fromkeys(CLINICS, "taking part"), 0, 3)
    ask = watch.stopwatch.timed(lambda requests: answered("north", "west"), 60.0)
    told = ask(dict.fromkeys(CLINICS, Request(RUN, 1, 1, CLINICS, {})))
    assert not isinstance(told, Mapping)
    seen = []
    for _ in told:
        asked = read_standing(draft).course.asked
        seen.append(set(asked.answers) if asked else None)
    assert seen == [{"north"}, {"north"}, {"north", "west"}]
    asked = read_standing(draft).course.asked
    assert asked is not None
    assert set(asked.given_up) == {"south"}


def test_a_resumed_run_goes_on_with_the_times_of_its_earlier_process(draft: Path) -> None:
    take_up(draft, 1)
    first = RunWatch(draft, RUN, dict.fromkeys(CLINICS, "taking part"), 0, 4)
    first.round_done(play(first, 1, *CLINICS))
    play(first, 2, "north")  # and it is killed
    take_up(draft, 2)
    assert read_standing(draft).course.asked is None
    second = RunWatch(draft, RUN, dict.fromkeys(CLINICS, "taking part"), 1, 4)
    second.round_done(play(second, 2, *CLINICS))
    course = read_standing(draft).course
    assert [(each.round, each.life) for each in course.rounds] == [(1, 1), (2, 2)]


def test_a_runs_log_has_a_line_an_event_with_keys_of_the_closed_list(draft: Path) -> None:
    take_up(draft, 1)
    watch = RunWatch(draft, RUN, dict.fromkeys(CLINICS, "taking part"), 0, 2)
    watch.round_done(play(watch, 1, "north", "south"))
    lines = [json.loads(line) for line in (draft / "log.jsonl").read_text().splitlines()]
    assert all(set(line) <= set(Line.__annotations__) for line in lines)
    assert [(line["event"], line.get("clinic")) for line in lines] == [
        ("asked", None),
        ("answered", "north"),
        ("answered", "south"),
        ("missing", "west"),
        ("round done", None),
    ]
    assert {(line["run"], line["round"], line["life"]) for line in lines} == {(RUN, 1, 1)}


def test_a_standing_of_another_form_is_refused_by_name(draft: Path) -> None:
    (draft / STANDING).write_text('{"stage": 3}')
    with pytest.raises(IntegrityError, match=STANDING):
        read_standing(draft)


# What is shown


def test_a_run_is_going_only_while_a_process_is_at_it(
    folder: FederationFolder, draft: Path
) -> None:
    def state(*flower: FlowerRun) -> str:
        (found,) = open_runs(folder, flower, NOW)
        return found.state

    begun = FlowerRun(1, RUN, "", "starting", "", "")
    assert state() == "broken off"
    assert state(begun) == "starting"
    assert state(replace(begun, state="failed")) == "broken off"
    with turn(draft):
        assert state() == "going"
    write_standing(draft, Standing("failed", problem="x"))
    assert state() == "failed"


def test_a_run_that_failed_says_what_is_kept_and_how_it_goes_on(
    folder: FederationFolder, draft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = RunWatch(draft, RUN, dict.fromkeys(CLINICS, "taking part"), 0, 4)
    for number in (1, 2):
        watch.round_done(play(watch, number, *CLINICS))
    write_standing(draft, Standing("failed", read_standing(draft).clinics, problem="Said no."))
    for command in ("runs", "status"):
        assert main(["federation", command, "--folder", str(folder.path)]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "Said no. 2 whole rounds are kept. Once that is mended: skinml" in told
        assert f"federation resume {RUN}" in told
        assert "south took part" in told
        assert "taking part" not in told


def test_a_look_at_either_side_loads_neither_flower_nor_pytorch() -> None:
    """Or each look would take as long as a round."""
    script = (
        "import sys; import skinml.cli.federation_status, skinml.cli.clinic_status; "
        "import skinml.deployment.overview, skinml.deployment.clinic_overview; "
        "print(sorted({'torch', 'flwr', 'opacus', 'mlflow', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def test_a_finished_run_is_shown_to_whoever_watched_it(
    folder: FederationFolder, draft: Path
) -> None:
    write_standing(draft, Standing("finished", dict.fromkeys(CLINICS, "done"), 3, 3))
    draft.rename(folder.runs / RUN)
    assert open_runs(folder, (), NOW) == ()
    (found,) = open_runs(folder, (), NOW, {RUN})
    assert (found.state, found.over) == ("finished", True)


def shown(folder: FederationFolder, now: datetime) -> list[str]:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(screen(overview(folder, now)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_screen_tells_at_80_columns_who_is_where_and_when_it_ends(
    folder: FederationFolder, draft: Path
) -> None:
    invite(folder, "north", datetime.now(UTC))
    with turn(draft):
        take_up(draft, 1)
        watch = RunWatch(draft, RUN, dict.fromkeys(CLINICS, "taking part"), 0, 4)
        assert "nobody can tell before the first round" in "\n".join(shown(folder, NOW))
        watch.round_done(play(watch, 1, "north", "south"))
        began = watch.stopwatch.timed(lambda requests: answered("south"), 60.0)
        told = began(dict.fromkeys(CLINICS, Request(RUN, 2, 1, CLINICS, {})))
        assert not isinstance(told, Mapping)
        next(iter(told))
        lines = shown(folder, datetime.now(UTC) + timedelta(seconds=30))
    said = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert f"{RUN}    round 2 of 4" in said
    assert "saved by waiting for nobody: 10.0 min" in said
    assert "ends about" in said
    assert f"not in round 1: {GONE}" in " ".join(said.split())
    assert "asked for round 2" in said


def test_json_has_what_the_screen_has(
    folder: FederationFolder, draft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take_up(draft, 1)
    watch = RunWatch(draft, RUN, dict.fromkeys(CLINICS, "taking part"), 0, 4)
    watch.round_done(play(watch, 1, "north", "south"))
    for words in ((), ("--live",)):
        assert main(["federation", "status", *words, "--folder", str(folder.path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"][RUN]
        assert (found["state"], found["round"], found["rounds"]) == ("broken off", 1, 4)
        assert found["pace"]["left_s"] is None
        assert 599 < found["pace"]["saved_s"] <= 600
        assert found["course"]["missing"] == {"west": GONE}
        known = asdict(read_standing(draft))
        assert {key: found[key] for key in known} == json.loads(json.dumps(known))


def test_waiting_for_the_end_ends_where_nothing_goes_on(
    folder: FederationFolder, draft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("federation", "status", "--until-finished", "--folder", str(folder.path))
    assert main(words) == 0
    assert "Go on: skinml federation resume" in capsys.readouterr().out
