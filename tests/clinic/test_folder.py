"""A clinic's folder: made whole, closed to others, refused where anything in it was changed."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.clinic.policies import put_in_force
from skinml.clinic.virtual import find_virtual_folder, virtual_folder
from skinml.config import load_config
from skinml.errors import (
    ConfigError,
    DataError,
    EnvironmentProblem,
    IntegrityError,
    PolicyError,
    SkinmlError,
)
from skinml.privacy.events import GaussianEvent
from skinml.privacy.ledger import Binding
from skinml.stewardship.encryption import new_key, write_key
from skinml.stewardship.policy import Policy
from skinml.stewardship.unlocking import by_key_file, by_passphrase

POLICY = load_config("quickstart").clinic.policy
PASSPHRASE = "correct horse battery"  # noqa: S105  a test's own
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def virtual(root: Path, name: str, policy: Policy = POLICY) -> ClinicFolder:
    return virtual_folder(root / "clinics", root / "anchors", name, policy)


def test_opening_twice_gives_the_same_clinic(tmp_path: Path) -> None:
    first, second = (virtual(tmp_path, "north") for _ in range(2))
    assert first.key == second.key
    assert first.identity == second.identity
    assert first.path == tmp_path / "clinics" / "north"
    assert [entry.event for entry in second.audit.entries()] == ["folder created"]


def test_two_clinics_have_two_keys_and_ids(tmp_path: Path) -> None:
    north, south = virtual(tmp_path, "north"), virtual(tmp_path, "south")
    assert north.key != south.key
    assert north.identity.id != south.identity.id
    assert north.identity.public_key != south.identity.public_key


def test_a_clinic_that_could_not_be_made_leaves_no_key_file_and_keeps_one_that_was_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "full" / "something").mkdir(parents=True)

    def make() -> None:
        unlock = by_key_file(tmp_path / "north.key")
        anchors = tmp_path / "stick"
        create_folder(
            tmp_path / "full", name="north", policy=POLICY, anchors=anchors, unlock=unlock
        )

    for _ in range(2):  # the first try is not in the way of the second
        with pytest.raises(EnvironmentProblem, match="empty folder"):
            make()
        assert not (tmp_path / "north.key").exists()
    (tmp_path / "north.key").write_text("another clinic's")
    with pytest.raises(EnvironmentProblem, match="no key file yet"):
        make()
    assert (tmp_path / "north.key").read_text() == "another clinic's"


def test_a_working_folder_that_leads_to_a_real_clinic_changes_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    policy = POLICY.model_copy(update={"clinic": "north", "least_patients": 500})
    unlock = by_key_file(tmp_path / "north.key")
    place = tmp_path / "real" / "north"
    create_folder(place, name="north", policy=policy, anchors=tmp_path / "stick", unlock=unlock)
    (tmp_path / "clinics").symlink_to(tmp_path / "real")
    with pytest.raises(PolicyError, match="real clinic"):
        virtual(tmp_path, "north")
    with pytest.raises(PolicyError, match="real clinic"):
        find_virtual_folder(tmp_path / "clinics", "north")
    assert open_folder(place).policy == policy


def test_a_working_folder_may_be_moved_as_a_whole(tmp_path: Path) -> None:
    key = virtual(tmp_path / "here", "north").key
    (tmp_path / "here").rename(tmp_path / "there")
    assert open_folder(tmp_path / "there" / "clinics" / "north").key == key


def test_the_folder_and_all_in_it_are_closed_to_others(tmp_path: Path) -> None:
    folder = virtual(tmp_path, "north")
    for path in (folder.path, *folder.path.rglob("*"), *(tmp_path / "anchors").rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path.name


@pytest.mark.parametrize("name", [".", "policy.yaml", "keys", "keys/key", "ledger.jsonl"])
@pytest.mark.parametrize("mode", [0o040, 0o004, 0o002])
def test_a_folder_that_others_can_open_is_refused_and_says_which_file(
    tmp_path: Path, name: str, mode: int
) -> None:
    folder = virtual(tmp_path, "north")
    (folder.path / "ledger.jsonl").touch(mode=0o600)
    path = folder.path / name
    path.chmod(path.stat().st_mode | mode)
    with pytest.raises(EnvironmentProblem, match=f"of {path.name}.*chmod") as caught:
        open_folder(folder.path)
    assert caught.value.exit_code == 6


def test_a_link_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = virtual(tmp_path, "north")
    policy = folder.path / "policy.yaml"
    policy.rename(tmp_path / "elsewhere.yaml")
    policy.symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(EnvironmentProblem, match="a link of policy"):
        open_folder(folder.path)


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "a/b", "../up", "a\0b", "a\nb", "-", "x" * 65, "\xfc"]
)
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="clinic names"):
        virtual(tmp_path, name)
    assert find_virtual_folder(tmp_path, name) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["north", "St. Mary-2", "vidir_modern", "7"])
def test_ordinary_names_are_folders(tmp_path: Path, name: str) -> None:
    assert virtual(tmp_path, name).path == tmp_path / "clinics" / name


def test_a_file_in_the_way_is_the_environments_fault(tmp_path: Path) -> None:
    (tmp_path / "clinics").write_text("in the way")
    with pytest.raises(EnvironmentProblem):
        virtual(tmp_path, "north")


def test_a_folder_with_something_in_it_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("ten years")
    with pytest.raises(EnvironmentProblem, match="empty folder"):
        create_folder(tmp_path / "mine", name="n", policy=POLICY, anchors=tmp_path / "anchors")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["thesis.txt"]


def test_a_folder_of_no_clinic_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="skinml clinic init"):
        open_folder(tmp_path)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _cut(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def _filled(root: Path) -> ClinicFolder:
    """A folder in which every kind of file exists."""
    folder = virtual(root, "north")
    folder.patient_keys.issue(["P1", "P2"])
    folder.consents.withdraw("P1", now=NOW, actor="tester")
    folder.consents.withdraw("P2", now=NOW, actor="tester")
    for number in (1, 2):
        binding = Binding("run", number, 1, ("north",), "local", "patient", "k", True)
        folder.ledger.reserve(binding, [("gradient", "training", "train", GaussianEvent(4.0))])
    stricter = POLICY.model_copy(update={"clinic": "north", "least_patients": 3})
    put_in_force(folder, stricter, "tester", now=NOW)
    return folder


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("clinic.json", "clinic"),
        ("policy.yaml", "policy"),
        ("consent.journal", "consent register"),
        ("audit.journal", "audit log"),
        ("ledger.jsonl", "ledger"),
        ("vault/keys.sealed", "vault"),
        ("keys/signing.sealed", "signing key"),
    ],
)
@pytest.mark.parametrize("change", [_flip, Path.unlink])
def test_whatever_was_changed_or_is_missing_is_named_and_nothing_is_used(
    tmp_path: Path, name: str, named: str, change: Callable[[Path], None]
) -> None:
    folder = _filled(tmp_path)
    change(folder.path / name)
    with pytest.raises(IntegrityError, match=named) as caught:
        open_folder(folder.path)
    assert caught.value.exit_code == 5


def test_a_changed_key_is_noticed_and_a_missing_one_is_the_machines_fault(tmp_path: Path) -> None:
    folder = virtual(tmp_path, "north")
    _flip(folder.path / "keys" / "key")
    with pytest.raises(IntegrityError, match="key"):
        open_folder(folder.path)
    (folder.path / "keys" / "key").unlink()
    with pytest.raises(EnvironmentProblem, match="key"):
        open_folder(folder.path)


@pytest.mark.parametrize("name", ["consent.journal", "audit.journal", "ledger.jsonl"])
def test_lines_cut_off_the_end_are_noticed(tmp_path: Path, name: str) -> None:
    folder = _filled(tmp_path)
    _cut(folder.path / name)
    with pytest.raises(IntegrityError, match="lines"):
        open_folder(folder.path)


def test_a_folder_set_back_to_an_older_copy_is_noticed(tmp_path: Path) -> None:
    folder = _filled(tmp_path)
    shutil.copytree(folder.path, tmp_path / "copy")
    folder.consents.withdraw("P3", now=NOW, actor="tester")
    shutil.rmtree(folder.path)
    (tmp_path / "copy").rename(folder.path)
    with pytest.raises(IntegrityError, match="consent register"):
        open_folder(folder.path)


def test_another_folders_policy_is_no_policy_of_ours(tmp_path: Path) -> None:
    north, south = _filled(tmp_path), virtual(tmp_path, "south")
    shutil.copy(south.path / "policy.yaml", north.path / "policy.yaml")
    with pytest.raises(IntegrityError, match="policy"):
        open_folder(north.path)


def test_a_virtual_clinic_takes_the_configs_policy_and_says_so(tmp_path: Path) -> None:
    virtual(tmp_path, "north")
    stricter = POLICY.model_copy(update={"least_patients": 50})
    assert virtual(tmp_path, "north", stricter).policy.least_patients == 50
    folder = virtual(tmp_path, "north", stricter)
    events = [entry.event for entry in folder.audit.entries()]
    assert events == ["folder created", "policy changed"]


def test_a_passphrase_opens_the_folder_and_another_does_not(tmp_path: Path) -> None:
    place = tmp_path / "clinic"
    made = create_folder(
        place,
        name="north",
        policy=POLICY,
        anchors=tmp_path / "anchors",
        unlock=by_passphrase(scrypt_n=2**14),
        source=lambda: PASSPHRASE,
    )
    assert open_folder(place, lambda: PASSPHRASE).key == made.key
    with pytest.raises(IntegrityError, match="passphrase"):
        open_folder(place, lambda: PASSPHRASE + "!")
    with pytest.raises(EnvironmentProblem, match="SKINML_PASSPHRASE_FILE"):
        open_folder(place)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert made.key not in written
    assert PASSPHRASE.encode() not in written


def test_a_key_file_elsewhere_opens_the_folder_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir(mode=0o700)
    lock = by_key_file(tmp_path / "stick" / "key")
    place = tmp_path / "clinic"
    made = create_folder(
        place, name="north", policy=POLICY, anchors=tmp_path / "anchors", unlock=lock
    )
    assert open_folder(place).key == made.key
    with pytest.raises(EnvironmentProblem):  # the stick's key opens the first clinic
        create_folder(
            tmp_path / "two", name="n", policy=POLICY, anchors=tmp_path / "anchors", unlock=lock
        )
    assert open_folder(place).key == made.key
    (tmp_path / "stick" / "key").unlink()
    with pytest.raises(EnvironmentProblem):
        open_folder(place)
    write_key(tmp_path / "stick" / "key", new_key())
    with pytest.raises(IntegrityError):
        open_folder(place)


def test_secret_numbers_repeat_for_a_purpose_and_differ_between_purposes_and_clinics(
    tmp_path: Path,
) -> None:
    north, south = virtual(tmp_path, "north"), virtual(tmp_path, "south")
    numbers = [north.secret_number("a"), north.secret_number("b"), south.secret_number("a")]
    assert len(set(numbers)) == 3
    assert north.secret_number("a") == numbers[0]
    assert all(0 <= number < 2**128 for number in numbers)


def test_a_folder_killed_while_it_is_made_is_no_folder_and_can_be_made_again(
    tmp_path: Path,
) -> None:
    """Killed after each of the operations that change the disk."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from skinml.clinic.virtual import virtual_folder\n"
        "from skinml.config import load_config\n"
        "policy = load_config('quickstart').clinic.policy\n"
        "left = int(sys.argv[2])\n"
        "def watch(event, arguments):\n"
        "    global left\n"
        "    if event in ('os.rename', 'os.mkdir', 'open') and sys.argv[1] in str(arguments):\n"
        "        left -= 1\n"
        "        if left == 0:\n"
        "            os.kill(os.getpid(), 9)\n"
        "sys.addaudithook(watch)\n"
        "root = Path(sys.argv[1])\n"
        "virtual_folder(root / 'clinics', root / 'anchors', 'north', policy)\n"
    )
    killed = 0
    for number in (3, 9, 16, 24):
        place = tmp_path / str(number)
        done = subprocess.run([sys.executable, "-c", script, str(place), str(number)], check=False)
        killed += done.returncode == -9
        folder = virtual(place, "north")
        assert [entry.event for entry in folder.audit.entries()] == ["folder created"]
    assert killed >= 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_shared_with_a_group_opens_for_its_members_and_for_nobody_else() -> None:
    group, nobody = grp.getgrnam("users"), pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        place.chmod(0o755)
        folder = create_folder(
            place / "clinic",
            name="north",
            policy=POLICY.model_copy(update={"clinic": "north"}),
            anchors=place / "anchors",
            unlock=by_passphrase(scrypt_n=2**14),
            source=lambda: PASSPHRASE,
            group="users",
        )
        folder.consents.withdraw("P1", now=NOW, actor="tester")

        def becomes_nobody(groups: list[int]) -> int:
            child = os.fork()
            if child:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.setgroups(groups)
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            try:
                opened = open_folder(place / "clinic", lambda: PASSPHRASE)
                opened.consents.withdraw("P2", now=NOW, actor="nobody")
                opened.patient_keys.issue(["P2"])
            except (OSError, SkinmlError) as error:
                os.write(2, str(error).encode())
                os._exit(6)
            os._exit(0)

        assert becomes_nobody([group.gr_gid]) == 0
        assert becomes_nobody([]) == 6
        # What the member wrote is the owner's to read, and shared in turn.
        assert len(open_folder(place / "clinic", lambda: PASSPHRASE).patient_keys) == 1
        assert (place / "clinic" / "vault" / "keys.sealed").stat().st_gid == group.gr_gid
        (place / "clinic" / "policy.yaml").chmod(0o664)
        with pytest.raises(EnvironmentProblem, match="chmod o-rwx"):
            open_folder(place / "clinic", lambda: PASSPHRASE)
