"""What was begun at the desk is ended once: killed anywhere it is whole, put back it is refused."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from skinml.clinic.begun import KINDS, end_begun, file_of, read_begun, write_begun
from skinml.clinic.consents import add_consent
from skinml.clinic.correction import finish_correction
from skinml.clinic.erasure import erase_patient
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.opening import open_at_screen
from skinml.clinic.requests import note_request, requests_of
from skinml.clinic.restriction import restrict_patient
from skinml.errors import IntegrityError
from skinml.stewardship.roles import os_user
from tests.clinic.rights import FORM, NOW, enrol, make
from tests.clinic.test_access import bring_in
from tests.stewardship.test_vault_killed import die_at

PATIENT, OTHER = "Ada-4711", "Bo-4712"
PLAN = {"patient": PATIENT, "at": NOW.isoformat()}


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path / "made")
    enrol(folder, PATIENT, OTHER)
    return folder


def put_back(folder: ClinicFolder, kind: str, content: bytes) -> None:
    """Lay an older file in its place, as private as it was."""
    (folder.path / file_of(kind)).write_bytes(content)
    (folder.path / file_of(kind)).chmod(0o600)


def require_refused(folder: ClinicFolder, kind: str) -> None:
    before = folder.audit.mark(), folder.consents.mark(), len(folder.patient_keys)
    with pytest.raises(IntegrityError, match=rf"{kind}\.sealed") as refusal:
        open_at_screen(folder.path)
    assert refusal.value.exit_code == 5
    after = open_folder(folder.path)
    assert (after.audit.mark(), after.consents.mark(), len(after.patient_keys)) == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_file_that_is_put_back_is_refused(clinic: ClinicFolder, kind: str) -> None:
    path = clinic.path / file_of(kind)
    write_begun(clinic, kind, PLAN)
    old = path.read_bytes()
    end_begun(clinic, kind)
    assert read_begun(clinic, kind) is None
    put_back(clinic, kind, old)
    require_refused(clinic, kind)
    path.unlink()
    write_begun(clinic, kind, {**PLAN, "patient": OTHER})
    put_back(clinic, kind, old)
    require_refused(clinic, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_taken_away_before_it_ended_is_noticed(clinic: ClinicFolder, kind: str) -> None:
    write_begun(clinic, kind, PLAN)
    (clinic.path / file_of(kind)).unlink()
    require_refused(clinic, kind)


def begun(clinic: ClinicFolder, kind: str, patient: str) -> bytes:
    """Kill a command when it has begun; leave the folder so, and give what it wrote down."""
    place, here = clinic.path.parent, clinic.path.parent.with_name("tried")
    for number in range(1, 40):
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(place, here, symlinks=True)

        def act() -> None:
            folder = open_folder(here / "north")
            if kind == "erasure":
                erase_patient(folder, patient, now=NOW)
            else:
                restrict_patient(folder, patient, restricted=False, now=NOW)

        assert die_at(number, act)
        if (here / "north" / file_of(kind)).exists():
            break
    shutil.rmtree(place)
    here.rename(place)
    return (clinic.path / file_of(kind)).read_bytes()


def test_an_old_erasure_does_not_take_a_patient_who_came_back(clinic: ClinicFolder) -> None:
    old = begun(clinic, "erasure", PATIENT)
    folder = open_at_screen(clinic.path)
    assert folder.vault.objects(PATIENT) == []
    later = NOW + timedelta(minutes=1)
    add_consent(folder, PATIENT, FORM | {"valid_from": NOW.date().isoformat()}, now=later)
    bring_in(folder, PATIENT, "new")
    put_back(folder, "erasure", old)
    require_refused(folder, "erasure")
    (picture,) = open_folder(clinic.path).pictures.of_patient(PATIENT)
    assert picture.object in open_folder(clinic.path).vault.objects(PATIENT)


def test_an_old_lifting_does_not_lift_a_later_restriction(clinic: ClinicFolder) -> None:
    restrict_patient(clinic, PATIENT, restricted=True, now=NOW)
    old = begun(clinic, "restriction", PATIENT)
    folder = open_at_screen(clinic.path)
    restrict_patient(folder, PATIENT, restricted=True, now=NOW)
    put_back(folder, "restriction", old)
    require_refused(folder, "restriction")
    verdicts = open_folder(clinic.path).consents.verdicts([PATIENT], "care", NOW.date())
    assert list(map(str, verdicts)) == ["restricted"]


def test_nothing_is_corrected_of_a_patient_who_was_erased_since(clinic: ClinicFolder) -> None:
    bring_in(clinic, PATIENT, "one")
    note_request(clinic, PATIENT, "correct", now=NOW)
    folder = open_folder(clinic.path)
    plan = {
        "values": {"age": "61"},
        "pictures": [each.number for each in folder.pictures.of_patient(PATIENT)],
        "actor": os_user(),
        "logged": folder.audit.mark().count,
    }
    write_begun(folder, "correction", {**PLAN, **plan})
    erase_patient(folder, PATIENT, now=NOW)
    assert finish_correction(folder)
    assert not [each for each in folder.audit.entries() if each.event == "correction"]
    assert [each.right for each in requests_of(folder)] == ["correct"]  # a person answers it
    assert not (folder.path / file_of("correction")).exists()


def test_killed_at_any_step_what_is_written_down_is_whole_or_not_there(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    found = set()
    for number in range(1, 40):
        here = tmp_path / f"death-{number}"
        shutil.copytree(clinic.path.parent, here)

        def act(path: Path = here / "north") -> None:
            folder = open_folder(path)
            write_begun(folder, "correction", PLAN)
            end_begun(folder, "correction")

        died = die_at(number, act)
        folder = open_folder(here / "north")
        left = read_begun(folder, "correction")
        assert left in (None, PLAN), number
        assert (left is not None) == (folder.path / file_of("correction")).exists()
        found.add(left is not None)
        write_begun(folder, "correction", PLAN | {"again": number})
        assert read_begun(folder, "correction") == PLAN | {"again": number}
        shutil.rmtree(here)
        if not died:
            break
    assert not died
    assert found == {True, False}


def test_what_was_written_down_is_overwritten_when_it_ends(clinic: ClinicFolder) -> None:
    write_begun(clinic, "erasure", PLAN)
    with (clinic.path / file_of("erasure")).open("rb") as held:
        size = os.fstat(held.fileno()).st_size
        end_begun(clinic, "erasure")
        assert held.read() == bytes(size)
