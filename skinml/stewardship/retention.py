"""When what a clinic keeps has come to its end, by the policy's days.

A picture of day D that is kept for N days may be used up to the end of day D + N, and not later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta

from skinml.stewardship.pictures import Picture
from skinml.stewardship.policy import KEPT_FIELDS, Policy, Retention

# Columns that mean nothing without another one, and end with it.
_BESIDE = {"skin_tone": ("skin_tone", "skin_tone_scale")}


@dataclass(frozen=True, repr=False)
class Ended:
    """What has come to its end in a register of pictures. Per patient: never log.

    Attributes:
        pictures: Pictures whose days are over.
        shortened: Other pictures, without the fields whose days are over.
        fields: How many values of each field are in those.
        originals: Other pictures whose original file may not be kept any more.
    """

    pictures: tuple[Picture, ...]
    shortened: tuple[Picture, ...]
    fields: dict[str, int]
    originals: tuple[Picture, ...]


def is_over(since: date, days: int | None, today: date) -> bool:
    """Tell whether something has come to its end.

    Args:
        since: The day that its time began.
        days: For how many days it is kept; None for good.
        today: The day.

    Returns:
        Whether it may not be used any more.

    >>> is_over(date(2026, 1, 1), 30, date(2026, 1, 31))
    False
    >>> is_over(date(2026, 1, 1), 30, date(2026, 2, 1))
    True
    """
    return days is not None and (today - since).days > days


def columns_over(imported: date, rules: Retention, today: date) -> set[str]:
    """Tell which columns may not stand beside a picture any more.

    Args:
        imported: The day of the import that first kept the picture.
        rules: The policy's days.
        today: The day.

    Returns:
        The columns whose days are over.
    """
    return {
        column
        for name in KEPT_FIELDS
        if is_over(imported, getattr(rules.by_field, f"{name}_days"), today)
        for column in _BESIDE.get(name, (name,))
    }


def shortened(picture: Picture, rules: Retention, today: date) -> Picture:
    """Leave out the fields of a picture whose days are over.

    Args:
        picture: The picture.
        rules: The policy's days.
        today: The day.

    Returns:
        The picture; the same object where nothing is over.
    """
    over = columns_over(picture.imported, rules, today)
    kept = {name: value for name, value in picture.fields.items() if name not in over}
    return picture if len(kept) == len(picture.fields) else replace(picture, fields=kept)


def may_be_used(picture: Picture, rules: Retention, purpose: str, today: date) -> bool:
    """Tell whether a picture's days, and those of a purpose, are not over.

    Args:
        picture: The picture.
        rules: The policy's days.
        purpose: What it shall be used for.
        today: The day.

    Returns:
        Whether they are not.
    """
    last = last_day_of_use(picture, rules, purpose)
    return last is None or today <= last


def last_day_of_use(picture: Picture, rules: Retention, purpose: str) -> date | None:
    """Tell until when a picture may be used for a purpose.

    Args:
        picture: The picture.
        rules: The policy's days.
        purpose: What it shall be used for.

    Returns:
        The last day; None where the policy sets none.
    """
    days = (rules.images_days, getattr(rules.by_purpose, f"{purpose}_days", None))
    known = [each for each in days if each is not None]
    return picture.imported + timedelta(days=min(known)) if known else None


def keeps_original(policy: Policy, imported: date, today: date) -> bool:
    """Tell whether the original file of a picture may be kept.

    Args:
        policy: The policy.
        imported: The day of the import that first kept the picture.
        today: The day.

    Returns:
        Whether the policy keeps originals, and neither their days nor the picture's are over.
    """
    last = last_day_of_original(policy.retention, imported)
    return policy.originals == "keep" and (last is None or today <= last)


def last_day_of_original(rules: Retention, imported: date) -> date | None:
    """Tell until when the original file of a picture may be kept.

    Args:
        rules: The policy's days.
        imported: The day of the import that first kept the picture.

    Returns:
        The last day; None where the policy sets none.
    """
    known = [days for days in (rules.images_days, rules.originals_days) if days is not None]
    return imported + timedelta(days=min(known)) if known else None


def ended(pictures: Iterable[Picture], policy: Policy, today: date) -> Ended:
    """Find what has come to its end.

    Args:
        pictures: A register's pictures.
        policy: The policy.
        today: The day.

    Returns:
        What is to be removed. A picture whose purposes are all over is kept: whoever wants it gone
        sets `images_days`. Originals end too where the policy does not keep them any more.
    """
    rules = policy.retention
    gone, less, originals, fields = [], [], [], dict[str, int]()
    for picture in pictures:
        if is_over(picture.imported, rules.images_days, today):
            gone.append(picture)
            continue
        if picture.original and not keeps_original(policy, picture.imported, today):
            originals.append(picture)
        left = shortened(picture, rules, today)
        if left is not picture:
            less.append(left)
            for name in picture.fields.keys() - left.fields.keys():
                fields[name] = fields.get(name, 0) + 1
    return Ended(tuple(gone), tuple(less), dict(sorted(fields.items())), tuple(originals))
