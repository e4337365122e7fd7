"""A new key for a patient of whom no picture is left, so that no copy of one can be opened.

The patient stays on record: consents, the clinic's own number, and when the time of each picture
began, so that no import begins it anew. These are put under a new key; the old one, which opened
the pictures and what was computed from them, is destroyed. Inside an end of retention, which is
written down first and ended whatever interrupts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

from skinml.clinic.begun import ERASURE, read_begun
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.picture_lock import changing_pictures
from skinml.stewardship.consent_rules import is_restricted
from skinml.stewardship.pictures import ORIGINAL, PENDING, PICTURE, Picture
from skinml.stewardship.pseudonyms import pseudonym

Renewal = dict[str, dict[str, Any]]


def renewal_for(folder: ClinicFolder, over: Iterable[Picture]) -> Renewal:
    """Find the patients of whom nothing is left once some pictures are gone.

    With them those of whom nothing was left before and whose key opened the pictures: releases
    before this one did not renew it. Who asked for a restriction keeps it.

    Args:
        folder: The clinic's folder.
        over: The pictures that go.

    Returns:
        Plain JSON values by patient: the key's id, what the table of pseudonyms says, and when the
        time of each picture began.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If one was changed.
    """
    going = list(over)
    people = {picture.patient for picture in going} | _emptied(folder)
    if not people:
        return {}
    numbers = {picture.number for picture in going}
    left = {e.patient for e in folder.pictures.pictures().values() if e.number not in numbers}
    others = folder.vault.listed([PICTURE, PENDING, ORIGINAL])
    ended, found = folder.pictures.ended_by_key(), Renewal()
    for patient in sorted(people - left):
        name = pseudonym(folder.key, patient)
        key = folder.patient_keys.find_pseudonyms([name]).get(name)
        if key is None or set(folder.vault.objects(patient)) - others:
            continue
        identity = folder.vault.look_up(name)
        own = {e.number: e.imported for e in going if e.patient == patient}
        found[patient] = {
            "key": key.id.hex(),
            "fields": dict(identity.fields) if identity else {},
            "began": {n: day.isoformat() for n, day in {**ended.get(key.id, {}), **own}.items()},
        }
    return found


def renew_keys(
    folder: ClinicFolder, renewal: Renewal, *, since: int, now: datetime, actor: str
) -> None:
    """Destroy the keys of patients of whom nothing is left, and put who they are under new ones.

    Args:
        folder: The clinic's folder, from which the pictures are gone.
        renewal: From `renewal_for`.
        since: How many entries the audit log had then.
        now: The time, with its zone.
        actor: Who does it.

    Raises:
        EnvironmentProblem: If a file cannot be written or removed.
        IntegrityError: If something in the folder was changed.

    Guarantees:
        Done again after an interruption, it does the rest. Who was erased meanwhile gets no key,
        and the key of somebody of whom something was brought in meanwhile stays.
    """
    if not renewal:
        return
    with changing_pictures(folder):
        gone = _erased_since(folder, since)
        names = {patient: pseudonym(folder.key, patient) for patient in renewal}
        keys = folder.patient_keys.find_pseudonyms(names.values())
        ids = {p: keys[name].id.hex() for p, name in names.items() if name in keys}
        old = [p for p in renewal if ids.get(p) == renewal[p]["key"] and _is_empty(folder, p)]
        if old:
            folder.vault.erase(old)
        new = [
            p
            for p in renewal
            if names[p] not in gone and (p in old or ids.get(p) != renewal[p]["key"])
        ]
        folder.vault.enrol({p: renewal[p]["fields"] for p in new})
        standing = {*folder.pictures.pictures(), *folder.pictures.ended()}
        for patient in new:
            began = _days(renewal[patient]["began"], standing)
            folder.pictures.mark_ended(patient, began, now=now, actor=actor)


def _emptied(folder: ClinicFolder) -> set[str]:
    """Find patients of whom nothing but marks of ended pictures is left, under the old key."""
    keys = folder.pictures.emptied_keys()
    names = [name for key, name in folder.patient_keys.ids().items() if key in keys] if keys else []
    known = {patient for name in names if (patient := folder.vault.identify(name)) is not None}
    return {p for p in known if not is_restricted(folder.consents.state_of(p).history)}


def _erased_since(folder: ClinicFolder, since: int) -> set[str]:
    gone = {
        str(entry.fields.get("patient"))
        for entry in folder.audit.entries()[since:]
        if entry.event == "erasure"
    }
    begun = read_begun(folder, ERASURE)
    return gone | ({pseudonym(folder.key, begun["patient"])} if begun else set())


def _is_empty(folder: ClinicFolder, patient: str) -> bool:
    return not (folder.pictures.of_patient(patient) or folder.vault.objects(patient))


def _days(began: Mapping[str, str], standing: set[str]) -> dict[str, date]:
    return {n: date.fromisoformat(day) for n, day in began.items() if n not in standing}
