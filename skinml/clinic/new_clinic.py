"""`skinml clinic init`: from ten answers to a clinic's folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from skinml.clinic.answers import Answers, policy_of
from skinml.clinic.folder import ClinicFolder, create_folder
from skinml.durable import make_folder
from skinml.errors import ConfigError, EnvironmentProblem
from skinml.stewardship.passphrases import FILE_VARIABLE, SecretSource, checked, source_from
from skinml.stewardship.roles import strangers_among
from skinml.stewardship.unlocking import Unlock, by_key_file, by_keyring, by_passphrase

_TRIES = 3


@dataclass(frozen=True)
class NewClinic:
    """A folder that was just made.

    Attributes:
        folder: The opened folder.
        anchors: The folder that remembers its last state.
        beside: Whether that is on the same disk, so that both can be set back at once.
        strangers: Names with a role that no user of this computer has.
    """

    folder: ClinicFolder
    anchors: Path
    beside: bool
    strangers: tuple[str, ...] = ()


def require_new(path: Path) -> Path:
    """Check that a clinic's folder can be made somewhere, before anybody is asked anything.

    Args:
        path: The folder to be.

    Returns:
        Its whole path.

    Raises:
        ConfigError: If it is not empty, no folder, or the folder that the user stands in: it is
            put in place as a whole, and who stands in the old one would see nothing of it.
    """
    whole = path.expanduser().resolve()
    if whole == Path.cwd():
        raise ConfigError(
            rule="a new folder for the clinic",
            got="the folder that you are in",
            do="Name one, such as --folder clinic.",
        )
    if whole.exists() and not (whole.is_dir() and not any(whole.iterdir())):
        raise ConfigError(
            rule="an empty folder, or none yet, for a new clinic",
            got=f"folder={path} with something in it",
            do="Choose another folder; a clinic that is there is never written over.",
        )
    return whole


def new_passphrase(environment: Mapping[str, str], complain: Callable[[str], None]) -> SecretSource:
    """Choose where a new passphrase comes from; at a terminal a slip is asked about again.

    Args:
        environment: The process's, see `skinml.stewardship.passphrases.source_from`.
        complain: Hears why a passphrase did not do.

    Returns:
        The source.
    """
    source = source_from(environment, new=True)
    if environment.get(FILE_VARIABLE):
        return source

    def ask() -> str:
        for _ in range(_TRIES - 1):
            try:
                passphrase = source()
                checked(passphrase, new=True)
            except ConfigError as error:
                complain(str(error))
            else:
                return passphrase
        return source()

    return ask


def make_clinic(path: Path, answers: Answers, source: SecretSource) -> NewClinic:
    """Make a clinic's folder.

    Args:
        path: The folder to be; see `require_new`.
        answers: The answers.
        source: Gives the new passphrase, where one is needed.

    Returns:
        The new clinic.

    Raises:
        ConfigError: If the folder is not empty, the anchor would be inside it, or the passphrase
            is too short.
        EnvironmentProblem: If it cannot be written, or there is a key file already.

    Guarantees:
        Either the whole folder is made or none, and nothing that was there is written over.
    """
    whole = require_new(path)
    inside = [
        name
        for name, place in (("anchor", answers.anchor), ("unlock", _key_file(answers)))
        if place is not None and place.resolve().is_relative_to(whole)
    ]
    if inside:
        raise ConfigError(
            rule="an anchor and a key file outside the clinic's folder",
            got=f"{' and '.join(inside)} inside it",
            do="Choose another place: whoever copies or sets back the folder must not have it.",
        )
    make_folder(whole.parent, "clinic's folder")
    folder = create_folder(
        whole,
        name=answers.name,
        policy=policy_of(answers),
        anchors=answers.anchor,
        unlock=_unlock(answers),
        source=source,
    )
    strangers = strangers_among(folder.policy.roles)
    return NewClinic(folder, answers.anchor, _same_disk(whole, answers.anchor), strangers)


def _unlock(answers: Answers) -> Unlock:
    place = _key_file(answers)
    if place is not None:
        if not place.parent.is_dir():
            raise EnvironmentProblem(
                rule="a folder for the key file",
                got=f"no folder {place.parent}",
                do="Make it, or plug in the disk that it is on.",
            )
        return by_key_file(place)
    if answers.method == "keyring":
        # One entry a clinic, and a name may be used twice on one computer.
        return by_keyring(f"{answers.name} {os.urandom(4).hex()}")
    return by_passphrase()


def _key_file(answers: Answers) -> Path | None:
    return Path(answers.unlock) if answers.method == "key_file" else None


def _same_disk(first: Path, second: Path) -> bool:
    return first.stat().st_dev == second.stat().st_dev
