"""`skinml clinic approve` and the card: all that matters at 80 columns, and one clear answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from skinml.cli.main import main
from skinml.clinic.folder import ClinicFolder
from skinml.deployment import proposals
from skinml.deployment.card import card_of
from skinml.deployment.card_words import sections_of
from skinml.deployment.joining import FILE, Membership
from skinml.deployment.run_proposal import RunProposal
from tests.deployment.clinic_place import FEDERATION, RUN, make_folder, proposal

SOON = datetime.now(UTC) + timedelta(days=7)
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def asked() -> RunProposal:
    return proposal("privacy.epsilon=2", expires=SOON)


@pytest.fixture
def folder(tmp_path: Path, asked: RunProposal) -> ClinicFolder:
    made = make_folder(tmp_path)
    proposals.receive(made, asked)
    return made


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], folder: ClinicFolder) -> Say:
    def call(*words: str, place: ClinicFolder = folder) -> tuple[int, str, str]:
        code = main(["clinic", "approve", *words, "--folder", str(place.path)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def member_with(folder: ClinicFolder, data: Path) -> None:
    """Let the folder belong to the federation, with data."""
    member = Membership(
        federation=FEDERATION,
        clinic="north",
        address="127.0.0.1:8443",
        ca="none",
        node_id=7,
        node_key=f"node-{'0' * 16}",
        public_key="none",
        joined=datetime.now(UTC),
        data=str(data),
    )
    content = member.model_dump_json().encode()
    folder.anchors.replace(folder.path / FILE, content, "membership")


def test_the_list_names_what_waits(say: Say) -> None:
    code, out, _ = say()
    assert code == 0
    assert RUN[:10] in out
    assert FEDERATION in out
    assert "waits" in out


def test_without_an_answer_the_run_goes_on_waiting(say: Say, folder: ClinicFolder) -> None:
    code, out, err = say(RUN)
    assert code == 0
    assert "--yes or --no" in err
    assert proposals.state(folder, RUN) == "pending"
    assert max(map(len, out.splitlines())) <= 80
    assert "training.head.momentum" not in out
    for words in (
        "of 2 clinics: north, south",
        "federated training",
        "privacy.epsilon: 2 (here: 3)",
        "as the installed skinml published it",
        "gradient, 100 times",
        "under masks",
        "the most that one patient can change",
        "skinml clinic serve --data IMAGES",
        "this run: 2 of at most 3",
        "a round tried again is charged again: at most 3",
        f"{SOON:%Y-%m-%d}",
        "Held against your policy",
        "It waits for an answer.",
    ):
        assert words in out, words


def test_the_card_says_in_words_when_groups_steer_training(tmp_path: Path, say: Say) -> None:
    assert "who counts" not in say(RUN)[1]
    (tmp_path / "other").mkdir()
    other = make_folder(tmp_path / "other")
    steered = ("mitigation.method=group_dro", "mitigation.group=sex", "data.groups=[sex]")
    proposals.receive(other, proposal(*steered, expires=SOON))
    told = say(RUN, place=other)[1]
    assert "Groups by sex for whom the model does worse count more" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 80
    assert json.loads(say(RUN, "--json", place=other)[1])["steering"].startswith("Groups by sex")


def test_the_card_is_one_page_and_the_config_comes_where_it_is_asked_for(say: Say) -> None:
    short = say(RUN)[1].splitlines()
    assert len(short) <= 48
    whole = say(RUN, "--config")[1].splitlines()
    assert whole[-len(short) :] == short
    told = {line.partition(":")[0] for line in whole[: -len(short)]}
    assert told >= {"privacy.epsilon", "training.head.momentum", "fairness.margin", "seed"}
    unread = ("data.synthetic.", "data.partition.", "tracking.", "training.network.", "work_dir")
    assert not [name for name in told if name.startswith(unread)]


@pytest.mark.parametrize(("word", "state"), [("--yes", "approved"), ("--no", "refused")])
def test_an_answer_holds_and_is_logged(
    say: Say, folder: ClinicFolder, word: str, state: str
) -> None:
    code, out, _ = say(RUN, word)
    assert code == 0
    assert f"The run is {state}." in out
    assert ("no further answer from here" in out) == (state == "refused")
    assert proposals.state(folder, RUN) == state
    assert folder.audit.entries()[-1].fields["answer"] == word.removeprefix("--")


def test_json_is_one_object_and_answers_only_when_told_to(say: Say, folder: ClinicFolder) -> None:
    told = json.loads(say(RUN, "--json")[1])
    assert told["state"] == "pending"
    assert told["config"]["privacy"]["epsilon"] == 2
    assert told["changed"] == [{"name": "privacy.epsilon", "here": "3", "asked": "2"}]
    assert told["refused"] == []
    assert {each["what"] for each in told["leaving"]} >= {"gradient", "validation scores"}
    assert [each["span"] for each in told["costs"]] == ["run", "year", "life"]
    assert told["most"] == 3
    assert json.loads(say(RUN, "--yes", "--json")[1])["state"] == "approved"
    assert json.loads(say("--json")[1])["runs"][0]["answer"] == "yes"


def test_a_yes_against_the_policy_is_refused_in_its_words(say: Say, tmp_path: Path) -> None:
    strict = make_folder(tmp_path / "strict", max_epsilon_per_run="1")
    proposals.receive(strict, proposal(expires=SOON))
    code, out, err = say(RUN, "--yes", place=strict)
    assert code == 3
    assert "The policy refuses: epsilon per run" in out
    assert "epsilon_per_run" in err
    assert proposals.state(strict, RUN) == "pending"


def test_whoever_may_not_approve_sees_no_card(say: Say, tmp_path: Path) -> None:
    roles = '{steward: [nobody-here], clinician: [], operator: ["*"], auditor: []}'
    other = make_folder(tmp_path / "other", roles=roles)
    proposals.receive(other, proposal(expires=SOON))
    for words in ((RUN,), (RUN, "--yes"), (RUN, "--json")):
        code, out, err = say(*words, place=other)
        assert code == 3
        assert "approve a run" in err
        assert "epsilon" not in out
    assert proposals.state(other, RUN) == "pending"


@pytest.mark.parametrize("words", [("--yes",), ("--no",), (RUN, "--yes", "--no"), ("nothing",)])
def test_slips_are_told_and_change_nothing(
    say: Say, folder: ClinicFolder, words: tuple[str, ...]
) -> None:
    code, _, err = say(*words)
    assert code == 2
    assert "clinic approve" in err
    assert proposals.state(folder, RUN) == "pending"


def test_unknown_code_is_shouted(say: Say, folder: ClinicFolder, asked: RunProposal) -> None:
    other = RunProposal(**(asked.model_dump() | {"bundle": "ab" * 32, "run": "other"}))
    proposals.receive(folder, other)
    assert "UNKNOWN" in say("other")[1]


def _manifest(place: Path) -> dict[str, int]:
    """Forty patients with two images each, of whom a quarter have no licence."""
    rows: list[dict[str, Any]] = []
    for number in range(40):
        for image in "ab":
            (place / f"{number}{image}.png").touch()
            rows.append(
                {
                    "image": f"{number}{image}.png",
                    "patient_id": f"p{number}",
                    "diagnosis": "melanoma" if number % 3 == 0 else "nevus",
                    "licence": "" if number % 4 == 0 else "CC0-1.0",
                }
            )
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (place / "manifest.csv").write_text("\n".join(lines) + "\n")
    return {"patients": 30, "images": 60, "refused": 10}


def test_the_card_counts_as_the_run_would(folder: ClinicFolder, tmp_path: Path) -> None:
    truth = _manifest(tmp_path)
    member_with(folder, tmp_path)
    card = card_of(folder, RUN)
    assert card.data is not None, card.data_note
    found = (card.data.num_patients, card.data.num_images, card.data.num_refused)
    assert found == (truth["patients"], truth["images"], truth["refused"])
    assert 0 < card.data.num_training < truth["patients"]
    assert card.refused == ("patients",)  # its policy asks for 50
    for number, words in ((10, "10 other patients may"), (1, "1 other patient may")):
        other = replace(card, data=replace(card.data, num_refused=number))
        assert any(words in line for _, lines in sections_of(other, config="") for line in lines)


def test_with_enough_patients_no_term_is_open_any_more(tmp_path: Path) -> None:
    few = make_folder(tmp_path, least_patients="5")
    proposals.receive(few, proposal(expires=SOON))
    verdicts = {term.name: term.verdict for term in card_of(few, RUN).terms}
    assert verdicts["patients"] == "open"
    _manifest(tmp_path)
    member_with(few, tmp_path)
    verdicts = {term.name: term.verdict for term in card_of(few, RUN).terms}
    assert verdicts["patients"] == "within"


def test_data_that_cannot_be_counted_say_why(folder: ClinicFolder, tmp_path: Path) -> None:
    assert "--data IMAGES" in card_of(folder, RUN).data_note
    member_with(folder, tmp_path / "nowhere")
    card = card_of(folder, RUN)
    assert card.data is None
    assert "clinic check" in card.data_note


def test_what_a_run_costs_is_what_the_ledger_would_say(folder: ClinicFolder) -> None:
    run, year, life = card_of(folder, RUN).costs
    assert run.reached == pytest.approx(2, abs=0.01)
    assert (run.left, year.ceiling, life.ceiling) == (None, 6, 10)
    assert year.reached == life.reached == pytest.approx(2, abs=0.01)
    assert year.left is not None
    assert life.left is not None
    assert 4 < year.left < 6 < life.left < 10
