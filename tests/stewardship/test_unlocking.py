"""A clinic's key under a passphrase, a key file or the keyring; secrets that only one user sees."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import unicodedata

import keyring
import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import PasswordDeleteError
from pydantic import ValidationError

from skinml.errors import ConfigError, EnvironmentProblem, IntegrityError
from skinml.stewardship.encryption import derive_key, new_key, unseal, write_key
from skinml.stewardship.passphrases import (
    FILE_VARIABLE,
    checked,
    from_descriptor,
    from_file,
    from_terminal,
    source_from,
)
from skinml.stewardship.unlocking import (
    Unlock,
    by_key_file,
    by_keyring,
    by_passphrase,
    change_lock,
    forget_secret,
    make_secret,
    packed,
    unpacked,
    unwrap,
    wrap,
)

KEY = bytes(range(32))
WORDS = "four words of no kin"


class MemoryKeyring(KeyringBackend):
    """The keyring library's own way to another backend, kept in memory."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service, username):
        return self.entries.get((service, username))

    def set_password(self, service, username, password):
        self.entries[service, username] = password

    def delete_password(self, service, username):
        if self.entries.pop((service, username), None) is None:
            raise PasswordDeleteError("no such entry")


@pytest.fixture
def memory_keyring():
    before, backend = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


@pytest.fixture
def no_keyring():
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())
    yield
    keyring.set_keyring(before)


def quick() -> Unlock:
    return by_passphrase(scrypt_n=2**14)


def says(words: str):
    return lambda: words


def never() -> str:
    raise AssertionError("nobody may be asked")


def test_a_passphrase_unlocks_what_it_locked():
    unlock = quick()
    wrapped = wrap(KEY, unlock, says(WORDS))
    assert unwrap(wrapped, unlock, says(WORDS)) == KEY
    assert KEY not in wrapped
    assert len(wrapped) == 61


def test_the_passphrase_is_stretched_with_scrypt_under_the_salt():
    unlock = quick()
    wrapped = wrap(KEY, unlock, says(WORDS))
    salt = bytes.fromhex(unlock.salt)
    stretched = Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(WORDS.encode())
    locking = derive_key(stretched, "unlock/passphrase")
    assert unseal(locking, wrapped, context=b"skinml clinic key, passphrase") == KEY
    assert by_passphrase().scrypt_n == 2**17
    assert quick().salt != unlock.salt


@pytest.mark.parametrize("wrong", ["four words of no kim", "", " " + WORDS, WORDS.upper()])
def test_a_wrong_passphrase_says_so_and_not_which(wrong):
    unlock = quick()
    wrapped = wrap(KEY, unlock, says(WORDS))
    with pytest.raises(IntegrityError, match="wrong passphrase or a damaged file") as caught:
        unwrap(wrapped, unlock, says(wrong))
    assert WORDS not in str(caught.value)
    assert not wrong.strip() or wrong not in str(caught.value)


def test_every_flipped_byte_of_a_wrapped_key_is_noticed(tmp_path):
    unlock = by_key_file(tmp_path / "key")
    make_secret(unlock)
    wrapped = wrap(KEY, unlock, never)
    for place in range(len(wrapped)):
        changed = wrapped[:place] + bytes([wrapped[place] ^ 1]) + wrapped[place + 1 :]
        with pytest.raises(IntegrityError, match="damaged"):
            unwrap(changed, unlock, never)
    with pytest.raises(IntegrityError, match="damaged"):
        unwrap(b"", unlock, never)


def test_two_keyboards_ways_of_typing_one_character_agree():
    unlock = quick()
    words = "vier Wörter für die Tür"
    assert unicodedata.normalize("NFD", words) != words
    wrapped = wrap(KEY, unlock, says(unicodedata.normalize("NFD", words)))
    assert unwrap(wrapped, unlock, says(words)) == KEY


def test_a_short_passphrase_is_refused_for_a_new_lock_only():
    with pytest.raises(ConfigError, match="at least 12 characters") as caught:
        wrap(KEY, quick(), says("short secret"[:11]))
    assert "short" not in str(caught.value)
    assert checked("short", new=False) == b"short"
    with pytest.raises(ConfigError):
        checked("a" * 4097, new=False)
    with pytest.raises(ConfigError):
        checked("a lone surrogate \ud800", new=True)
    with pytest.raises(ConfigError, match="32 bytes"):
        wrap(b"short", quick(), says(WORDS))


