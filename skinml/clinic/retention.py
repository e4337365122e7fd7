"""Ending what a clinic keeps: shown first, then removed with a certificate.

The order: what is to go is written down, sealed; the register is written anew without it, but for
the day that each picture's time began, so that no import brings it back as new; the vault's objects
and what was computed from them go; patients of whom nothing is left get a new key, and the old one
is destroyed; the audit log and a certificate say so; what was written down is removed. A process
that was killed in between leaves the first, and the next command at the clinic's desk does the
rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from skinml.clinic.begun import RETENTION, alone_at, end_begun, finish_begun, write_begun
from skinml.clinic.certificates import Certificate, certify
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.key_renewal import renew_keys, renewal_for
from skinml.clinic.own_heads import PATTERN as OWN_HEADS
from skinml.clinic.picture_lock import changing_pictures, discard_orphans, orphans
from skinml.data.feature_store import retain_in
from skinml.durable import remove, write_whole
from skinml.errors import EnvironmentProblem, IntegrityError
from skinml.stewardship.days import day_of
from skinml.stewardship.pictures import Picture
from skinml.stewardship.policy import policy_digest
from skinml.stewardship.retention import Ended, columns_over, ended, is_over

_WHAT = "retention"
_VERSION = 4  # of what is written down before anything is removed


@dataclass(frozen=True)
class Due:
    """What has come to its end. Exact counts: they stay at the clinic.

    Attributes:
        day: The day asked about.
        pictures: Pictures that go.
        patients: Patients whose pictures these are.
        fields: Values that go from pictures that stay, by field.
        features: Files of computed features, prepared images and samples that go, or that lose
            the rows of pictures that go.
        predictions: Files of predictions that go.
        originals: Original files that go from pictures that stay.
        own_heads: Heads that the clinic keeps to itself that go.
        keys: Keys that are destroyed, of patients of whom nothing is left.
        orphans: Files of the vault that go since nothing names them: an import or a review that
            was killed left them, with no day that their time began.
        restricted: Pictures that are over, or whose original file or fields are, and that stay as
            they are, for their patients asked for that.
    """

    day: date
    pictures: int
    patients: int
    fields: Mapping[str, int]
    features: int
    predictions: int
    originals: int
    own_heads: int
    keys: int
    orphans: int
    restricted: int

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to remove."""
        computed = (self.features, self.predictions, self.own_heads)
        left = (self.pictures, self.fields, self.originals, self.orphans, self.keys)
        return not any((*left, *computed))


@dataclass(frozen=True)
class Removed:
    """What an end of retention did.

    Attributes:
        due: What was to go, and is gone.
        objects: Files of the vault that were removed.
        certificate: The certificate; None where there was nothing to remove.
    """

    due: Due
    objects: int
    certificate: Certificate | None


def retention_due(folder: ClinicFolder, *, now: datetime) -> Due:
    """Tell what has come to its end, and change nothing.

    Args:
        folder: The clinic's folder.
        now: The time, with its zone.

    Returns:
        What would be removed.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If something was changed.
        PolicyError: If the user may not check the folder.
    """
    require_role(folder, "check")
    found = _found(folder, day_of(now))
    return _due(found, len(renewal_for(folder, found.over.pictures)), day_of(now))


def apply_retention(folder: ClinicFolder, *, now: datetime) -> Removed:
    """Remove what has come to its end.

    Args:
        folder: The clinic's folder.
        now: The time, with its zone.

    Returns:
        What was removed.

    Raises:
        EnvironmentProblem: If a file cannot be written or removed.
        IntegrityError: If something was changed.
        PolicyError: If the user may not erase.

    Guarantees:
        Killed at any moment after it began, the next command at the clinic's desk ends it. What
        was to go is admitted by no gate from its day on, whether or not this was called.
    """
    actor = require_role(folder, "erase")
    finish_retention(folder)
    with alone_at(folder, RETENTION, _resume):
        today = day_of(now)
        found = _found(folder, today)
        over, files = found.over, found.files
        renewal = renewal_for(folder, over.pictures)
        due = _due(found, len(renewal), today)
        if due.nothing:
            return Removed(due, 0, None)
        plan: dict[str, Any] = {
            "version": _VERSION,
            "at": now.isoformat(),
            "actor": actor,
            "logged": folder.audit.mark().count,
            "files": [str(path.relative_to(folder.path)) for path in files],
            "stores": [str(path.relative_to(folder.path)) for path in found.stores],
            "counts": {
                "pictures": due.pictures,
                "patients": due.patients,
                "fields": dict(due.fields),
                "features": due.features,
                "predictions": due.predictions,
                "originals": due.originals,
                "own_heads": due.own_heads,
                "keys": due.keys,
                "orphans": due.orphans,
            },
            "pictures": [each.number for each in over.pictures],
            "fields": {
                each.number: sorted(columns_over(each.imported, folder.policy.retention, today))
                for each in over.shortened
            },
            "originals": [each.number for each in over.originals],
            "objects": len(_objects(over)) + due.orphans,
            "renewal": renewal,
        }
        write_begun(folder, RETENTION, plan)
        return Removed(due, plan["objects"], _carry_out(folder, plan))


