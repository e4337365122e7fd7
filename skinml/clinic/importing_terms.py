"""What a list of pictures may bring in: which columns, in which form; everything else stays out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from skinml.clinic.vocabulary import COLUMNS as LISTED
from skinml.clinic.vocabulary import is_code, looks_personal
from skinml.data.dicom import TAGS
from skinml.errors import ConfigError, DataError, PolicyError
from skinml.stewardship.deidentification import Choices
from skinml.stewardship.policy import KEPT_FIELDS, Policy
from skinml.stewardship.strict_yaml import read_yaml, validated

Column = Literal[
    "patient_id",
    "image",
    "diagnosis",
    "lesion_id",
    "malignant",
    "age",
    "birth_date",
    "sex",
    "anatomical_site",
    "skin_tone",
    "skin_tone_scale",
    "modality",
    "series",
    "confirmation",
    "taken",
    "treatment",
    "treatment_date",
    "outcome",
    "outcome_date",
    "genetic",
    "financial",
]
COLUMNS: tuple[Column, ...] = get_args(Column)
NEEDED = ("patient_id", "image", "diagnosis")
DATES = ("taken", "treatment_date", "outcome_date")
WORDS = (
    "diagnosis",
    "anatomical_site",
    "skin_tone",
    "modality",
    "confirmation",
    "treatment",
    "outcome",
    "genetic",
    "financial",
)
"""Columns whose cells are words of a clinic's own; free text hides best among these."""

_WHOLE = ("skin_tone_scale", "modality", "confirmation", "series")
_SPECIAL: Mapping[str, re.Pattern[str]] = {
    "genetic": re.compile(
        r"(?i)(?:^|[^a-z])(gen(e|es|etic|etics|ome|omic|otype|otyp|etik)|dna|rna|snp|allele|"
        r"mutation|variant|germline|exome|brca\d?|braf|nras|kit|cdkn2a|mc1r|tp53)(?:[^a-z]|$)"
    ),
    "financial": re.compile(
        r"(?i)(?:^|[^a-z])(iban|bic|bank|account|card|insur\w*|invoice|billing|payer|payment|"
        r"price|cost|costs|salary|income|credit|tax|versicher\w*|kosten|rechnung)(?:[^a-z]|$)"
    ),
}
_SPECIAL_CELLS: Mapping[str, re.Pattern[str]] = {
    "genetic": re.compile(r"\brs\d{4,}\b|\b[cgp]\.[A-Z]?[a-z]{0,2}\d+|\b[ACGT]{12,}\b"),
    "financial": re.compile(r"\b[A-Z]{2}\d{2}[ ]?(?:[A-Z0-9]{4}[ ]?){3,7}|\b(?:\d[ -]?){13,19}\b"),
}
_MOST_LETTERS, _MOST_WORDS = 40, 5
_TELLING = re.compile(r"@|\d{5,}|\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|https?:|\b(?:Mr|Mrs|Ms|Dr)\b")
_MANY, _OWN_SHARE, _LONG = 20, 0.5, 12
_HEADER = re.compile(r"[A-Za-z][A-Za-z _.()/-]{0,29}")

_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImportTerms(BaseModel):
    """The file that says which column of a clinic's list is what.

    Attributes:
        columns: The list's own header for each column that is kept; what is not named is dropped.
        whole: A value for all rows, such as the scale of all skin tones.
        words: By column, words that are kept beside those that skinml ships, see
            `skinml.clinic.vocabulary`; others are kept as "other". The clinic answers for them;
            those that look like a person's name or number are refused.
        dicom: DICOM keywords to take a value from where the list has none.
        dates: shift moves all dates of a patient by the same secret number of days; month and year
            cut off the rest.
        date_format: How dates are written, as Python's strptime reads it; by default year first,
            or day.month.year with points.
        pictures: How pictures are made safe.
    """

    model_config = _STRICT

    columns: dict[Column, str] = Field(default_factory=dict)
    whole: dict[Column, str] = Field(default_factory=dict)
    words: dict[Column, list[str]] = Field(default_factory=dict)
    dicom: dict[Column, str] = Field(default_factory=dict)
    dates: Literal["shift", "month", "year"] = "shift"
    date_format: str | None = None
    pictures: Choices = Choices()

    @model_validator(mode="after")
    def _agree(self) -> ImportTerms:
        headers = list(self.columns.values())
        if len(set(headers)) < len(headers):
            raise ValueError("one header stands for two columns")
        wrong = [name for name in self.whole if name not in _WHOLE]
        if wrong:
            raise ValueError(f"whole takes {', '.join(_WHOLE)}, not {', '.join(wrong)}")
        wrong = [name for name in self.words if name not in LISTED]
        if wrong:
            raise ValueError(f"words takes {', '.join(LISTED)}, not {', '.join(wrong)}")
        wrong = [name for name, told in self.words.items() if any(map(looks_personal, told))]
        if wrong:
            raise ValueError(
                f"words for {', '.join(wrong)} must look like no person's name or number; write "
                "them small, without long numbers"
            )
        wrong = [name for name, tag in self.dicom.items() if tag not in TAGS]
        if wrong:
            raise ValueError(f"dicom takes the tags {', '.join(TAGS)}, not that of {wrong[0]}")
        wrong = [name for name in self.dicom if name not in ("age", "birth_date", "sex", "taken")]
        if wrong:
            raise ValueError(f"dicom fills age, birth_date, sex and taken, not {wrong[0]}")
        return self