def test_a_key_file_unlocks_wherever_it_moves(tmp_path):
    unlock = by_key_file(tmp_path / "key")
    make_secret(unlock)
    wrapped = wrap(KEY, unlock, never)
    assert unwrap(wrapped, unlock, never) == KEY
    (tmp_path / "key").rename(tmp_path / "moved")
    with pytest.raises(EnvironmentProblem):
        unwrap(wrapped, unlock, never)
    assert unwrap(wrapped, by_key_file(tmp_path / "moved"), never) == KEY
    (tmp_path / "moved").chmod(0o640)
    with pytest.raises(EnvironmentProblem, match="chmod 600"):
        unwrap(wrapped, by_key_file(tmp_path / "moved"), never)


def test_another_key_file_does_not_unlock(tmp_path):
    unlock = by_key_file(tmp_path / "key")
    make_secret(unlock)
    wrapped = wrap(KEY, unlock, never)
    write_key(tmp_path / "other", new_key())
    with pytest.raises(IntegrityError, match="wrong key file"):
        unwrap(wrapped, by_key_file(tmp_path / "other"), never)


def test_the_keyring_unlocks(memory_keyring):
    unlock = by_keyring("clinic 1")
    make_secret(unlock)
    wrapped = wrap(KEY, unlock, never)
    assert unwrap(wrapped, unlock, never) == KEY
    make_secret(by_keyring("clinic 2"))
    assert len(set(memory_keyring.entries.values())) == 2
    with pytest.raises(IntegrityError, match="wrong keyring"):
        unwrap(wrapped, by_keyring("clinic 2"), never)
    with pytest.raises(EnvironmentProblem, match="got none"):
        unwrap(wrapped, by_keyring("clinic 3"), never)
    memory_keyring.set_password("skinml", "clinic 1", "no key: é")
    with pytest.raises(IntegrityError, match="another entry"):
        unwrap(wrapped, unlock, never)


def test_a_machine_without_a_keyring_is_told_what_to_do(no_keyring):
    with pytest.raises(EnvironmentProblem, match="lock the key with a passphrase"):
        make_secret(by_keyring("clinic 1"))


def test_a_secret_that_is_there_is_never_overwritten(tmp_path, memory_keyring):
    for unlock in (by_key_file(tmp_path / "key"), by_keyring("clinic 1")):
        make_secret(unlock)
        wrapped = wrap(KEY, unlock, never)
        with pytest.raises(EnvironmentProblem):
            make_secret(unlock)
        assert unwrap(wrapped, unlock, never) == KEY


def test_a_lock_can_be_changed_and_the_old_secret_forgotten(tmp_path, memory_keyring):
    passphrase, file, ring = quick(), by_key_file(tmp_path / "key"), by_keyring("clinic 1")
    wrapped = wrap(KEY, passphrase, says(WORDS))
    for old, new in ((passphrase, file), (file, ring), (ring, passphrase)):
        make_secret(new)
        wrapped = change_lock(wrapped, old, says(WORDS), new, says(WORDS))
        forget_secret(old)
        forget_secret(old)
        assert unwrap(wrapped, new, says(WORDS)) == KEY
        with pytest.raises((IntegrityError, EnvironmentProblem)):
            unwrap(wrapped, old, says("another passphrase"))
    assert not (tmp_path / "key").exists()
    assert memory_keyring.entries == {}


def test_a_wrong_old_passphrase_changes_nothing():
    unlock = quick()
    wrapped = wrap(KEY, unlock, says(WORDS))
    with pytest.raises(IntegrityError, match="wrong passphrase"):
        change_lock(wrapped, unlock, says("not these words"), quick(), never)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "passphrase"},
        {"method": "passphrase", "scrypt_n": 2**13, "scrypt_r": 8, "scrypt_p": 1, "salt": "0" * 32},
        {"method": "passphrase", "scrypt_n": 20000, "scrypt_r": 8, "scrypt_p": 1, "salt": "0" * 32},
        {"method": "passphrase", "scrypt_n": 2**30, "scrypt_r": 8, "scrypt_p": 1, "salt": "0" * 32},
        {"method": "passphrase", "scrypt_n": 2**14, "scrypt_r": 8, "scrypt_p": 1, "salt": ""},
        {"method": "key_file"},
        {"method": "key_file", "path": "relative/key"},
        {"method": "key_file", "path": "/key", "salt": "0" * 32},
        {"method": "keyring", "service": "skinml"},
        {"method": "keyring", "service": "skinml", "user": "x", "password": "y"},
        {"method": "none"},
    ],
    ids=str,
)
def test_settings_hold_exactly_what_their_method_needs(values):
    with pytest.raises(ValidationError):
        Unlock.model_validate(values)