def finish_retention(folder: ClinicFolder) -> bool:
    """End what was begun and interrupted.

    Args:
        folder: The clinic's folder.

    Returns:
        Whether there was anything.

    Raises:
        EnvironmentProblem: If a file cannot be written or removed, or a later release of skinml
            began it.
        IntegrityError: If something was changed.
    """
    return finish_begun(folder, RETENTION, _resume)


def _resume(folder: ClinicFolder, plan: dict[str, Any]) -> None:
    _carry_out(folder, _read_plan(folder, plan))


def _read_plan(folder: ClinicFolder, plan: dict[str, Any]) -> dict[str, Any]:
    """Read what this or an older release wrote down, as this release would have written it."""
    version = plan.get("version", 1 if isinstance(plan.get("objects"), list) else 2)
    if version not in (1, 2, 3, _VERSION):
        raise EnvironmentProblem(
            rule=f"a removal that this release of skinml can end, version 1 to {_VERSION}",
            got=f"one that was begun by a later release, version={version}",
            do="Install the release that began it and type: skinml clinic retention "
            "--folder FOLDER",
        )
    if version == 1:  # it named the fields that stay, and each object
        known = folder.pictures.pictures()
        less = {
            number: sorted(set(known[number].fields) - set(stay))
            for number, stay in plan["fields"].items()
            if number in known
        }
        plan = {**plan, "fields": less, "objects": len(plan["objects"])}
    return {"renewal": {}, "logged": 0, "stores": [], **plan}


def _carry_out(folder: ClinicFolder, plan: Mapping[str, Any]) -> Certificate:
    """Do all that is not done yet."""
    now, actor, counts = datetime.fromisoformat(plan["at"]), plan["actor"], plan["counts"]
    gone, less, bare = set(plan["pictures"]), plan["fields"], set(plan.get("originals", ()))

    def left(known: dict[str, Picture]) -> Iterable[Picture]:
        for number, picture in known.items():
            if number not in gone:
                fields = {
                    name: value
                    for name, value in picture.fields.items()
                    if name not in less.get(number, ())
                }
                original = None if number in bare else picture.original
                yield replace(picture, fields=fields, original=original)

    with changing_pictures(folder):
        if gone or less or bare:  # once more, if need be: it costs time and changes nothing
            folder.pictures.rewrite(left, now=now, actor=actor)
        # Whatever object they have by now: a review may have put another one in its place.
        discard_orphans(folder)
        _take_out(folder, [folder.path / name for name in plan["stores"]])
    for name in plan["files"]:
        remove(folder.path / name, _WHAT)
        remove(_day_of(folder.path / name), _WHAT)
    renew_keys(folder, plan["renewal"], since=plan["logged"], now=now, actor=actor)
    if not _is_logged(folder, now):
        folder.audit.write(
            "retention",
            actor,
            now=now,
            patients=counts["patients"],
            objects=plan["objects"],
            count=counts["pictures"],
            rows=sum(counts["fields"].values()),
            policy=policy_digest(folder.policy),
        )
    says = {
        "removed": counts,
        "policy": policy_digest(folder.policy),
        "how": "The register was written anew without them, the files of the pictures, their "
        "originals, what interrupted imports had left and all that was computed from them were "
        "removed, not overwritten; features of pictures that stay were kept. The keys of "
        "patients of whom nothing was left were destroyed, so that this folder opens no copy of "
        "their pictures; who they are and what they agreed to stays, under new keys. The key of a "
        "patient of whom pictures stay opens a copy in a backup too. Files outside this folder "
        "were not touched; models that left the clinic stay as they are.",
    }
    certificate = certify(folder, "retention", says, now=now)
    end_begun(folder, RETENTION)
    return certificate


@dataclass(frozen=True)
class _Found:
    """What is over: on record, as files, and what stays because its use is restricted."""

    over: Ended
    files: list[Path]
    stores: list[Path]
    restricted: int
    orphans: int


