"""Proposals: nothing runs without a yes, and a yes is to one proposal, word for word."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.deployment import proposals
from skinml.deployment.bundle import digest
from skinml.deployment.run_proposal import RunProposal, config_of, parse_proposal
from skinml.errors import ConfigError, IntegrityError, PolicyError
from skinml.experiments.approval import drafted, expected_classes
from skinml.stewardship.audit_log import AuditEntry
from tests.deployment.clinic_place import FEDERATION, NOW, RUN, make_folder, proposal

LATER = NOW + timedelta(days=8)


@pytest.fixture(scope="module")
def asked() -> RunProposal:
    return proposal()


@pytest.fixture
def folder(tmp_path: Path) -> ClinicFolder:
    return make_folder(tmp_path)


def logged(folder: ClinicFolder) -> list[AuditEntry]:
    kinds = ("run proposed", "run answered")
    return [entry for entry in folder.audit.entries() if entry.event in kinds]


def decide(folder: ClinicFolder, yes: bool, **more: Any) -> str:
    return proposals.decide(folder, RUN, yes, "ada", now=NOW, **more)


def test_nothing_runs_before_a_yes_and_after_it_the_very_config(
    folder: ClinicFolder, asked: RunProposal
) -> None:
    assert proposals.receive(folder, asked, now=NOW) == "pending"
    with pytest.raises(PolicyError, match="clinic approve"):
        proposals.approved_config(folder, RUN, now=NOW)
    assert decide(folder, True) == "approved"
    again = open_folder(folder.path)
    assert proposals.receive(again, asked, now=NOW) == "approved"
    assert proposals.approved_config(again, RUN, now=NOW) == asked.config
    assert [entry.event for entry in logged(again)] == ["run proposed", "run answered"]
    told = logged(again)[-1]
    assert (told.actor, told.fields["answer"]) == ("ada", "yes")
    assert told.fields["digest"] == asked.digest
    assert told.fields["epsilon"] == pytest.approx(3, abs=0.01)


def test_a_no_holds_until_somebody_says_yes(folder: ClinicFolder, asked: RunProposal) -> None:
    proposals.receive(folder, asked, now=NOW)
    assert decide(folder, False) == "refused"
    assert proposals.receive(folder, asked, now=NOW) == "refused"
    with pytest.raises(PolicyError):
        proposals.approved_config(folder, RUN, now=NOW)
    assert decide(folder, True) == "approved"
    assert decide(folder, False) == "refused"
    assert [entry.fields.get("answer") for entry in logged(folder)] == [None, "no", "yes", "no"]


def test_a_run_that_has_begun_is_held_against_the_policy_with_what_is_left_of_it(
    folder: ClinicFolder, asked: RunProposal
) -> None:
    proposals.receive(folder, asked, now=NOW)
    config = config_of(asked)
    plan = partial(drafted, config, expected_classes(config), num_clinics=2, run=RUN)
    every, rest = plan().entries, plan(from_round=41).entries
    done = every[: len(every) - len(rest)]
    binding = replace(every[0].binding, round=40)
    folder.ledger.reserve(binding, [(e.name, e.purpose, e.split, e.event) for e in done])
    assert 1 < len(done) < len(every)
    assert folder.policy.privacy.max_epsilon_per_run == config.privacy.epsilon == 3
    decide(folder, True)
    assert decide(folder, False) == "refused"
    assert decide(folder, True) == "approved"
    assert logged(folder)[-1].fields["epsilon"] == pytest.approx(3, abs=0.01)


CHANGES: tuple[dict[str, Any], ...] = (
    {"config": json.dumps(json.loads(proposal().config) | {"seed": 7})},
    {"config": proposal().config + " "},
    {"bundle": "0" * 64},
    {"clinics": ("north", "south", "west")},
    {"expires": NOW + timedelta(days=9)},
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_any_other_word_needs_a_new_answer(
    folder: ClinicFolder, asked: RunProposal, change: dict[str, Any]
) -> None:
    proposals.receive(folder, asked, now=NOW)
    decide(folder, True)
    other = RunProposal(**(asked.model_dump() | change))
    assert other.digest != asked.digest
    assert proposals.receive(folder, other, now=NOW) == "pending"
    with pytest.raises(PolicyError):
        proposals.approved_config(folder, RUN, now=NOW)


def test_an_answer_to_what_was_looked_at_is_none_to_what_came_since(
    folder: ClinicFolder, asked: RunProposal
) -> None:
    proposals.receive(folder, asked, now=NOW)
    proposals.receive(folder, RunProposal(**(asked.model_dump() | CHANGES[0])), now=NOW)
    with pytest.raises(ConfigError, match="meantime"):
        decide(folder, True, expected=asked.digest)
    assert proposals.state(folder, RUN, now=NOW) == "pending"


def test_what_has_expired_runs_no_more_and_cannot_be_approved(
    folder: ClinicFolder, asked: RunProposal
) -> None:
    with pytest.raises(PolicyError, match="expired"):
        proposals.receive(folder, asked, now=LATER)
    proposals.receive(folder, asked, now=NOW)
    with pytest.raises(PolicyError, match="expired"):
        proposals.decide(folder, RUN, True, "ada", now=LATER)
    decide(folder, True)
    assert proposals.state(folder, RUN, now=LATER) == "refused"
    with pytest.raises(PolicyError):
        proposals.approved_config(folder, RUN, now=LATER)


def test_a_persons_yes_cannot_pass_the_policy(tmp_path: Path, asked: RunProposal) -> None:
    strict = make_folder(tmp_path, max_epsilon_per_run="1")
    proposals.receive(strict, asked, now=NOW)
    with pytest.raises(Exception, match="epsilon_per_run"):
        decide(strict, True)
    assert proposals.state(strict, RUN, now=NOW) == "pending"
    assert decide(strict, False) == "refused"


def test_a_coordinator_that_the_policy_does_not_know_gets_no_yes(
    tmp_path: Path, asked: RunProposal
) -> None:
    other = make_folder(tmp_path, coordinators="[simulation]")
    proposals.receive(other, asked, now=NOW)
    with pytest.raises(PolicyError, match="coordinator"):
        decide(other, True)


@pytest.mark.parametrize(
    ("approval", "lines", "change", "expected"),
    [
        ("[quickstart]", {}, {}, "approved"),
        ('["*"]', {}, {}, "approved"),
        ("[]", {}, {}, "pending"),
        ("[derm_tone]", {}, {}, "pending"),
        ("[quickstart]", {"max_epsilon_per_run": "1"}, {}, "pending"),
        ("[quickstart]", {"coordinators": "[simulation]"}, {}, "pending"),
        ("[quickstart]", {}, {"bundle": "0" * 64}, "pending"),
    ],
)
def test_the_policy_says_yes_by_rule_only_where_all_else_is_kept(
    tmp_path: Path,
    asked: RunProposal,
    approval: str,
    lines: dict[str, str],
    change: dict[str, Any],
    expected: str,
) -> None:
    ruled = make_folder(tmp_path, approval=approval, **lines)
    other = RunProposal(**(asked.model_dump() | change))
    assert proposals.receive(ruled, other, now=NOW) == expected
    answers = [entry.fields.get("answer") for entry in logged(ruled)]
    assert answers == ([None, "rule"] if expected == "approved" else [None])


def test_an_unknown_bundle_runs_only_under_a_persons_yes(
    folder: ClinicFolder, asked: RunProposal
) -> None:
    other = RunProposal(**(asked.model_dump() | {"bundle": "ab" * 32}))
    assert proposals.approved_bundles(folder, now=NOW) == {digest()}
    proposals.receive(folder, other, now=NOW)
    assert proposals.approved_bundles(folder, now=NOW) == {digest()}
    decide(folder, True)
    assert proposals.approved_bundles(folder, now=NOW) == {digest(), "ab" * 32}
    assert proposals.approved_bundles(folder, now=LATER) == {digest()}
    decide(folder, False)
    assert proposals.approved_bundles(folder, now=NOW) == {digest()}


@pytest.mark.parametrize(
    "change",
    [
        {"clinics": ("south",)},
        {"experiment": "derm_tone"},
        {"purpose": "teaching"},
        {"config": "[]"},
        {"config": "{"},
        {"config": json.dumps(json.loads(proposal().config) | {"command": "x"})},
    ],
)
def test_a_proposal_that_does_not_fit_is_not_taken(
    folder: ClinicFolder, asked: RunProposal, change: dict[str, Any]
) -> None:
    with pytest.raises((ConfigError, PolicyError)):
        proposals.receive(folder, RunProposal(**(asked.model_dump() | change)), now=NOW)
    assert proposals.all_proposed(folder, now=NOW) == ()


@pytest.mark.parametrize("name", ["run", "experiment", "coordinator"])
def test_no_name_can_be_a_path_or_words(asked: RunProposal, name: str) -> None:
    for word in ("../up", "a b", "a\nb", "", "x" * 200, "/etc"):
        values = json.loads(asked.content()) | {name: word}
        with pytest.raises(ConfigError, match=name):
            parse_proposal(json.dumps(values))


@pytest.mark.slow
def test_many_waiting_proposals_do_not_fill_the_folder(
    folder: ClinicFolder, asked: RunProposal
) -> None:
    for number in range(64):
        one = RunProposal(**(asked.model_dump() | {"run": f"run-{number}"}))
        proposals.receive(folder, one, now=NOW)
    with pytest.raises(PolicyError, match="64"):
        proposals.receive(folder, asked, now=NOW)


def test_a_changed_answer_or_proposal_is_noticed(folder: ClinicFolder, asked: RunProposal) -> None:
    proposals.receive(folder, asked, now=NOW)
    index = folder.path / proposals.INDEX
    before = index.read_bytes()
    decide(folder, False)
    index.write_bytes(before)  # set back to the time before the no
    with pytest.raises(IntegrityError):
        proposals.state(folder, RUN, now=NOW)


def test_a_changed_config_on_the_disk_does_not_run(
    folder: ClinicFolder, asked: RunProposal
) -> None:
    proposals.receive(folder, asked, now=NOW)
    decide(folder, True)
    (file,) = (folder.path / "proposals").iterdir()
    file.write_bytes(file.read_bytes().replace(b"epsilon", b"epsilom", 1))
    with pytest.raises(IntegrityError):
        proposals.approved_config(folder, RUN, now=NOW)


def test_the_log_names_the_federation_that_asked(folder: ClinicFolder, asked: RunProposal) -> None:
    proposals.receive(folder, asked, now=NOW)
    assert logged(folder)[0].actor == FEDERATION