def test_a_locked_key_is_one_line_that_any_change_spoils(tmp_path):
    unlock = by_key_file(tmp_path / "key")
    make_secret(unlock)
    content = packed(unlock, wrap(KEY, unlock, never))
    assert unwrap(unpacked(content)[1], unpacked(content)[0], never) == KEY
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        with pytest.raises((IntegrityError, EnvironmentProblem)):
            unwrap(*reversed(unpacked(changed)), never)
    for wrong in (b"", b"[]", b"[" * 100_000, content[:-1], content + b"\n", b"{}", b'"x"'):
        with pytest.raises(IntegrityError):
            unpacked(wrong)


def private_file(path, content: bytes):
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_file_gives_its_passphrase_without_the_line_end(tmp_path, end):
    assert from_file(private_file(tmp_path / "words", b" two words " + end)) == " two words "


@pytest.mark.parametrize("content", [b"\xff", b"a" * 4099], ids=["no text", "too long"])
def test_a_file_that_holds_no_passphrase_is_refused(tmp_path, content):
    with pytest.raises(ConfigError, match="4096 bytes of text"):
        from_file(private_file(tmp_path / "words", content))


def test_a_passphrase_that_others_can_read_is_refused(tmp_path):
    path = private_file(tmp_path / "words", WORDS.encode())
    path.chmod(0o644)
    with pytest.raises(EnvironmentProblem, match="chmod 600"):
        from_file(path)
    with pytest.raises(EnvironmentProblem):
        from_file(tmp_path / "none")


def test_a_passphrase_comes_through_a_pipe_which_is_then_closed():
    reading, writing = os.pipe()
    os.write(writing, WORDS.encode() + b"\n")
    os.close(writing)
    assert from_descriptor(reading) == WORDS
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(reading)


def test_the_file_may_be_the_end_of_a_pipe():
    reading, writing = os.pipe()
    os.write(writing, WORDS.encode() + b"\n")
    os.close(writing)
    try:
        assert source_from({FILE_VARIABLE: f"/dev/fd/{reading}"})() == WORDS
    finally:
        os.close(reading)


def test_the_environment_names_a_file_and_never_holds_the_secret(tmp_path):
    path = private_file(tmp_path / "words", WORDS.encode())
    assert source_from({FILE_VARIABLE: str(path)})() == WORDS
    assert source_from({FILE_VARIABLE: str(path)}, new=True)() == WORDS
    with pytest.raises(EnvironmentProblem):
        source_from({FILE_VARIABLE: WORDS})()
    assert source_from({}) is from_terminal


ASKING = """
from skinml.errors import SkinmlError
from skinml.stewardship.passphrases import source_from
try:
    words = source_from({}, new=%s)()
except SkinmlError as error:
    words = str(error)
open(%r, "w").write(words)
"""


def answer(tmp_path, answers: list[bytes], *, new: bool) -> tuple[str, bytes]:
    """Ask in a process with a terminal of its own; give what was heard and what was shown."""
    heard = tmp_path / "heard"
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", ASKING % (new, str(heard))])  # noqa: S606 (a test's own child)
    shown = b""
    for words in answers:
        while not shown.endswith(b": "):
            shown += os.read(terminal, 100)
        os.write(terminal, words + b"\n")
        shown += os.read(terminal, 2)
    os.waitpid(child, 0)
    os.close(terminal)
    return heard.read_text(), shown


def test_a_terminal_is_asked_and_shows_nothing(tmp_path):
    heard, shown = answer(tmp_path, [WORDS.encode()], new=False)
    assert heard == WORDS
    assert b"Passphrase of the clinic's folder" in shown
    assert WORDS.encode() not in shown


@pytest.mark.parametrize(("second", "heard"), [(WORDS, WORDS), ("other", "two that differ")])
def test_a_new_passphrase_is_asked_for_twice(tmp_path, second, heard):
    assert heard in answer(tmp_path, [WORDS.encode(), second.encode()], new=True)[0]


def test_without_a_terminal_nobody_is_asked(tmp_path):
    code = ASKING % (False, str(tmp_path / "heard"))
    subprocess.run(
        [sys.executable, "-c", code], input=b"typed ahead\n", start_new_session=True, check=True
    )
    assert "Expected a terminal" in (tmp_path / "heard").read_text()
    assert FILE_VARIABLE in (tmp_path / "heard").read_text()
