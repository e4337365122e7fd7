"""Ending what a clinic keeps: shown first, then removed with a certificate.

The order: what is to go is written down, sealed; the register is written anew without it, but for
the day that each picture's time began, so that no import brings it back as new; the vault's objects
and what was computed from it go; the audit log and a certificate say so; what was written down is
removed. A process that was killed in between leaves the first, and the next command
at the clinic's desk does the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from skinml.clinic.certificates import Certificate, certify
from skinml.clinic.folder import RETENTION, ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.picture_lock import changing_pictures, discard_orphans
from skinml.durable import locked, read_whole, remove, write_whole
from skinml.stewardship.encryption import derive_key, seal, unseal
from skinml.stewardship.pictures import Picture
from skinml.stewardship.policy import policy_digest
from skinml.stewardship.retention import Ended, columns_over, ended, is_over

_WHAT = "retention"
_CONTEXT = b"skinml retention 1"


@dataclass(frozen=True)
class Due:
    """What has come to its end. Exact counts: they stay at the clinic.

    Attributes:
        day: The day asked about.
        pictures: Pictures that go.
        patients: Patients whose pictures these are.
        fields: Values that go from pictures that stay, by field.
        features: Files of computed features and prepared images that go.
        predictions: Files of predictions, and of heads of the clinic's own, that go.
        restricted: Pictures that are over and stay, for their patients asked for that.
    """

    day: date
    pictures: int
    patients: int
    fields: Mapping[str, int]
    features: int
    predictions: int
    restricted: int

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.pictures or self.fields or self.features or self.predictions)


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
    return _due(_found(folder, now.date()), now.date())


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
    with locked(folder.path / ".retention.lock", _WHAT):
        _finish(folder)  # somebody else's, begun since
        today = now.date()
        found = _found(folder, today)
        over, files, due = found.over, found.files, _due(found, today)
        if due.nothing:
            return Removed(due, 0, None)
        plan: dict[str, Any] = {
            "at": now.isoformat(),
            "actor": actor,
            "files": [str(path.relative_to(folder.path)) for path in files],
            "counts": {
                "pictures": due.pictures,
                "patients": due.patients,
                "fields": dict(due.fields),
                "features": due.features,
                "predictions": due.predictions,
            },
            "pictures": [each.number for each in over.pictures],
            "fields": {
                each.number: sorted(columns_over(each.imported, folder.policy.retention, today))
                for each in over.shortened
            },
            "objects": len({each.object for each in over.pictures if each.object}),
        }
        sealed = seal(_key(folder), json.dumps(plan).encode(), context=_CONTEXT)
        write_whole(folder.path / RETENTION, sealed, _WHAT)
        return Removed(due, plan["objects"], _carry_out(folder, plan))


def finish_retention(folder: ClinicFolder) -> bool:
    """End what was begun and interrupted.

    Args:
        folder: The clinic's folder.

    Returns:
        Whether there was anything.

    Raises:
        EnvironmentProblem: If a file cannot be written or removed.
        IntegrityError: If something was changed.
    """
    if not (folder.path / RETENTION).exists():
        return False
    with locked(folder.path / ".retention.lock", _WHAT):
        return _finish(folder)


def _finish(folder: ClinicFolder) -> bool:
    path = folder.path / RETENTION
    if not path.exists():
        return False
    plan = unseal(_key(folder), read_whole(path, _WHAT), context=_CONTEXT)
    _carry_out(folder, json.loads(plan))
    return True


def _carry_out(folder: ClinicFolder, plan: Mapping[str, Any]) -> Certificate:
    """Do all that is not done yet."""
    now, actor, counts = datetime.fromisoformat(plan["at"]), plan["actor"], plan["counts"]
    gone, less = set(plan["pictures"]), plan["fields"]

    def left(known: dict[str, Picture]) -> Iterable[Picture]:
        for number, picture in known.items():
            if number not in gone:
                fields = {
                    name: value
                    for name, value in picture.fields.items()
                    if name not in less.get(number, ())
                }
                yield replace(picture, fields=fields)

    if gone or less:  # once more, if need be: it costs time and changes nothing
        with changing_pictures(folder):
            folder.pictures.rewrite(left, now=now, actor=actor)
            # Whatever object they have by now: a review may have put another one in its place.
            discard_orphans(folder)
    for name in plan["files"]:
        remove(folder.path / name, _WHAT)
        remove(_day_of(folder.path / name), _WHAT)
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
        "how": "The register was written anew without them, the files of the pictures and all "
        "that was computed from them were removed, not overwritten: the patients' keys are there "
        "as long as the patients are, and open a copy in a backup. Files outside this folder were "
        "not touched; trained models stay as they are.",
    }
    certificate = certify(folder, "retention", says, now=now)
    remove(folder.path / RETENTION, _WHAT)
    return certificate


@dataclass(frozen=True)
class _Found:
    """What is over: on record, as files, and what stays because its use is restricted."""

    over: Ended
    files: list[Path]
    restricted: int


def _found(folder: ClinicFolder, today: date) -> _Found:
    rules, pictures = folder.policy.retention, list(folder.pictures.pictures().values())
    patients = sorted({each.patient for each in pictures})
    verdicts = folder.consents.verdicts(patients, "care", today)
    # GDPR, Art. 18: who asked for a restriction wants the data kept.
    kept = {
        patient
        for patient, verdict in zip(patients, verdicts, strict=True)
        if verdict == "restricted"
    }
    over = ended([each for each in pictures if each.patient not in kept], rules, today)
    held = ended([each for each in pictures if each.patient in kept], rules, today)
    return _Found(over, _files_over(folder, today, over), len(held.pictures))


def _files_over(folder: ClinicFolder, today: date, over: Ended) -> list[Path]:
    """Find what was computed and has come to its end.

    Rows of one picture, or of one field, cannot be taken out of what was computed: it goes whole,
    and features are computed again.
    """
    rules, runs = folder.policy.retention, folder.path / "runs"
    inspections = [folder.inspections] if folder.inspections.exists() else []
    stores, samples = _files(folder.features, "*.store"), _files(runs, "*/samples-*")
    predictions = [*_files(runs, "*/predictions-*"), *_files(runs, "*/personal-head*")]
    changed = bool(over.pictures or over.shortened)
    return [
        *(inspections if over.pictures else []),
        *(p for p in stores if over.pictures or is_over(made(p), rules.features_days, today)),
        *(p for p in samples if changed or is_over(made(p), rules.features_days, today)),
        *(p for p in predictions if changed or is_over(made(p), rules.predictions_days, today)),
    ]


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
        return date.fromtimestamp(path.stat().st_mtime)


def _day_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.made")


def _files(place: Path, pattern: str) -> list[Path]:
    return sorted(path for path in place.glob(pattern) if not path.name.endswith(".made"))


def _due(found: _Found, today: date) -> Due:
    told = ("predictions-", "personal-head")
    predictions = sum(path.name.startswith(told) for path in found.files)
    return Due(
        day=today,
        pictures=len(found.over.pictures),
        patients=len({each.patient for each in found.over.pictures}),
        fields=found.over.fields,
        features=len(found.files) - predictions,
        predictions=predictions,
        restricted=found.restricted,
    )


def _is_logged(folder: ClinicFolder, now: datetime) -> bool:
    moment = now.replace(microsecond=0)
    return any(
        entry.event == "retention" and datetime.fromisoformat(entry.at) == moment
        for entry in folder.audit.entries()
    )


def _key(folder: ClinicFolder) -> bytes:
    return derive_key(folder.key, "retention")
