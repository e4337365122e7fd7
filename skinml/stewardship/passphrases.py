"""Where a passphrase comes from: a terminal, a private file, or an open descriptor.

Never an argument of the process and never the value of an environment variable. Python cannot wipe
a string from memory; a passphrase lives there until the process ends.
"""

from __future__ import annotations

import getpass
import os
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

from skinml.durable import cannot
from skinml.errors import ConfigError, EnvironmentProblem
from skinml.stewardship.encryption import require_private

FILE_VARIABLE = "SKINML_PASSPHRASE_FILE"
LEAST_CHARACTERS = 12
_MOST_BYTES = 4096

SecretSource = Callable[[], str]
"""Gives the passphrase when it is needed; not called for a key file or the keyring."""


def from_terminal(question: str = "Passphrase of the clinic's folder") -> str:
    """Ask for a passphrase without showing it.

    Args:
        question: What to ask.

    Returns:
        The passphrase: never log.

    Raises:
        EnvironmentProblem: If there is no terminal, or it is closed.
    """
    if not _has_terminal():
        raise _nobody_to_ask()
    try:
        return getpass.getpass(f"{question}: ")
    except EOFError as error:
        raise _nobody_to_ask() from error


def new_from_terminal() -> str:
    """Ask for a new passphrase, twice.

    Returns:
        The passphrase: never log.

    Raises:
        ConfigError: If the two differ.
        EnvironmentProblem: If there is no terminal, or it is closed.
    """
    first = from_terminal(f"New passphrase, at least {LEAST_CHARACTERS} characters")
    if from_terminal("The same once more") != first:
        raise ConfigError(
            rule="the same passphrase twice",
            got="two that differ",
            do="Start again and type it slowly.",
        )
    return first


def from_file(path: Path) -> str:
    """Read a passphrase from a file that only its owner can read.

    Args:
        path: The file; the line end after the passphrase does not count.

    Returns:
        The passphrase: never log.

    Raises:
        ConfigError: If it is not text in UTF-8, or longer than 4096 bytes.
        EnvironmentProblem: If the file is missing, unreadable, open to other users, or another
            user's.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_MOST_BYTES + 3)
    except OSError as error:
        raise cannot("read", "file with the passphrase", error) from error
    require_private(path, status, "file with the passphrase")
    return _text(content)


def from_descriptor(descriptor: int) -> str:
    """Read a passphrase from an open file descriptor, such as the end of a pipe, to its end.

    Args:
        descriptor: Its number; closed afterwards.

    Returns:
        The passphrase: never log.

    Raises:
        ConfigError: If it is not text in UTF-8, or longer than 4096 bytes.
        EnvironmentProblem: If it cannot be read.
    """
    try:
        with os.fdopen(descriptor, "rb") as file:
            return _text(file.read(_MOST_BYTES + 3))
    except OSError as error:
        raise cannot("read", "descriptor with the passphrase", error) from error


def source_from(environment: Mapping[str, str], *, new: bool = False) -> SecretSource:
    """Choose where a command's passphrase comes from.

    Args:
        environment: The process's; where it has SKINML_PASSPHRASE_FILE, that names the file.
        new: Whether it is a new passphrase, which is asked for twice.

    Returns:
        The file's content, or an answer at the terminal.
    """
    name = environment.get(FILE_VARIABLE)
    if name:
        return lambda: from_file(Path(name))
    return new_from_terminal if new else from_terminal


def checked(passphrase: str, *, new: bool) -> bytes:
    """Check a passphrase and bring it to the form that keys are derived from.

    Args:
        passphrase: As it was typed.
        new: Whether it is a new one, which must be long enough.

    Returns:
        UTF-8 of its NFKC form, so that two keyboards' ways of typing one character agree.

    Raises:
        ConfigError: If it is longer than 4096 bytes, is not text, or is new and shorter than 12
            characters.

    Source:
        NIST SP 800-63B, section 5.1.1 (length over rules of composition, normalisation).
    """
    normal = unicodedata.normalize("NFKC", passphrase)
    if new and len(normal) < LEAST_CHARACTERS:
        raise ConfigError(
            rule=f"a passphrase of at least {LEAST_CHARACTERS} characters",
            got=f"length={len(normal)}",
            do="Take four or more words that do not belong together.",
        )
    try:
        content = normal.encode()
    except UnicodeEncodeError:
        raise _no_text() from None
    if len(content) > _MOST_BYTES:
        raise _no_text()
    return content


def _text(content: bytes) -> str:
    """Read a passphrase without the line end that editors and `echo` put behind it."""
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    if len(line) > _MOST_BYTES:
        raise _no_text()
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise _no_text() from None


def _no_text() -> ConfigError:
    return ConfigError(
        rule=f"a passphrase of up to {_MOST_BYTES} bytes of text in UTF-8",
        got="another content",
        do="Check that the right file was named.",
    )


def _has_terminal() -> bool:
    """Tell whether somebody can be asked; `getpass` would otherwise read, and show, the input."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _nobody_to_ask() -> EnvironmentProblem:
    return EnvironmentProblem(
        rule="a terminal to ask for the passphrase",
        got="none",
        do=f"Start it in a terminal, or let {FILE_VARIABLE} name a file of mode 0600 with it.",
    )