def read_terms(content: bytes) -> ImportTerms:
    """Read the file that says which column is what.

    Args:
        content: YAML.

    Returns:
        The terms.

    Raises:
        ConfigError: If it is not YAML, or breaks a rule.
    """
    return validated(ImportTerms, read_yaml(content, "import file"), "import file")


def chosen_columns(
    terms: ImportTerms, headers: Sequence[str], policy: Policy
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Say which header stands for which column that is kept.

    Args:
        terms: What the clinic declared. Headers that are called as a column are taken for it.
        headers: The list's headers.
        policy: The clinic's policy: what it does not keep is not taken.

    Returns:
        By column, the header; and the columns that are there and that the policy does not keep.

    Raises:
        DataError: If a header that was named, or a needed column, is not there.
        PolicyError: If a column is genetic or financial and the policy names no purpose for it.
    """
    missing = [column for column, header in terms.columns.items() if header not in headers]
    if missing:
        raise DataError(
            rule="a list with each header that the import file names",
            got=f"none for {', '.join(missing)}",
            do="Correct the header in the file of --terms.",
        )
    named = set(terms.columns.values())
    found: dict[str, str] = {}
    for each in COLUMNS:
        if each in terms.columns:
            found[each] = terms.columns[each]
        elif each in headers and each not in named:
            found[each] = each
    needed = [column for column in NEEDED if column not in found]
    if needed:
        raise DataError(
            rule=f"a list with columns for {', '.join(NEEDED)}",
            got=f"none for {', '.join(needed)}",
            do="Name their headers under 'columns' in a file, and give it with --terms.",
        )
    for column, header in found.items():
        _require_purpose(column, header, policy)
    not_kept = {str(each) for each in KEPT_FIELDS if each not in policy.fields}
    closed = {"birth_date" if each == "age" else each for each in not_kept} | not_kept
    kept = {column: header for column, header in found.items() if column not in closed}
    return kept, tuple(sorted(found.keys() - kept.keys()))


def require_plain_words(column: str, cells: Sequence[str], policy: Policy) -> None:
    """Refuse a column whose cells are sentences, or tell more than a word.

    Args:
        column: The column.
        cells: Its cells, one a row.
        policy: The clinic's policy.

    Raises:
        DataError: If it is free text: long cells, or cells that look like names, numbers, dates or
            addresses, or long cells of which most stand once. No cell is repeated.
        PolicyError: If cells look genetic or financial and the policy names no purpose.
    """
    filled = [cell for cell in cells if cell]
    for kind, pattern in _SPECIAL_CELLS.items():
        if column != kind and any(pattern.search(cell) for cell in filled):
            raise _special(kind, f"cells of {column} that look {kind}")
    telling = sum(bool(_TELLING.search(c)) and not is_code(column, c) for c in filled)
    # Amounts and variants are many and short; what is none of them is not kept anyway.
    words = [] if column in _SPECIAL else filled
    long = sum(len(cell) > _MOST_LETTERS or len(cell.split()) > _MOST_WORDS for cell in words)
    own = len(set(words)) / max(1, len(words))
    letters = sum(map(len, words)) / max(1, len(words))
    scattered = len(words) >= _MANY and own > _OWN_SHARE and letters > _LONG
    if long or telling or scattered:
        why = f"{long} long, {telling} with numbers, dates or addresses"
        raise DataError(
            rule=f"words of a short list in column {column}",
            got=f"free text: {why}" + (", most of them different" if scattered else ""),
            do="Replace it by codes, or leave the column out of the import file.",
        )


def shown_headers(headers: Sequence[str]) -> tuple[str, ...]:
    """List headers for the screen; one that might be something else is named by its place.

    Args:
        headers: Headers in the list's order.

    Returns:
        A name for each.

    >>> shown_headers(["Notes", "0171 5551234", "next of kin"])
    ('Notes', 'column 2', 'next of kin')
    """
    return tuple(
        header if _HEADER.fullmatch(header) else f"column {place}"
        for place, header in enumerate(headers, start=1)
    )


def _require_purpose(column: str, header: str, policy: Policy) -> None:
    for kind, pattern in _SPECIAL.items():
        looks = column == kind or pattern.search(header.replace("_", " "))
        if looks and not getattr(policy.special_fields, kind):
            raise _special(kind, f"a {kind} column for {column}")
        if looks and column != kind:
            raise ConfigError(
                rule=f"{kind} data under the name {kind}",
                got=f"a header that looks {kind} for {column}",
                do=f"Name the header for the column {kind} in the file of --terms.",
            )


def _special(kind: str, got: str) -> PolicyError:
    return PolicyError(
        rule=f"a purpose for {kind} data in the clinic's policy (special_fields.{kind})",
        got=got,
        do="Leave the column out, or ask the steward to name a purpose.",
    )