def _found(folder: ClinicFolder, today: date) -> _Found:
    policy, pictures = folder.policy, list(folder.pictures.pictures().values())
    patients = sorted({each.patient for each in pictures})
    verdicts = folder.consents.verdicts(patients, "care", today)
    # GDPR, Art. 18: who asked for a restriction wants the data kept.
    kept = {
        patient
        for patient, verdict in zip(patients, verdicts, strict=True)
        if verdict == "restricted"
    }
    over = ended([each for each in pictures if each.patient not in kept], policy, today)
    held = ended([each for each in pictures if each.patient in kept], policy, today)
    stay = len(held.pictures) + len({each.number for each in (*held.originals, *held.shortened)})
    with changing_pictures(folder):  # what an import has sealed just now is on record inside
        left = len(orphans(folder))
    files = _files_over(folder, today, over)
    stores = [p for p in _stores(folder) if p not in files] if over.pictures else []
    return _Found(over, files, stores, stay, left)


def _objects(over: Ended) -> set[str]:
    """Name the vault's files that go: pictures with their originals, and single originals."""
    named = [each.original for each in (*over.pictures, *over.originals)]
    return {each for each in (*named, *(each.object for each in over.pictures)) if each}


def _files_over(folder: ClinicFolder, today: date, over: Ended) -> list[Path]:
    """Find what was computed and has come to its end as a whole.

    Rows of one picture, or of one field, cannot be taken out of samples and predictions.
    """
    rules, runs = folder.policy.retention, folder.path / "runs"
    inspections = [folder.inspections] if folder.inspections.exists() else []
    stores, samples = _stores(folder), _files(runs, "*/samples-*")
    predictions = [*_files(runs, "*/predictions-*"), *_files(runs, OWN_HEADS)]
    changed = bool(over.pictures or over.shortened)
    return [
        *(inspections if over.pictures else []),
        *(p for p in stores if is_over(made(p), rules.features_days, today)),
        *(p for p in samples if changed or is_over(made(p), rules.features_days, today)),
        *(p for p in predictions if changed or is_over(made(p), rules.predictions_days, today)),
    ]


def _stores(folder: ClinicFolder) -> list[Path]:
    return _files(folder.features, "*.store")


def _take_out(folder: ClinicFolder, stores: list[Path]) -> None:
    """Leave in stores the rows of pictures that are on record; what is no store goes whole."""
    stores = [path for path in stores if path.exists()]
    if not stores:
        return
    digests: list[bytes] = []
    owners: list[str] = []
    for picture in folder.pictures.pictures().values():
        # A file that was damaged or lost is no obstacle: its rows go with those that are over.
        with suppress(IntegrityError):
            for _, content in folder.vault.find([picture.object] if picture.object else []):
                digests.append(hashlib.sha256(content).digest())
                owners.append(picture.patient)
    for path in stores:
        if not retain_in(path, folder.key, folder.patient_keys, digests, owners):
            remove(path, _WHAT)
            remove(_day_of(path), _WHAT)


def note_made(path: Path, today: date) -> None:
    """Write down the day that a file begins which is added to later; nothing where there is one.

    Args:
        path: The file that is about to be made.
        today: The day.

    Raises:
        EnvironmentProblem: If it cannot be written.
    """
    if not path.exists():
        write_whole(_day_of(path), today.isoformat().encode(), "day of a file")


def made(path: Path) -> date:
    """Tell the day that a file of computed values began.

    Args:
        path: The file.

    Returns:
        The day that its neighbour `NAME.made` names, which is written with it; where there is
        none, the day that it was last written.
    """
    try:
        return date.fromisoformat(_day_of(path).read_text().strip())
    except (OSError, ValueError):
        return day_of(datetime.fromtimestamp(path.stat().st_mtime, UTC))


def _day_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.made")


def _files(place: Path, pattern: str) -> list[Path]:
    return sorted(path for path in place.glob(pattern) if not path.name.endswith(".made"))


def _due(found: _Found, keys: int, today: date) -> Due:
    changed = [*found.files, *found.stores]
    predictions = sum(path.name.startswith("predictions-") for path in found.files)
    heads = sum(path.name.startswith("personal-head") for path in found.files)
    return Due(
        day=today,
        pictures=len(found.over.pictures),
        patients=len({each.patient for each in found.over.pictures}),
        fields=found.over.fields,
        features=len(changed) - predictions - heads,
        predictions=predictions,
        originals=len(found.over.originals),
        own_heads=heads,
        keys=keys,
        orphans=found.orphans,
        restricted=found.restricted,
    )


def _is_logged(folder: ClinicFolder, now: datetime) -> bool:
    moment = now.replace(microsecond=0)
    return any(
        entry.event == "retention" and datetime.fromisoformat(entry.at) == moment
        for entry in folder.audit.entries()
    )
