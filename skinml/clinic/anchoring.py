"""Giving a clinic's folder new anchors: because they move to another disk, or were lost.

Where they were lost nobody can tell any more whether the folder was set back. What it holds is
verified against the clinic's key alone, the audit log says that it was taken as it stands, and the
copies of the log that others kept remain the only witness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from skinml.clinic.begun import KINDS, file_of, read_begun
from skinml.clinic.folder import LOCKED_KEY, POLICY_FILE, ClinicFolder, anchor_place, open_folder
from skinml.clinic.folder import unlocked as unlocked_folder
from skinml.clinic.gate import require_role
from skinml.clinic.identity import FILE, identity_bytes
from skinml.clinic.requests import FILE as REQUESTS
from skinml.clinic.requests import read_requests
from skinml.durable import make_folder, read_whole
from skinml.errors import ConfigError, IntegrityError, SkinmlError
from skinml.journal import Mark
from skinml.stewardship.passphrases import SecretSource
from skinml.stewardship.policy import parse_policy, policy_digest

_JOURNALS = {
    "consent": "consent.journal",
    "audit": "audit.journal",
    "ledger": "ledger.jsonl",
    "pictures": "pictures.journal",
}
_VAULT = ("keys.sealed", "patients.sealed")


@dataclass(frozen=True)
class Renewed:
    """What the new anchors remember.

    Attributes:
        folder: The clinic's folder, with its new anchors.
        anchors: Their file.
        marks: Where each journal ends.
        verified: Whether the old anchors vouched for it.
    """

    folder: ClinicFolder
    anchors: Path
    marks: dict[str, Mark]
    verified: bool


def renew_anchors(
    path: Path,
    anchors: Path,
    source: SecretSource | None,
    *,
    now: datetime,
    lost: bool = False,
) -> Renewed:
    """Write new anchors for a folder as it stands, and put them in place of the old ones.

    Args:
        path: The clinic's folder.
        anchors: The folder of the new anchors, outside of the clinic's.
        source: Gives the passphrase, where one is needed.
        now: The time, for the audit log.
        lost: Whether the old anchors are gone; without it they must vouch for the folder.

    Returns:
        What is remembered now.

    Raises:
        ConfigError: If the new anchors would be in the folder, there are such anchors already, or
            the old ones are not lost.
        EnvironmentProblem: If they cannot be written.
        IntegrityError: If the folder was changed.
        PolicyError: If the user may not.

    Guarantees:
        Killed at any moment, the folder has its old anchors or its new ones. The old ones are
        gone afterwards, so that no copy of the folder from before the move passes by them; a
        process that still holds to them changes nothing any more.
    """
    if anchors.resolve().is_relative_to(path.resolve()):
        raise ConfigError(
            rule="anchors outside the clinic's folder",
            got="a folder inside it",
            do="Choose another disk, or at least another folder.",
        )
    old = _vouched_for(path, source, lost=lost)
    identity, key = unlocked_folder(path, source) if old is None else (old.identity, old.key)
    make_folder(anchors, "folder of anchors")
    place = anchors / f"{identity.id}.json"
    if place.exists():
        raise ConfigError(
            rule="a folder without anchors of this clinic",
            got="some that are there already",
            do="Choose another folder. If an interrupted move left them, move them away first.",
        )
    renewed = identity.model_copy(
        update={"anchor": anchor_place(path, place, relative=identity.virtual)}
    )
    folder = ClinicFolder(path, renewed, key)
    if old is None:
        return Renewed(folder, place, _make_anew(folder, now), verified=False)
    # Written while the old anchors hold, so that no change is without its entry.
    _log(old, {name: old.anchors.find_mark(name) for name in _JOURNALS}, now)
    with old.anchors.moved(folder.anchors):
        _ask_from_now_on(folder)
    marks = {name: folder.anchors.find_mark(name) for name in _JOURNALS}
    return Renewed(folder, place, {name: mark for name, mark in marks.items() if mark.count}, True)


def _make_anew(folder: ClinicFolder, now: datetime) -> dict[str, Mark]:
    """Make anchors for a folder that has none."""
    folder.anchors.create()
    try:
        marks = _remember(folder)
        _require_logged_policy(folder)
        _log(folder, marks, now)
    except SkinmlError:
        folder.anchors.path.unlink()
        raise
    _ask_from_now_on(folder)
    return marks


def _ask_from_now_on(folder: ClinicFolder) -> None:
    content = identity_bytes(folder.identity, folder.key)
    folder.anchors.replace(folder.path / FILE, content, "clinic.json")


def _log(folder: ClinicFolder, marks: Mapping[str, Mark], now: datetime) -> None:
    actor = require_role(folder, "keys.rotate")
    for name, mark in marks.items():
        if mark.count:
            folder.audit.write(
                "anchor", actor, now=now, journal=name, count=mark.count, head=mark.head
            )


def _vouched_for(path: Path, source: SecretSource | None, *, lost: bool) -> ClinicFolder | None:
    """Let the old anchors speak, if there are any."""
    try:
        folder = open_folder(path, source)
    except IntegrityError:
        if not lost:
            raise
        return None
    if lost:
        raise ConfigError(
            rule="anchors that are lost, where --lost is said",
            got="anchors that fit the folder",
            do="Leave --lost out: then the old anchors vouch for what the new ones remember.",
        )
    return folder


def _remember(folder: ClinicFolder) -> dict[str, Mark]:
    """Take each file as it stands into the anchors, and verify it against the clinic's key."""
    marks = {}
    for name, file in _JOURNALS.items():
        content = _content(folder.path / file)
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        if lines:
            marks[name] = Mark(len(lines), hashlib.sha256(lines[-1]).hexdigest())
            folder.anchors.journal(name).announce(marks[name])
            folder.anchors.journal(name).move(marks[name])
    vault = (folder.path / "vault" / name for name in _VAULT)
    own = (folder.path / name for name in (*map(file_of, KINDS), REQUESTS))
    for path in (folder.path / POLICY_FILE, folder.path / "keys" / LOCKED_KEY, *own, *vault):
        if path.exists():
            folder.anchors.replace(path, _content(path), path.name)
    folder.audit.entries()
    folder.ledger.entries()
    folder.consents.book()
    folder.pictures.mark()
    folder.vault.require_intact()
    read_requests(folder)
    for kind in KINDS:
        read_begun(folder, kind)
    return marks


def _require_logged_policy(folder: ClinicFolder) -> None:
    """Hold the policy, which no key seals, against the digest that the audit log signed."""
    logged = [
        str(entry.fields.get("after", entry.fields.get("policy")))
        for entry in folder.audit.entries()
        if entry.event in ("folder created", "policy changed")
    ]
    policy = parse_policy(_content(folder.path / POLICY_FILE))
    if not logged or policy_digest(policy) != logged[-1]:
        raise IntegrityError(
            rule="the policy that the audit log says is in force",
            got="another one",
            do="Restore policy.yaml from a backup.",
        )


def _content(path: Path) -> bytes:
    return read_whole(path, path.name) if path.exists() else b""
