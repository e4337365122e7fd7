"""Proposals, terms, ends and the answers to them: nothing else is in them, on both sides."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from skinml.clinic.folder import ClinicFolder
from skinml.deployment import proposals
from skinml.deployment.log_lines import said_of
from skinml.deployment.run_proposal import RunProposal
from skinml.deployment.setup_messages import (
    STATES,
    answer_setup,
    pack_content,
    pack_standing,
    read_standing,
    read_terms,
    write_end,
    write_terms,
)
from skinml.deployment.site_app import site_app
from skinml.errors import (
    ConfigError,
    DataError,
    EnvironmentProblem,
    IntegrityError,
    PolicyError,
)
from skinml.experiments.sites import Terms
from skinml.federated.client_app import guarded
from skinml.federated.local_grid import LocalGrid
from skinml.federated.messages import Reply, Request, pack_request, unpack_reply
from skinml.federated.problems import problem_of, require_problem
from skinml.records import Labels
from tests.deployment.clinic_place import FEDERATION, RUN, make_folder, proposal
from tests.federated.mutations import PATIENT, mutations

TERMS = Terms(
    run=RUN,
    config="{}",
    clinics=("north", "south"),
    clinics_root="",
    classes=Labels(("benign", "malignant"), (False, True)),
    num_features=384,
    registered=(("north", "a" * 64), ("south", "b" * 64)),
    coordinator=FEDERATION,
    simulated=False,
)


@pytest.fixture(scope="module")
def asked() -> RunProposal:
    return proposal(expires=datetime.now(UTC) + timedelta(days=7))


@pytest.fixture
def folder(tmp_path: Path) -> ClinicFolder:
    return make_folder(tmp_path)


class Clinic:
    """A clinic's real app, asked one message at a time."""

    def __init__(self, folder: ClinicFolder) -> None:
        self._grid = LocalGrid(site_app(folder.path), [{}])

    def answer(self, kind: str, content: RecordDict) -> Message:
        (number,) = self._grid.push_messages([Message(content, 2, kind)])
        (reply,) = self._grid.pull_messages([number])
        return reply

    def told(self, kind: str, content: bytes) -> tuple[str, str]:
        return read_standing(self.answer(kind, pack_content(content)), "north")


