"""What a patient agreed to, what they took back, and what follows from both. The default is no."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from skinml.stewardship.purposes import DATA_KINDS, PURPOSES, DataKind, Purpose

How = Literal["paper", "electronic", "spoken"]
"""How the consent was given."""

GivenBy = Literal["patient", "parent", "guardian", "legal_representative"]
"""Who gave it."""

Reason = Literal[
    "",
    "no consent",
    "licence not allowed",
    "purpose not covered",
    "data not covered",
    "not yet valid",
    "expired",
    "kept too long",
    "restricted",
    "withdrawn",
]
"""Why data may not be used; empty where a consent covers the use. That a licence is not allowed is
said of rows under one that the policy does not name, whose patients signed nothing."""

HOWS: tuple[How, ...] = get_args(How)
GIVERS: tuple[GivenBy, ...] = get_args(GivenBy)
REASONS: tuple[Reason, ...] = get_args(Reason)
USUAL_DATA: tuple[DataKind, ...] = ("images", "records")
"""What a row of a manifest is: a photograph, and what the row says beside it."""

FORM_VERSION = r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,39}"
"""What a form's version may look like: short, and no place for remarks."""


class Consent(BaseModel):
    """One form that a patient, or who speaks for them, agreed to.

    Attributes:
        purposes: What the data may be used for, at least one.
        data: Which data, at least one kind.
        valid_from: The first day.
        valid_until: The last day; None where the form sets no end.
        form_version: Which text was agreed to.
        how: How it was given.
        given_by: Who gave it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    purposes: Annotated[tuple[Purpose, ...], Field(min_length=1)]
    data: Annotated[tuple[DataKind, ...], Field(min_length=1)] = USUAL_DATA
    valid_from: datetime.date
    valid_until: datetime.date | None = None
    form_version: Annotated[str, Field(pattern=rf"^{FORM_VERSION}$")]
    how: How
    given_by: GivenBy

    @field_validator("purposes")
    @classmethod
    def _order_purposes(cls, purposes: tuple[Purpose, ...]) -> tuple[Purpose, ...]:
        return tuple(word for word in PURPOSES if word in purposes)

    @field_validator("data")
    @classmethod
    def _order_data(cls, data: tuple[DataKind, ...]) -> tuple[DataKind, ...]:
        return tuple(word for word in DATA_KINDS if word in data)

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Consent:
        if self.valid_until is not None and self.valid_until < self.valid_from:
            raise ValueError("valid_until must not lie before valid_from")
        return self

    def holds_on(self, day: datetime.date) -> bool:
        """Tell whether a day is among the form's days, both ends included."""
        return self.valid_from <= day and (self.valid_until is None or day <= self.valid_until)


class Withdrawal(BaseModel):
    """What a patient took back.

    Attributes:
        purposes: For which purposes.
        day: The day that it was taken back.
        with_form: Whether an imported list told it, beside the form that was taken back. Then a
            form that begins after `day` stands, whenever it was recorded; otherwise every form
            that was on record falls.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    purposes: Annotated[tuple[Purpose, ...], Field(min_length=1)]
    day: datetime.date
    with_form: bool = False

    @field_validator("purposes")
    @classmethod
    def _order_purposes(cls, purposes: tuple[Purpose, ...]) -> tuple[Purpose, ...]:
        return tuple(word for word in PURPOSES if word in purposes)


class Restriction(BaseModel):
    """What a patient asked to be kept and not used, until it is lifted (GDPR, Art. 18).

    Attributes:
        restricted: Whether it begins; False lifts it.
        since: The day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    restricted: bool
    since: datetime.date


Entry = Consent | Withdrawal | Restriction


def read_entry(values: Mapping[str, Any]) -> Entry:
    """Read an entry as the register keeps it.

    Args:
        values: The fields of a consent, a withdrawal or a restriction, dates in ISO 8601.

    Returns:
        The entry.

    Raises:
        ValueError: If it is none of them (pydantic's ValidationError is one).
    """
    if "restricted" in values:
        return Restriction.model_validate(values)
    return (Withdrawal if "day" in values else Consent).model_validate(values)


