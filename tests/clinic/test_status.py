"""Status: what the folder adds up to, as far as the asking user may know it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skinml.clinic.answers import answered, policy_of, usual_answers
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.new_clinic import make_clinic
from skinml.clinic.policies import put_in_force
from skinml.clinic.requests import note_request
from skinml.clinic.status import DueHere, Status, status_of
from skinml.errors import IntegrityError, PolicyError
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import GaussianEvent
from skinml.privacy.ledger import Binding
from skinml.stewardship.consent import Consent, ConsentRecord
from skinml.stewardship.roles import os_user
from tests.clinic import rights
from tests.clinic.test_access import bring_in

NOW = datetime.datetime(2026, 11, 22, 9, tzinfo=datetime.UTC)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ClinicFolder]:
    def build(**typed: str) -> ClinicFolder:
        answers = usual_answers(tmp_path / "north", {"XDG_STATE_HOME": str(tmp_path / "state")})
        for name, text in ({"unlock": str(tmp_path / "north.key")} | typed).items():
            answers = answered(answers, name, text)
        return make_clinic(tmp_path / "north", answers, str).folder

    return build


def release(folder: ClinicFolder, run: str, event: Any) -> None:
    binding = Binding(
        run=run,
        round=1,
        attempt=1,
        participants=("north", "south"),
        trust="distributed",
        unit="patient_within_clinic",
        split_key_id="0" * 8,
        simulated=True,
    )
    folder.ledger.reserve(binding, [("gradient", "training", "train", event)])


def test_a_new_clinic_has_nothing_spent_and_nobody_on_record(
    make: Callable[..., ClinicFolder],
) -> None:
    found = status_of(make(), NOW)
    assert found.num_patients == 0
    assert set(found.consents or {}) >= {"care", "federated_training"}
    assert found.spent is not None
    assert (found.spent.run, found.spent.life, found.spent.num_runs) == (0, 0, 0)
    assert [event.event for event in found.events] == ["folder created"]
    assert found.flags == ()
    assert found.free_bytes > 0


def test_consents_of_the_day_are_counted(make: Callable[..., ClinicFolder]) -> None:
    folder = make()
    consent = Consent(
        purposes=("federated_training",),
        valid_from=datetime.date(2026, 1, 1),
        valid_until=datetime.date(2026, 12, 31),
        form_version="1",
        how="paper",
        given_by="patient",
    )
    records = [ConsentRecord(f"P{number}", consent) for number in range(30)]
    folder.consents.import_records(records, source_digest="a", now=NOW, actor="ada")
    folder.consents.withdraw("P3", now=NOW, actor="ada")
    found = status_of(folder, NOW)
    assert found.num_patients == 30
    assert found.consents is not None
    assert found.consents["federated_training"] == 29
    later = status_of(folder, NOW + datetime.timedelta(days=60))
    assert later.consents is not None
    assert later.consents["federated_training"] == 0


def test_the_latest_run_is_told_from_all_runs(make: Callable[..., ClinicFolder]) -> None:
    folder = make()
    first, second = GaussianEvent(2.0, 1), GaussianEvent(4.0, 1)
    release(folder, "run-1", first)
    release(folder, "run-2", second)
    found = status_of(folder, datetime.datetime.now(datetime.UTC)).spent
    assert found is not None
    assert (found.num_runs, found.num_releases) == (2, 2)
    assert found.run == pytest.approx(epsilon([second], 1e-5))
    assert found.life == found.year == pytest.approx(epsilon([first, second], 1e-5))
    next_year = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=400)
    aged = status_of(folder, next_year).spent
    assert aged is not None
    assert aged.year == 0
    assert aged.life == found.life


def test_refusals_that_repeat_are_flagged(make: Callable[..., ClinicFolder]) -> None:
    folder = make()
    for hour in range(3):
        at = NOW + datetime.timedelta(hours=hour)
        folder.audit.write("refusal", "eve", now=at, action="erase", reason="role")
    (flag,) = status_of(folder, NOW).flags
    assert (flag.rule, flag.actor, flag.count) == ("repeated refusals", "eve", 3)


def as_other_roles(folder: ClinicFolder, **roles: tuple[str, ...]) -> Status:
    policy = folder.policy
    nobody = {"steward": ("nobody-here",), "clinician": (), "operator": (), "auditor": ()}
    changed = policy.roles.model_copy(update=nobody | roles)
    put_in_force(folder, policy.model_copy(update={"roles": changed}), "root", now=NOW)
    return status_of(folder, NOW)


def test_an_operator_sees_counts_of_consents_and_neither_log_nor_ledger(
    make: Callable[..., ClinicFolder],
) -> None:
    found = as_other_roles(make(), operator=(os_user(),))
    assert found.roles == ("operator",)
    assert found.consents is not None
    assert found.spent is None
    assert found.num_entries is None
    assert found.events == ()


def test_an_auditor_sees_the_log(make: Callable[..., ClinicFolder]) -> None:
    found = as_other_roles(make(), auditor=("*",))
    assert found.spent is not None
    assert found.num_entries == 2


def test_who_has_no_role_is_refused_and_the_log_says_so(
    make: Callable[..., ClinicFolder],
) -> None:
    folder = make()
    with pytest.raises(PolicyError):
        as_other_roles(folder)
    last = folder.audit.entries()[-1]
    assert (last.event, last.actor) == ("refusal", os_user())


def test_a_ledger_that_was_changed_is_no_status(make: Callable[..., ClinicFolder]) -> None:
    folder = make()
    release(folder, "run-1", GaussianEvent(2.0, 1))
    path = folder.path / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-9"))
    with pytest.raises(IntegrityError, match="ledger"):
        status_of(folder, NOW)


def test_nothing_but_the_folder_is_needed(make: Callable[..., ClinicFolder]) -> None:
    folder = make(purposes="care", least_patients="9")
    assert status_of(folder, NOW).policy == policy_of(
        answered(
            answered(usual_answers(folder.path, {"XDG_STATE_HOME": "/"}), "purposes", "care"),
            "least_patients",
            "9",
        )
    )


def test_what_waits_for_somebody_is_counted(tmp_path: Path) -> None:
    kept = "{images_days: 30, features_days: 9, predictions_days: 9, log_days: 9}"
    folder = rights.make(tmp_path, retention=kept)
    rights.enrol(folder, "p", "q")
    assert status_of(folder, rights.NOW).due == DueHere(0, 0, None, 0, 0)
    late = rights.NOW.date() - datetime.timedelta(days=40)
    note_request(folder, "p", "access", now=rights.NOW, received=late)
    note_request(folder, "q", "erase", now=rights.NOW)
    bring_in(folder, "p", "old", days_ago=31)
    bring_in(folder, "q", "new")
    (picture,) = folder.pictures.of_patient("q")
    folder.pictures.write([replace(picture, state="to_review")], now=rights.NOW, actor="ada")
    due = status_of(open_folder(folder.path), rights.NOW).due
    assert due == DueHere(2, 1, (late + datetime.timedelta(days=30)).isoformat(), 1, 1)