def other_contents(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Change a JSON object in every way."""
    values = json.loads(content)
    texts = {
        "nothing": "",
        "a list": "[]",
        "words": PATIENT,
        "no number": "NaN",
        "depth": "[" * 100_000,
        "a space behind": content.decode() + " ",
        "a key twice": content.decode().replace("{", '{"run": "other", ', 1),
        "a long text": json.dumps(values | {"note": "x" * (1 << 21)}),
    }
    for what, text in texts.items():
        yield what, text.encode()
    yield "no text", b"\xff\xfe"
    yield "another order", json.dumps(dict(reversed(values.items()))).encode()
    yield "a key more", _written(content, values | {"num_patients": 17})
    yield "a patient for a key", _written(content, values | {PATIENT: True})
    for key in values:
        yield f"no {key}", _written(content, {k: v for k, v in values.items() if k != key})
        for other in (7, -1.5, None, True, "two words\n", [PATIENT], {PATIENT: 1}):
            yield f"{key}={other!r}", _written(content, values | {key: other})


def _written(like: bytes, values: dict[str, object]) -> bytes:
    """Write an object in the form of another: a proposal is written without spaces."""
    if like.endswith(b"\n"):
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    return json.dumps(values).encode()


def test_no_other_proposal_is_taken(folder: ClinicFolder, asked: RunProposal) -> None:
    clinic, kind = Clinic(folder), "query.propose"
    taken = [
        what for what, content in other_contents(asked.content()) if clinic.told(kind, content)[0]
    ]
    for what, records in mutations(pack_content(asked.content())):
        if read_standing(clinic.answer(kind, records), "north")[0]:
            taken.append(what)
    assert taken == []
    assert proposals.all_proposed(folder) == ()
    assert clinic.told(kind, asked.content()) == ("pending", "")  # the control


def test_no_other_terms_are_read() -> None:
    content = write_terms(TERMS)
    assert read_terms(content, "{}") == TERMS
    read = []
    for what, other in other_contents(content):
        try:
            read_terms(other, "{}")
        except IntegrityError:
            continue
        read.append(what)
    # Of the right form, and held against what was approved and what the clinic's data give.
    names = ("run='two words\\n'", "coordinator='two words\\n'")
    assert set(read) == {*names, "clinics=['p0017']", "num_features=7"}


def test_no_other_end_of_a_run_is_heard(folder: ClinicFolder, asked: RunProposal) -> None:
    clinic, kind, content = Clinic(folder), "query.finish", write_end(RUN, "completed")
    proposals.receive(folder, asked)
    heard = [what for what, other in other_contents(content) if clinic.told(kind, other)[0]]
    for what, records in mutations(pack_content(content)):
        if read_standing(clinic.answer(kind, records), "north")[0]:
            heard.append(what)
    assert heard == []
    assert clinic.told(kind, write_end("another-run", "completed"))[0] == ""
    assert clinic.told(kind, content) == ("gone", "")  # the control


@pytest.mark.parametrize("change", [{"bundle": "0" * 64}, {"clinics": ("north",)}, {}], ids=str)
def test_a_round_is_answered_only_while_the_latest_proposal_has_its_yes(
    folder: ClinicFolder, asked: RunProposal, change: dict[str, object]
) -> None:
    clinic = Clinic(folder)
    round_ = pack_request(Request(RUN, 1, 1, ("north", "south"), {}))

    def refusal() -> str:
        return str(unpack_reply(clinic.answer("train", round_).content).problem["rule"])

    proposals.receive(folder, asked)
    assert "approved" in refusal()
    proposals.decide(folder, RUN, True, "ada")
    assert "made ready" in refusal()  # the yes counts: what lacks now are the data
    if change:
        clinic.told("query.propose", RunProposal(**(asked.model_dump() | change)).content())
    else:
        proposals.decide(folder, RUN, False, "ada")
    assert "approved" in refusal()


@pytest.mark.parametrize("kind", STATES)
def test_no_other_answer_is_read_at_the_coordinator(kind: str) -> None:
    (state, *_) = sorted(STATES[kind])
    refusal = PolicyError(rule="a", got="b", do="Do c.")
    others = set().union(*STATES.values()) - STATES[kind]
    asked = Message(pack_content(b"{}"), 2, kind)
    assert _read(asked, pack_standing("north", kind, state)) == (state, "")  # the controls
    assert _read(asked, pack_standing("north", kind, "", problem_of(refusal))) == (
        "",
        "expected a; got b. Do c.",
    )
    honest = [
        pack_standing("north", kind, state),
        pack_standing("north", kind, "", problem_of(refusal)),
    ]
    for content in honest:
        for what, records in mutations(content):
            if "problem: " in what and what.split("=")[0][-3:] in ("ule", "got", " do"):
                assert "\n" not in _read(asked, records)[1]
            else:
                assert _read(asked, records) == ("", "an answer of another form"), what
    for other in others:
        records = pack_standing("north", next(k for k in STATES if other in STATES[k]), other)
        assert _read(asked, records) == ("", "an answer of another form")


def _read(asked: Message, records: RecordDict) -> tuple[str, str]:
    return read_standing(Message(records, reply_to=asked), "north")


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("gone", {}),
        ("", {}),
        (PATIENT, {}),
        (7, {}),
        (["ready"], {}),
        ("ready", {"code": 3, "rule": "a", "got": "b", "do": "c"}),
        ("", {"code": 3}),
        ("", {"code": 2, "rule": "x" * 501, "got": "b", "do": "c"}),
        ("", {"code": 4, "rule": "a", "got": PATIENT, "do": "c"}),
        ("", {"code": 3, "rule": "a", "got": f"b\n{PATIENT}", "do": "c"}),
        ("", {"code": 3, "rule": "a", "got": "b", "do": "c", PATIENT: 1}),
    ],
)
def test_no_other_answer_leaves_a_clinic(state: object, problem: dict[str, str | int]) -> None:
    with pytest.raises(IntegrityError):
        pack_standing("north", "query.prepare", state, problem)


def test_a_defect_at_a_clinic_leaves_it_as_its_class_alone() -> None:
    def fail(content: bytes) -> str:
        raise ValueError(f"{PATIENT} of {len(content)}")

    LocalGrid(ClientApp(), [])
    reply = answer_setup(Message(pack_content(b"{}"), 2, "query.finish"), "north", fail)
    assert not reply.has_error()
    words = read_standing(reply, "north")[1]
    assert "got ValueError" in words
    assert PATIENT not in words


@pytest.mark.parametrize(
    "error",
    [
        DataError(rule="a known diagnosis", got=f"{PATIENT}, naevus (3)", do="Mend the list."),
        IntegrityError(rule="sealed bytes", got=f"/srv/{PATIENT}/samples", do="Restore them."),
        IntegrityError(rule="an unchanged picture", got=f"{PATIENT}.jpg", do="Restore it."),
        ConfigError(rule="a folder", got=f"C:\\pictures\\{PATIENT}", do="Choose another."),
        EnvironmentProblem(rule="a disk", got=f"{PATIENT}.png", do="Make room."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_words_of_a_list_and_places_on_a_disk_neither_leave_nor_are_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(content: bytes) -> str:
        raise error

    def fail_in_a_round() -> Reply:
        raise error

    LocalGrid(ClientApp(), [])
    asked = Message(pack_content(b"{}"), 2, "query.prepare")
    with caplog.at_level(logging.DEBUG):
        words = read_standing(answer_setup(asked, "north", fail), "north")[1]
        guarded(asked, fail_in_a_round)
    assert PATIENT not in words + caplog.text
    assert type(error).__name__ in words
    assert type(error).__name__ in caplog.text


def test_an_error_about_data_is_its_class_in_a_log() -> None:
    error = DataError(rule="a known diagnosis", got=f"{PATIENT}, naevus (3)", do="Mend it.")
    assert PATIENT not in said_of(error)
    assert said_of(error).startswith("DataError")


def test_a_coordinator_reads_no_place_on_a_disk() -> None:
    told = {"code": 5, "rule": "a", "got": "b in /srv/clinic", "do": "c"}
    with pytest.raises(IntegrityError):
        require_problem(told)
    assert require_problem(told | {"got": "privacy.trust=local, 3 < t"})
