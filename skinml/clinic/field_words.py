"""What stands beside a picture, in words for the patient whose it is."""

from __future__ import annotations

from collections.abc import Mapping

from skinml.clinic.importing_records import OLDEST
from skinml.clinic.importing_terms import DATES
from skinml.data.taxonomy import Taxonomy, load_taxonomy

_WHOLE_DAY = len("2024-03-07")
_SCALES = {"fitzpatrick": "Fitzpatrick's", "monk": "Monk's", "milk": "MILK10k's"}


def moved_days(fields: Mapping[str, str]) -> tuple[str, ...]:
    """Name the fields whose day is not the real one.

    An import writes a date as a whole day only where it moved it; else the month or the year.

    Args:
        fields: What was kept beside a picture.

    Returns:
        Names of fields.

    >>> moved_days({"taken": "2024-03-07", "outcome_date": "2024", "age": "54"})
    ('taken',)
    """
    return tuple(name for name in DATES if len(fields.get(name, "")) == _WHOLE_DAY)


def shown_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """Say the values of a picture's fields as a patient understands them.

    Args:
        fields: What was kept beside a picture, by the column of a manifest.

    Returns:
        By the same names; a skin tone holds its scale. A word that skinml does not know stays.

    >>> shown_fields({"diagnosis": "bcc", "age": "90", "taken": "2024"})
    {'diagnosis': 'basal cell carcinoma (written: bcc)', 'age': '90 or older', 'taken': '2024'}
    >>> shown_fields({"skin_tone": "5", "skin_tone_scale": "fitzpatrick"})
    {'skin_tone': "5 on Fitzpatrick's scale"}
    """
    known, moved = load_taxonomy(), moved_days(fields)
    found: dict[str, str] = {}
    for name, value in fields.items():
        if name == "skin_tone_scale" and "skin_tone" in fields:
            continue
        found[name] = _said(known, name, value, fields)
        if name in moved:
            found[name] += " (moved by a secret number of days)"
    return found


def _said(known: Taxonomy, name: str, value: str, fields: Mapping[str, str]) -> str:
    if name == "malignant":
        return "yes" if value.casefold() in ("1", "1.0", "true", "malignant") else "no"
    if name == "age":
        return f"{OLDEST} or older" if value.removesuffix(".0") == str(OLDEST) else value
    if name == "skin_tone" and (scale := fields.get("skin_tone_scale", "")):
        return f"{value.replace('_', ' ')} on {_SCALES.get(scale, scale.replace('_', ' '))} scale"
    words = value.replace("_", " ")
    if name not in ("diagnosis", "anatomical_site"):
        return words
    translate = known.diagnoses if name == "diagnosis" else known.sites
    (shared,) = translate([value], [fields.get("dataset", "")]).names
    shared = shared.replace("_", " ")
    return words if shared.casefold() in ("", words.casefold()) else f"{shared} (written: {words})"
