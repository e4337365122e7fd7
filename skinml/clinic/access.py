"""A patient's own copy: a page to read, and the same for machines, with the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from skinml import __version__
from skinml.clinic.consents import PatientAnswer, answer_of
from skinml.clinic.contribution_words import epsilon_words, sentences
from skinml.clinic.contributions import (
    Contributions,
    contributions_of,
    is_known,
    plain_values,
    unknown_patient,
)
from skinml.clinic.evidence_words import FIELD_NAMES, LOOKS, PURPOSE_NAMES, STANDS
from skinml.clinic.field_words import moved_days, shown_fields
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.pages import page_of, text_of
from skinml.clinic.requests import answered
from skinml.durable import make_folder, write_whole
from skinml.errors import ConfigError
from skinml.stewardship.audit_log import AuditEntry
from skinml.stewardship.days import day_of
from skinml.stewardship.pictures import ORIGINAL, PENDING, PICTURE, SHORT, Picture
from skinml.stewardship.policy import Policy
from skinml.stewardship.pseudonyms import pseudonym
from skinml.stewardship.purposes import PURPOSES
from skinml.stewardship.retention import last_day_of_original, last_day_of_use

_WHAT = "patient's copy"
_TITLE = "What this clinic's system holds about you"


@dataclass(frozen=True)
class Copy:
    """What was written for a patient. Per patient: never log.

    Attributes:
        folder: Where.
        pictures: Files of pictures that were written.
        originals: Original files that were written.
        runs: Runs that read the patient's data.
        closed: Requests for access that this answers.
    """

    folder: Path
    pictures: int
    originals: int
    runs: int
    closed: int


@dataclass(frozen=True)
class _Files:
    """Names of files that were written, by the numbers of their pictures."""

    pictures: Mapping[str, str]
    originals: Mapping[str, str]


def write_copy(
    folder: ClinicFolder, patient: str, into: Path, *, now: datetime, originals: bool = False
) -> Copy:
    """Write all that the clinic's folder holds about a patient, to be handed to the patient.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        into: A folder that does not exist yet, or is empty: `summary.html` to read, `data.json`
            for machines, `pictures/`, and where they are asked for `originals/`.
        now: The time, with its zone.
        originals: Whether the files that pictures were imported from are written too, as far as
            they were kept.

    Returns:
        What was written.

    Raises:
        ConfigError: If the folder is not empty.
        DataError: If nothing at all is known of the patient; most likely the id is mistyped.
        EnvironmentProblem: If a file cannot be read or written.
        IntegrityError: If something in the clinic's folder was changed.
        PolicyError: If the user may not write out whole records; to read consents is not enough.

    Guarantees:
        The audit log says so before the first file is there, with a line of its own for originals.
        What is written is readable by this user of the computer and not sealed: whoever hands it
        over removes it.
    """
    actor = require_role(folder, "record.export")
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ConfigError(
            rule="a folder for the copy that is not there yet, or is empty",
            got="one with something in it",
            do="Choose another one: two patients' copies must not mix.",
        )
    found = contributions_of(folder, patient)
    if not (found.runs or found.erased or is_known(folder, patient)):
        raise unknown_patient()
    name, today = pseudonym(folder.key, patient), day_of(now)
    held = _held(folder, patient)
    told = {"kind": "records", "patient": name, "patients": 1, "objects": len(held)}
    folder.audit.write("export", actor, now=now, **told)
    kept = [each for each in held if each.original is not None] if originals else []
    if kept:
        told |= {"kind": "originals", "objects": len(kept)}
        folder.audit.write("export", actor, now=now, **told)
    make_folder(into, _WHAT)
    files = _Files(_write_pictures(folder, held, into), _write_originals(folder, kept, into))
    values = _values(folder, patient, held, found, files, now)
    write_whole(into / "data.json", json.dumps(values, indent=1).encode(), _WHAT)
    page = page_of(
        text_of("access", values | _words(found) | {"bulk": values["lists_read"]}),
        title=_TITLE,
        footer=f"Written by skinml "
        f"{__version__} on {today}. Keep it safe: it holds your health data.",
    )
    write_whole(into / "summary.html", page.encode(), _WHAT)
    closed = answered(folder, patient, "access", now=now, actor=actor)
    return Copy(into, len(files.pictures), len(files.originals), len(found.runs), closed)


def _held(folder: ClinicFolder, patient: str) -> list[Picture]:
    return folder.pictures.of_patient(patient)


def _write_pictures(folder: ClinicFolder, held: list[Picture], into: Path) -> dict[str, str]:
    """Write what can be read of the pictures; give the files' names by the pictures' numbers."""
    objects = [each.object for each in held if each.object is not None]
    contents = dict(folder.vault.find(objects, [PICTURE, PENDING]))
    files = dict[str, str]()
    for picture in held:
        content = contents.get(picture.object or "")
        if content is not None:
            make_folder(into / "pictures", _WHAT)
            ending = "png" if content.startswith(b"\x89PNG") else "jpg"
            files[picture.number] = f"pictures/{picture.number[:SHORT]}.{ending}"
            write_whole(into / files[picture.number], content, _WHAT)
    return files


def _write_originals(folder: ClinicFolder, held: list[Picture], into: Path) -> dict[str, str]:
    """Write the files that pictures came from, byte for byte, one after the other."""
    numbers, files = {each.original or "": each.number for each in held}, dict[str, str]()
    for name, content in folder.vault.find(numbers, [ORIGINAL]):
        make_folder(into / "originals", _WHAT)
        number = numbers[name]
        files[number] = f"originals/{number[:SHORT]}.{_ending(content)}"
        write_whole(into / files[number], content, _WHAT)
    return files


def _ending(content: bytes) -> str:
    """Tell what a file that was imported is called, from its first bytes."""
    begins = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"II": "tif", b"MM": "tif", b"RIFF": "webp"}
    found = (ending for start, ending in begins.items() if content.startswith(start))
    return "dcm" if content[128:132] == b"DICM" else next(found, "bin")


def _values(
    folder: ClinicFolder,
    patient: str,
    held: list[Picture],
    found: Contributions,
    files: _Files,
    now: datetime,
) -> dict[str, Any]:
    policy, answer = folder.policy, answer_of(folder.consents.state_of(patient), day_of(now))
    return {
        "clinic": folder.name,
        "day": day_of(now).isoformat(),
        "patient": patient,
        "purposes_of_the_clinic": list(policy.purposes),
        "pictures": [_picture(each, files, policy) for each in held],
        "consents": _consents(answer),
        "runs": plain_values(found),
        "who_looked": [_look(each) for each in _about(folder, patient)],
        "lists_read": _bulk(folder),
        "recipients": sorted({c for c in policy.coordinators if c != "simulation"}),
        "answer_days": policy.requests.answer_days,
    }


def _picture(picture: Picture, files: _Files, policy: Policy) -> dict[str, Any]:
    rules = policy.retention
    ends = {
        purpose: None if (last := last_day_of_use(picture, rules, purpose)) is None else str(last)
        for purpose in PURPOSES
    }
    return {
        "number": picture.number[:SHORT],
        "file": files.pictures.get(picture.number),
        "original": _original(picture, files, policy),
        "state": picture.state,
        "brought_in": picture.imported.isoformat(),
        "kept_until": _end(picture.imported, rules.images_days),
        "fields": dict(picture.fields),
        "moved_days": list(moved_days(picture.fields)),
        "covered": len(picture.boxes) if picture.state == "masked" else 0,
        "used_until": ends,
    }


def _original(picture: Picture, files: _Files, policy: Policy) -> dict[str, Any] | None:
    """Say that the file which a picture came from is kept, and until when; None where not."""
    if picture.original is None:
        return None
    last = last_day_of_original(policy.retention, picture.imported)
    return {
        "file": files.originals.get(picture.number),
        "kept_until": None if last is None else last.isoformat(),
    }


def _end(since: date, days: int | None) -> str | None:
    return None if days is None else (since + timedelta(days=days)).isoformat()


def _consents(answer: PatientAnswer) -> dict[str, Any]:
    return {"today": dict(answer.purposes), "changes": [dict(each) for each in answer.changes]}


def _about(folder: ClinicFolder, patient: str) -> list[AuditEntry]:
    """Find the entries of the log that are about this patient alone."""
    name = pseudonym(folder.key, patient)
    return [each for each in folder.audit.entries() if each.fields.get("patient") == name]


def _look(entry: AuditEntry) -> dict[str, str]:
    kind = str(entry.fields.get("kind", entry.fields.get("right", "")))
    return {"at": entry.at, "event": entry.event, "kind": kind}


def _bulk(folder: ClinicFolder) -> list[str]:
    """List the days on which several patients' records were read or taken out at once."""
    days = {
        each.at[:10]
        for each in folder.audit.entries()
        if each.event in ("access", "export")
        and "patient" not in each.fields
        and each.fields.get("patients", 0)
    }
    return sorted(days)


def _words(found: Contributions) -> dict[str, Any]:
    return {
        "sentences": sentences(found),
        "shown_fields": shown_fields,
        "stands": STANDS,
        "looks": LOOKS,
        "field_names": FIELD_NAMES,
        "purpose_names": PURPOSE_NAMES,
        "epsilon_words": epsilon_words,
    }
