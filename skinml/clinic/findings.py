"""What a check found: a colour, a sentence, and what to do. For the clinic's own screen only."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from skinml.errors import SkinmlError

Colour = Literal["green", "amber", "red"]
"""green: as it should be; amber: usable, and something to know or to improve; red: a run would be
refused, or would mislead."""

_ORDER: tuple[Colour, ...] = ("green", "amber", "red")


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Attributes:
        colour: How it stands.
        topic: What was looked at, in two or three words.
        found: What was found, a sentence for a reader who knows the practice and not skinml.
        do: What to do about it; empty where nothing is to be done.
        details: Further lines, such as the rows concerned; never a patient or an image's path.
    """

    colour: Colour
    topic: str
    found: str
    do: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToneCover:
    """What can be told of one skin tone.

    Attributes:
        scale: The scale of the tone, such as "fitzpatrick".
        tone: The tone's name on its scale.
        num_patients: Patients who may be used.
        num_malignant: Those with at least one malignant image.
        half_width: Expected half width of the 95% interval of the AUROC on the patients that are
            kept for testing; None where there would be none.
        smallest_difference: The smallest difference from all other tones together that would
            usually show; None where none would.
        told: Whether a difference of 0.10 would usually show.
    """

    scale: str
    tone: str
    num_patients: int
    num_malignant: int
    half_width: float | None
    smallest_difference: float | None
    told: bool


@dataclass(frozen=True)
class ConsentCover:
    """How many patients of a manifest may be used for one purpose today.

    Attributes:
        purpose: The purpose.
        num_consent: Patients whose consent covers it.
        num_licence: Patients used on the licence of a research dataset.
        num_ending: Patients covered today and not any more when the days looked ahead are over.
        refused: For each reason in words, the patients who may not be used.
    """

    purpose: str
    num_consent: int
    num_licence: int
    num_ending: int
    refused: dict[str, int]


@dataclass(frozen=True)
class CheckReport:
    """The whole check. Exact counts of a clinic's patients: they stay at the clinic.

    Attributes:
        clinic: The clinic's name.
        day: The day that consents were judged for.
        purpose: What the images were looked at for.
        num_images: Images that may be used.
        num_patients: Patients who may be used.
        findings: What was found, the most urgent first.
        tones: What can be told of each skin tone.
        consents: Who may be used for what.
    """

    clinic: str
    day: datetime.date
    purpose: str
    num_images: int
    num_patients: int
    findings: tuple[Finding, ...]
    tones: tuple[ToneCover, ...] = ()
    consents: tuple[ConsentCover, ...] = ()

    @property
    def colour(self) -> Colour:
        """The worst colour of all findings."""
        return max((each.colour for each in self.findings), key=_ORDER.index, default="green")


def urgent_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Sort findings by urgency.

    Args:
        findings: In any order.

    Returns:
        Red, amber, green; within a colour in the order given.
    """
    return tuple(sorted(findings, key=lambda each: -_ORDER.index(each.colour)))


def of_error(topic: str, error: SkinmlError, colour: Colour = "red") -> Finding:
    """Turn an error into a finding.

    Args:
        topic: What was looked at.
        error: What stopped the look.
        colour: How urgent it is.

    Returns:
        The finding.
    """
    found = f"Expected {error.rule}; got {error.got}."
    return Finding(colour, topic, found, error.do, error.details)


def counted(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun.

    Args:
        number: How many.
        one: The noun of one.
        many: The noun of several; by default `one` with an s.

    Returns:
        Such as "1 patient" or "1,200 patients".

    >>> counted(1, "patient"), counted(1200, "patient"), counted(2, "copy", "copies")
    ('1 patient', '1,200 patients', '2 copies')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