def standing(history: Sequence[Entry], purpose: str) -> tuple[Consent, ...]:
    """Find the consents for a purpose that no withdrawal has ended.

    A withdrawal ends what was recorded before it. What is recorded after it stands only where it
    begins on the withdrawal's day or later, so that an old form, found or imported late, does not
    undo a patient's no. A withdrawal counts from the moment that it is on record, whatever day a
    use is dated.

    Args:
        history: A patient's entries in the order in which they were recorded.
        purpose: The purpose.

    Returns:
        The consents, oldest record first.
    """
    alive: list[Consent] = []
    last: datetime.date | None = None
    for entry in history:
        if isinstance(entry, Restriction) or purpose not in entry.purposes:
            continue
        if isinstance(entry, Consent):
            if last is None or entry.valid_from >= last:
                alive.append(entry)
            continue
        last = entry.day if last is None else max(last, entry.day)
        kept = alive if entry.with_form else []
        alive = [consent for consent in kept if consent.valid_from > entry.day]
    return tuple(alive)


def judge(
    history: Sequence[Entry],
    purpose: str,
    day: datetime.date,
    kinds: Collection[str] = USUAL_DATA,
) -> Reason:
    """Tell whether a patient's data may be used for a purpose on a day, or why not.

    Several consents add up: one form may cover photographs and another records. A newer form that
    leaves a purpose out does not take it back; a withdrawal does. A restriction stops all uses
    until it is lifted, and leaves the consents as they are.

    Args:
        history: A patient's entries in the order in which they were recorded.
        purpose: What the data shall be used for.
        day: The day of use.
        kinds: Which data are used, all of which must be covered.

    Returns:
        The empty string where the use is covered, otherwise the first reason that holds.

    Example:
        >>> judge((), "research", datetime.date(2026, 1, 1))
        'no consent'
    """
    alive = standing(history, purpose)
    why_none: Reason = "" if alive else _why_none(history, purpose)
    if why_none != "withdrawn" and is_restricted(history):
        return "restricted"
    if why_none:
        return why_none
    valid = [consent for consent in alive if consent.holds_on(day)]
    if valid:
        covered = {kind for consent in valid for kind in consent.data}
        return "" if covered.issuperset(kinds) else "data not covered"
    return "not yet valid" if any(day < each.valid_from for each in alive) else "expired"


def is_restricted(history: Sequence[Entry]) -> bool:
    """Tell whether a patient's data are kept and not used.

    Args:
        history: A patient's entries in the order in which they were recorded.

    Returns:
        Whether the last restriction has not been lifted.
    """
    states = [entry.restricted for entry in history if isinstance(entry, Restriction)]
    return bool(states) and states[-1]


def _why_none(history: Sequence[Entry], purpose: str) -> Reason:
    if any(purpose in entry.purposes for entry in history if not isinstance(entry, Restriction)):
        return "withdrawn"  # a consent for the purpose that stands no more, or a no from the start
    given = any(isinstance(entry, Consent) for entry in history)
    return "purpose not covered" if given else "no consent"


def last_day(
    history: Sequence[Entry], purpose: str, day: datetime.date, before: datetime.date
) -> datetime.date | None:
    """Find the last day that a use is covered without a break.

    Args:
        history: A patient's entries in the order in which they were recorded.
        purpose: What the data shall be used for.
        day: A day on which the use is covered.
        before: How far to look.

    Returns:
        The last day of the cover that holds on `day`; None where it lasts until `before`.
    """
    ends = {each.valid_until for each in standing(history, purpose) if each.valid_until}
    for end in sorted(end for end in ends if day <= end < before):
        if judge(history, purpose, end + datetime.timedelta(days=1)):
            return end
    return None
