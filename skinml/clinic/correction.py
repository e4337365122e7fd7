"""Correcting what stands beside a patient's pictures, so that the wrong value is gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from skinml.clinic.begun import CORRECTION, alone_at, end_begun, finish_begun, write_begun
from skinml.clinic.erased import erased_among
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.importing_records import grouped_age
from skinml.clinic.importing_terms import WORDS, require_plain_words
from skinml.clinic.picture_lock import changing_pictures
from skinml.clinic.requests import answered
from skinml.clinic.vocabulary import COLUMNS as LISTED
from skinml.clinic.vocabulary import allowed_words, is_allowed
from skinml.data.manifest import manifest_of
from skinml.data.sealed_images import SealedImages
from skinml.data.taxonomy import Taxonomy, load_taxonomy
from skinml.errors import ConfigError, DataError
from skinml.stewardship.pictures import SHORT, Picture
from skinml.stewardship.pseudonyms import pseudonym

_ALWAYS = ("diagnosis", "skin_tone_scale", "treatment", "outcome")
# Columns of which one says something of the other: a list may not bring half of such a pair.
_TOGETHER = ({"diagnosis", "malignant"}, {"skin_tone", "skin_tone_scale"})


@dataclass(frozen=True)
class Corrected:
    """What a correction did.

    Attributes:
        pictures: Pictures whose record is another one now.
        closed: Requests for correction that this answers.
    """

    pictures: int
    closed: int


def correct_record(
    folder: ClinicFolder,
    patient: str,
    changes: Mapping[str, str],
    *,
    now: datetime,
    only: str | None = None,
    taxonomy: Path | None = None,
) -> Corrected:
    """Write other values beside a patient's pictures.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        changes: By the manifest's column, the right value; "" takes it away.
        now: The time, with its zone.
        only: The picture's number as the patient's own copy has it; None: all of them.
        taxonomy: The clinic's own words, as its imports name them; None for the shipped ones.

    Returns:
        What was changed.

    Raises:
        ConfigError: If a field is none that the policy keeps, none is named, or the taxonomy is at
            fault.
        DataError: If the patient has no such picture, a value is none that a manifest may have, or
            nothing would change.
        EnvironmentProblem: If it cannot be written.
        IntegrityError: If the register was changed.
        PolicyError: If the user may not.

    Guarantees:
        Later runs read the right value, also after an import of a list that has the wrong one. The
        wrong one is in no register any more; what runs computed before stays as it is, until
        `predictions_days`. Killed at any moment, nothing is changed or, once it began, the next
        command at the clinic's desk ends it: the register, one line of the audit log, and the
        patient's request. Of a patient who was erased meanwhile nothing is written.
    """
    actor = require_role(folder, "consent.change")
    _require_kept(folder, changes)
    values = dict(changes)
    if values.get("age"):
        values["age"] = grouped_age(values["age"])
    if ("diagnosis" in values) != ("malignant" in values):
        _require_both(folder, patient, values)
    for column in set(values) & set(WORDS):
        require_plain_words(column, [values[column]], folder.policy)
    _require_listed(folder, values)
    with alone_at(folder, CORRECTION, _carry_out):
        held = folder.pictures.of_patient(patient)
        chosen = [each for each in held if only is None or each.number[:SHORT] == only]
        if not chosen:
            raise DataError(
                rule="a patient with such a picture in this clinic's folder",
                got="none",
                do="Look the numbers up in the patient's copy: skinml clinic access --to COPY "
                "--folder FOLDER",
            )
        right = {each.number: _corrected(each, values) for each in chosen}
        changed = {n: each for n, each in right.items() if each not in chosen}
        if not changed:
            raise DataError(
                rule="another value than the one that stands there",
                got="the same",
                do="Nothing was changed, and nothing needs to be.",
            )
        _require_valid(folder, list(changed.values()), load_taxonomy(taxonomy))
        plan: dict[str, Any] = {
            "patient": patient,
            "values": values,
            "pictures": sorted(changed),
            "at": now.isoformat(),
            "actor": actor,
            "logged": folder.audit.mark().count,
        }
        write_begun(folder, CORRECTION, plan)
        return _carry_out(folder, plan)


def finish_correction(folder: ClinicFolder) -> bool:
    """End a correction that was interrupted.

    Args:
        folder: The clinic's folder.

    Returns:
        Whether there was one.

    Raises:
        EnvironmentProblem: If a file cannot be written.
        IntegrityError: If something in the folder was changed.
    """
    return finish_begun(folder, CORRECTION, _carry_out)


def _carry_out(folder: ClinicFolder, plan: Mapping[str, Any]) -> Corrected:
    """Do all that is not done yet."""
    patient, actor, values = plan["patient"], plan["actor"], plan["values"]
    now, chosen = datetime.fromisoformat(plan["at"]), set(plan["pictures"])
    name = pseudonym(folder.key, patient)
    with changing_pictures(folder):
        if erased_among(folder, [patient]):  # since: nothing is left that it could be done to
            end_begun(folder, CORRECTION)
            return Corrected(0, 0)
        known = folder.pictures.pictures()
        # As they stand by now: an import may have come between.
        right = {n: _corrected(known[n], values) for n in chosen & known.keys()}
        if any(right[number] is not known[number] for number in right):
            folder.pictures.rewrite(
                lambda known: (right.get(number, each) for number, each in known.items()),
                now=now,
                actor=actor,
            )
    logged = any(
        entry.event == "correction" and entry.fields.get("patient") == name
        for entry in folder.audit.entries()[plan["logged"] :]
    )
    if not logged:
        folder.audit.write("correction", actor, now=now, patient=name, rows=len(chosen))
    closed = answered(folder, patient, "correct", now=now, actor=actor)
    end_begun(folder, CORRECTION)
    return Corrected(len(chosen), closed)


def _require_kept(folder: ClinicFolder, changes: Mapping[str, str]) -> None:
    # Of a lesion's id only a digest is kept.
    known = sorted({*_ALWAYS, *folder.policy.fields} - {"lesion_id"})
    wrong = [name for name in changes if name not in known]
    if wrong or not changes:
        raise ConfigError(
            rule=f"fields that this clinic keeps: {', '.join(known)}",
            got=f"{len(wrong)} other" if wrong else "none",
            do="Name them as FIELD=VALUE.",
        )


def _require_listed(folder: ClinicFolder, values: Mapping[str, str]) -> None:
    """Refuse words that are on no list, nor beside a picture already; none is repeated."""
    for column in sorted(set(values) & set(LISTED)):
        there = {each.fields.get(column, "") for each in folder.pictures.pictures().values()}
        if not is_allowed(column, values[column], allowed_words(column, there)):
            raise DataError(
                rule=f"a word for {column} that skinml knows, or that stands beside a picture here",
                got="another one",
                do="Write 'other', or bring the word in with an import that declares it (words).",
            )


def _require_both(folder: ClinicFolder, patient: str, values: Mapping[str, str]) -> None:
    """Refuse a diagnosis alone where whether it is malignant stands beside it, and the reverse."""
    there = {name for each in folder.pictures.of_patient(patient) for name in each.fields}
    if "malignant" in there | set(values):
        raise ConfigError(
            rule="diagnosis and malignant together, for one says something of the other",
            got="one of them",
            do="Name both, such as --field diagnosis=melanoma --field malignant=1.",
        )


def _corrected(picture: Picture, values: Mapping[str, str]) -> Picture:
    """Put values in their place; they, and what means nothing without them, win from now on."""
    fields = {name: value for name, value in {**picture.fields, **values}.items() if value}
    if fields == picture.fields:
        return picture
    named = {column for each in _TOGETHER if each & values.keys() for column in each}
    return replace(
        picture, fields=fields, corrected=tuple(sorted({*picture.corrected, *values, *named}))
    )


def _require_valid(folder: ClinicFolder, pictures: list[Picture], taxonomy: Taxonomy) -> None:
    """Hold the new values against the rules of a manifest; no value is repeated."""
    rows = [
        {**each.fields, "patient_id": each.patient, "image": each.object or f"none-{at}"}
        for at, each in enumerate(pictures)
    ]
    try:
        manifest_of(
            rows,
            root=SealedImages(folder.vault),
            name="the value that you gave",
            taxonomy=taxonomy,
        )
    except DataError as error:
        if "taxonomy" not in error.rule:
            raise
        raise DataError(
            rule=error.rule,
            got="a word that it does not know",
            do="Write a diagnosis, a site or a tone as your lists do; words of your own need "
            "--taxonomy, as at the import.",
        ) from None
