"""Erasing a patient: what is gone, what stays, and that `kill -9` leaves nothing half-done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from skinml.clinic.begun import file_of
from skinml.clinic.certificates import verify_certificate
from skinml.clinic.consents import add_consent, import_consents
from skinml.clinic.erased import erased_among, give_keys
from skinml.clinic.erasure import erase_patient, finish_erasure
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.opening import open_at_screen
from skinml.clinic.requests import note_request, requests_of
from skinml.clinic.restriction import restrict_patient
from skinml.clinic.status import status_of
from skinml.durable import write_whole
from skinml.errors import DataError, IntegrityError, PolicyError
from skinml.privacy.events import GaussianEvent
from skinml.stewardship.consent import Consent, Withdrawal
from skinml.stewardship.pseudonyms import pseudonym
from tests.clinic.rights import FORM, NOW, enrol, make, release
from tests.stewardship.test_vault_killed import die_at

PATIENT, OTHER = "Ada-4711", "Bo-4712"
ERASURE = file_of("erasure")
HEAD = "personal-head.sealed"
GRADIENT = ("gradient", "training", "train", GaussianEvent(8.0))


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path / "made")
    enrol(folder, PATIENT, OTHER)
    release(folder, "run-1", 1, [GRADIENT], {"train": [PATIENT, OTHER]})
    return folder


def ask_and_keep_heads(folder: ClinicFolder) -> None:
    """Ask for the erasure, and keep two heads, one of them fitted to the patient."""
    release(folder, "run-2", 1, [GRADIENT], {"train": [OTHER], "test": [PATIENT]})
    for run in ("run-1", "run-2"):
        write_whole(folder.run(run) / HEAD, b"fitted to its train patients", "head")
    note_request(folder, PATIENT, "erase", now=NOW)


def heads(folder: ClinicFolder) -> list[str]:
    return sorted(path.parent.name for path in folder.path.glob(f"runs/*/{HEAD}"))


def answers(folder: ClinicFolder) -> tuple[int, int]:
    """Open requests, and answers in the log."""
    told = [entry for entry in folder.audit.entries() if entry.event == "request answered"]
    return len(requests_of(folder)), len(told)


def pictures(folder: ClinicFolder, patient: str) -> list[bytes]:
    return [content for _, content in folder.vault.find(folder.vault.objects(patient))]


def verdict(folder: ClinicFolder, patient: str, purpose: str) -> str:
    return str(folder.consents.verdicts([patient], purpose, NOW.date())[0])


def state(folder: ClinicFolder) -> tuple[int, int, str, int, int]:
    """Pictures, keys, consent, withdrawals on record, erasures in the log."""
    changes = folder.consents.state_of(PATIENT).changes
    return (
        len(pictures(folder, PATIENT)),
        len(folder.patient_keys),
        verdict(folder, PATIENT, "federated_training"),
        sum(isinstance(change.entry, Withdrawal) for change in changes),
        sum(entry.event == "erasure" for entry in folder.audit.entries()),
    )


BEFORE, AFTER = (1, 2, "", 0, 0), (0, 1, "withdrawn", 1, 1)


def test_the_patient_is_gone_and_the_others_stay(clinic: ClinicFolder) -> None:
    assert state(clinic) == BEFORE
    done = erase_patient(clinic, PATIENT, now=NOW)
    folder = open_folder(clinic.path)
    assert state(folder) == AFTER
    assert (done.key, done.objects, done.contributions.models) == (True, 1, 1)
    assert pictures(folder, OTHER) == [b"picture of " + OTHER.encode()]
    assert verdict(folder, OTHER, "federated_training") == ""
    assert verdict(folder, PATIENT, "care") == ""
    (told,) = (entry for entry in folder.audit.entries() if entry.event == "erasure")
    name = pseudonym(folder.key, PATIENT)
    assert told.fields == {"patients": 1, "patient": name, "objects": 1}
    assert not (folder.path / ERASURE).exists()


def test_no_file_holds_the_patients_name(clinic: ClinicFolder) -> None:
    erase_patient(clinic, PATIENT, now=NOW)
    files = [path for path in clinic.path.parent.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path.name for path in files if PATIENT.encode() in path.read_bytes()]


def test_a_head_that_the_clinic_keeps_to_itself_goes_with_a_patient_it_was_fitted_to(
    clinic: ClinicFolder,
) -> None:
    ask_and_keep_heads(clinic)
    clinic.run("nobody-knows").mkdir()
    write_whole(clinic.run("nobody-knows") / HEAD, b"without a record", "head")
    done = erase_patient(clinic, PATIENT, now=NOW)
    assert (done.heads, heads(clinic)) == (2, ["run-2"])
    says = verify_certificate(done.certificate, clinic.identity.public_key)["says"]
    with pytest.raises(IntegrityError, match="this is not that key"):
        verify_certificate(done.certificate, "ab" * 32)
    assert "fitted to the patient, without noise: 2, removed" in says["own_heads"]
    assert erase_patient(clinic, OTHER, now=NOW).heads == 1
    assert heads(clinic) == []


def test_the_status_counts_who_was_erased_or_is_restricted_for_no_purpose(
    clinic: ClinicFolder,
) -> None:
    before = status_of(clinic, NOW)
    assert (before.num_restricted, before.num_erased) == (0, 0)
    erase_patient(clinic, PATIENT, now=NOW)
    erased = status_of(clinic, NOW)
    assert erased.consents["care"] == before.consents["care"] - 1
    restrict_patient(clinic, OTHER, restricted=True, now=NOW)
    both = status_of(clinic, NOW)
    assert (both.num_restricted, both.num_erased) == (1, 1)
    assert both.consents["care"] == before.consents["care"] - 2


def test_erasing_twice_changes_nothing_more(clinic: ClinicFolder) -> None:
    erase_patient(clinic, PATIENT, now=NOW)
    again = erase_patient(clinic, PATIENT, now=NOW)
    assert (again.key, again.objects) == (False, 0)
    assert state(open_folder(clinic.path)) == AFTER
    assert again.contributions.erased


def test_a_patient_who_comes_back_is_used_again_but_nothing_of_old_opens(
    clinic: ClinicFolder,
) -> None:
    old = clinic.vault.objects(PATIENT)
    erase_patient(clinic, PATIENT, now=NOW)
    add_consent(clinic, PATIENT, FORM | {"valid_from": NOW.date().isoformat()}, now=NOW)
    assert verdict(clinic, PATIENT, "federated_training") == ""
    clinic.vault.put(PATIENT, b"a new picture", kind="image")
    assert len(pictures(clinic, PATIENT)) == len(old) == 1
    assert not set(old) & set(clinic.vault.objects(PATIENT))


def test_a_run_gives_no_key_to_who_was_erased_since_its_gate_let_them_through(
    clinic: ClinicFolder,
) -> None:
    day = NOW.date()
    erase_patient(clinic, PATIENT, now=NOW)
    give_keys(clinic, {PATIENT, OTHER, "new"}, ["federated_training"], day)
    assert erased_among(clinic, [PATIENT, OTHER, "new"]) == {PATIENT}
    assert len(clinic.patient_keys) == 2
    # As a table of consents does that a run reads: on record again, and no key yet.
    agreed = Consent.model_validate(FORM | {"valid_from": day.isoformat()})
    clinic.consents.grant(PATIENT, agreed, now=NOW, actor="op")
    give_keys(clinic, {PATIENT}, ["federated_training"], day)
    assert erased_among(clinic, [PATIENT]) == set()


def test_an_old_form_in_a_later_list_of_consents_brings_nobody_back(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    erase_patient(clinic, PATIENT, now=NOW)
    head = "patient_id,purposes,form_version,how,given_by,valid_from\n"
    for days, back in ((-9, False), (1, True)):
        day = (NOW + timedelta(days=days)).date()
        rows = "".join(
            f"{patient},care,v2,paper,patient,{day.isoformat()}\n" for patient in (PATIENT, "new")
        )
        (tmp_path / "list.csv").write_text(head + rows.replace(",care,", ",federated_training,"))
        import_consents(clinic, tmp_path / "list.csv", now=NOW + timedelta(days=1))
        assert erased_among(clinic, [PATIENT, "new"]) == (set() if back else {PATIENT})
    assert len(clinic.patient_keys) == 3


def test_a_mistyped_id_erases_nothing(clinic: ClinicFolder) -> None:
    with pytest.raises(DataError, match="nothing was done") as refusal:
        erase_patient(clinic, "Ada-4712", now=NOW)
    assert "4712" not in str(refusal.value)
    assert state(clinic) == BEFORE
    erase_patient(clinic, "Ada-4712", now=NOW, even_if_unknown=True)
    assert verdict(clinic, "Ada-4712", "federated_training") == "withdrawn"


@pytest.mark.parametrize("role", ["clinician", "operator", "auditor"])
def test_only_the_steward_may(tmp_path: Path, role: str) -> None:
    roles = dict.fromkeys(("clinician", "operator", "auditor"), "[]") | {role: "['*']"}
    words = ", ".join(f"{name}: {who}" for name, who in roles.items())
    folder = make(tmp_path, roles=f"{{steward: [nobody], {words}}}")
    folder.consents.withdraw(PATIENT, now=NOW, actor="tester")
    with pytest.raises(PolicyError, match="erase"):
        erase_patient(folder, PATIENT, now=NOW)
    assert not (folder.path / ERASURE).exists()


def _erase_at(path: Path) -> None:
    erase_patient(open_folder(path), PATIENT, now=NOW)


def deaths(clinic: ClinicFolder, step: int) -> Iterator[tuple[Path, bool]]:
    """Kill an erasure before things that it does to the disk; at last let it live."""
    place = clinic.path.parent
    for number in range(1, 100, step):
        copy = place.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy, symlinks=True)
        path = copy / clinic.path.name
        died = die_at(number, partial(_erase_at, path))
        yield path, died
        if not died:
            assert number > 8
            return
    pytest.fail("the erasure never came to its end")


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_nothing_is_lost_and_the_desk_ends_what_was_begun(
    clinic: ClinicFolder, step: int
) -> None:
    ask_and_keep_heads(clinic)
    begun = set()
    for path, died in deaths(clinic, step):
        asked = (path / ERASURE).exists()
        begun.add(asked)
        found = open_at_screen(path)
        assert not (path / ERASURE).exists()
        assert state(found) in ([AFTER] if asked or not died else [BEFORE, AFTER])
        if state(found) == AFTER:
            assert (heads(found), answers(found)) == (["run-2"], (0, 1))
        assert pictures(found, OTHER) == [b"picture of " + OTHER.encode()]
        assert not finish_erasure(found)
        erase_patient(found, PATIENT, now=NOW)
        assert state(open_folder(path)) == AFTER
    assert begun == {True, False}
