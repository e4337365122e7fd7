"""A clinic's locks and anchors can be changed, and no moment of it loses the folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skinml.clinic.anchoring import renew_anchors
from skinml.clinic.begun import write_begun
from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.clinic.keys import change_lock, rotate_patient_keys
from skinml.clinic.opening import new_lock, open_at_screen
from skinml.clinic.requests import note_request, requests_of
from skinml.config import load_config
from skinml.errors import ConfigError, EnvironmentProblem, IntegrityError, SkinmlError
from skinml.stewardship.roles import os_user
from skinml.stewardship.unlocking import by_key_file, by_passphrase, packed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = load_config("quickstart").clinic.policy.model_copy(update={"clinic": "north"})
OLD, NEW = "an old passphrase", "a new passphrase"


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = create_folder(
        tmp_path / "clinic",
        name="north",
        policy=POLICY,
        anchors=tmp_path / "anchors",
        unlock=by_passphrase(scrypt_n=2**14),
        source=lambda: OLD,
    )
    folder.patient_keys.issue(["P1", "P2"])
    folder.consents.withdraw("P1", now=NOW, actor="tester")
    return folder


def opened(folder: ClinicFolder, passphrase: str) -> ClinicFolder:
    return open_folder(folder.path, lambda: passphrase)


def test_a_new_passphrase_opens_the_folder_and_the_old_one_no_longer(clinic: ClinicFolder) -> None:
    change_lock(clinic, by_passphrase(scrypt_n=2**14), lambda: NEW, now=NOW)
    assert opened(clinic, NEW).key == clinic.key
    with pytest.raises(IntegrityError, match="passphrase"):
        opened(clinic, OLD)
    last = opened(clinic, NEW).audit.entries()[-1]
    assert (last.event, last.fields["key"]) == ("key rotated", "clinic key")


def test_the_old_locked_key_put_back_is_noticed(clinic: ClinicFolder) -> None:
    locked = clinic.path / "keys" / "clinic.locked"
    before = locked.read_bytes()
    change_lock(clinic, by_passphrase(scrypt_n=2**14), lambda: NEW, now=NOW)
    locked.write_bytes(before)
    with pytest.raises(IntegrityError, match="locked key"):
        opened(clinic, OLD)


def test_a_key_file_inside_the_folder_and_a_short_passphrase_change_nothing(
    clinic: ClinicFolder,
) -> None:
    with pytest.raises(ConfigError, match="outside the folder"):
        change_lock(clinic, by_key_file(clinic.path / "key"), lambda: NEW, now=NOW)
    with pytest.raises(ConfigError):
        change_lock(clinic, by_passphrase(scrypt_n=2**14), lambda: "short", now=NOW)
    assert opened(clinic, OLD).key == clinic.key


def test_a_locked_key_changed_since_the_folder_was_opened_has_no_other_file_removed(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    other = tmp_path / "somebody's file"
    other.touch()
    (clinic.path / "keys" / "clinic.locked").write_bytes(packed(by_key_file(other), b"key"))
    with pytest.raises(IntegrityError, match="locked key"):
        change_lock(clinic, by_passphrase(scrypt_n=2**14), lambda: NEW, now=NOW)
    assert other.exists()


def test_rotation_keeps_every_patients_key(clinic: ClinicFolder) -> None:
    before = clinic.patient_keys.issue(["P1", "P2"])
    assert rotate_patient_keys(clinic, now=NOW) == 2
    assert opened(clinic, OLD).patient_keys.issue(["P1", "P2"]) == before


def test_moved_anchors_vouch_for_the_folder_and_the_old_ones_are_not_asked(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    ledger = clinic.path / "consent.journal"
    before = ledger.read_bytes()
    done = renew_anchors(clinic.path, tmp_path / "stick", lambda: OLD, now=NOW)
    assert done.verified
    assert done.marks["consent"].count == 1
    shutil.rmtree(tmp_path / "anchors")
    folder = opened(clinic, OLD)
    assert folder.anchors.path.parent == (tmp_path / "stick").resolve()
    folder.consents.withdraw("P2", now=NOW, actor="tester")
    ledger.write_bytes(before)
    with pytest.raises(IntegrityError, match="consent register"):
        opened(clinic, OLD)


def test_a_process_that_opened_the_folder_before_its_anchors_moved_harms_nothing(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    renew_anchors(clinic.path, tmp_path / "stick", lambda: OLD, now=NOW)
    with pytest.raises(IntegrityError, match="no file"):
        clinic.consents.withdraw("P2", now=NOW, actor="tester")
    assert len(opened(clinic, OLD).consents.lines(0)) == 1


def test_a_copy_of_the_folder_from_before_its_anchors_moved_does_not_pass(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    copies = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        # The last moment at which the old anchors fit: they were asked for the last time.
        if event == "os.mkdir" and str(arguments[0]).endswith("thief") and not copies:
            copies.append(shutil.copytree(clinic.path, tmp_path / "copy"))

    sys.addaudithook(watch)
    renew_anchors(clinic.path, tmp_path / "thief", lambda: OLD, now=NOW)
    opened(clinic, OLD).consents.withdraw("P2", now=NOW, actor="tester")
    shutil.rmtree(clinic.path)
    shutil.copytree(copies[0], clinic.path)
    with pytest.raises(IntegrityError, match="anchor"):
        opened(clinic, OLD)


def test_a_move_onto_anchors_that_are_there_is_refused(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="there already"):
        renew_anchors(clinic.path, tmp_path / "anchors", lambda: OLD, now=NOW)
    assert opened(clinic, OLD).key == clinic.key


def test_lost_anchors_are_made_anew_only_on_request_and_the_log_tells(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="lost"):
        renew_anchors(clinic.path, tmp_path / "stick", lambda: OLD, now=NOW, lost=True)
    shutil.rmtree(tmp_path / "anchors")
    with pytest.raises(IntegrityError):
        renew_anchors(clinic.path, tmp_path / "stick", lambda: OLD, now=NOW)
    done = renew_anchors(clinic.path, tmp_path / "stick", lambda: OLD, now=NOW, lost=True)
    assert not done.verified
    told = [e.fields["journal"] for e in opened(clinic, OLD).audit.entries() if e.event == "anchor"]
    assert sorted(told) == ["audit", "consent"]


def test_lost_anchors_lose_neither_requests_nor_what_was_begun(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    note_request(clinic, "P1", "restrict", now=NOW)
    asked = {"patient": "P1", "restricted": True, "at": NOW.isoformat(), "actor": os_user()}
    write_begun(clinic, "restriction", asked)
    shutil.rmtree(tmp_path / "anchors")
    renew_anchors(clinic.path, tmp_path / "stick", lambda: OLD, now=NOW, lost=True)
    folder = open_at_screen(clinic.path, lambda: OLD)
    assert requests_of(folder) == ()  # answered by what was ended
    assert str(folder.consents.verdicts(["P1"], "care", NOW.date())[0]) == "restricted"


@pytest.mark.parametrize(
    "name", ["consent.journal", "audit.journal", "vault/keys.sealed", "policy.yaml", "clinic.json"]
)
def test_lost_anchors_are_no_way_around_the_clinics_own_seals(
    clinic: ClinicFolder, tmp_path: Path, name: str
) -> None:
    shutil.rmtree(tmp_path / "anchors")
    path = clinic.path / name
    content = bytearray(path.read_bytes())
    place = content.index(b"least_clinics: 1") + 15 if name == "policy.yaml" else len(content) // 2
    content[place] ^= 3
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError):
        renew_anchors(clinic.path, tmp_path / "stick", lambda: OLD, now=NOW, lost=True)
    assert not list((tmp_path / "stick").glob("*.json"))


def test_anchors_inside_the_folder_are_refused(clinic: ClinicFolder) -> None:
    with pytest.raises(ConfigError, match="outside"):
        renew_anchors(clinic.path, clinic.path / "anchors", lambda: OLD, now=NOW)


def _killed_at(number: int, act: Callable[[], None]) -> bool:
    """Kill a child before its n-th operation that changes the disk; tell whether it came there."""
    child = os.fork()
    if not child:
        left = [number]

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            writes = event in ("os.rename", "os.remove", "os.mkdir") or (
                event == "open" and "x" in str(arguments[1])
            )
            left[0] -= writes
            if writes and left[0] == 0:
                os.kill(os.getpid(), 9)

        sys.addaudithook(watch)
        try:
            act()
        except SkinmlError as error:
            os.write(2, str(error).encode())
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -9)
    return code == -9


def test_killed_anywhere_in_a_change_of_lock_one_of_the_two_passphrases_opens(
    clinic: ClinicFolder,
) -> None:
    def change() -> None:
        change_lock(clinic, by_passphrase(scrypt_n=2**14), lambda: NEW, now=NOW)

    number = 1
    while _killed_at(number, change):
        found = []
        for passphrase in (OLD, NEW):
            try:
                found.append(opened(clinic, passphrase).key)
            except SkinmlError:
                continue
        assert found == [clinic.key]
        if found and not _opens(clinic, OLD):
            change_lock(opened(clinic, NEW), by_passphrase(scrypt_n=2**14), lambda: OLD, now=NOW)
        number += 1
    assert number > 4
    assert _opens(clinic, NEW)


def test_killed_anywhere_while_anchors_move_the_old_ones_or_the_new_ones_hold(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    number, killed = 1, True
    while killed:
        place = tmp_path / f"stick-{number}"

        def move(place: Path = place) -> None:
            renew_anchors(clinic.path, place, lambda: OLD, now=NOW)

        killed = _killed_at(number, move)
        assert opened(clinic, OLD).key == clinic.key
        number += 3
    assert number > 9
    assert opened(clinic, OLD).anchors.path.parent == place.resolve()


def _opens(clinic: ClinicFolder, passphrase: str) -> bool:
    try:
        open_folder(clinic.path, lambda: passphrase)
    except (IntegrityError, EnvironmentProblem):
        return False
    return True


def test_a_slip_in_the_name_of_a_lock_makes_no_key_file_of_that_name() -> None:
    with pytest.raises(ConfigError, match="pasphrase"):
        new_lock("pasphrase", "north")
