"""What a model answered about single images, as a page for whoever has to decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skinml.fairness.label_sets import EVERYBODY
from skinml.fairness.model_answer import CLINICIAN, NOT_CHECKED, Answer, AnswerTables
from skinml.reports.templating import filled_in

Told = tuple[tuple[int, ...], Answer, float | None, str]


def answers_html(
    run: str, tables: AnswerTables, asked: Sequence[Told], threshold_source: str
) -> str:
    """Make the page.

    Args:
        run: The run's id.
        tables: What the answers were made by.
        asked: The numbers of each lesion's images, the answer, how like training images, and in
            words the skin tone that was measured, empty where none was asked for.
        threshold_source: Where the threshold comes from.

    Returns:
        HTML that needs no network and no script; no picture and no file's name is in it.
    """
    return filled_in(
        "predict.html.j2",
        {
            "run": run,
            "clinician": CLINICIAN,
            "not_checked": ""
            if all(found.likeness_checked for _, found, _, _ in asked)
            else NOT_CHECKED,
            "asked": [_shown(*each) for each in asked],
            "by_group": tables.sets is not None and len(tables.sets.cuts) > 1,
            "promise": set_words(tables),
            "calibrated": tables.line is not None,
            "threshold": tables.threshold,
            "threshold_source": threshold_source,
        },
    )


def _shown(
    images: tuple[int, ...], found: Answer, likeness: float | None, tone: str
) -> dict[str, Any]:
    ordered = sorted(found.probabilities.items(), key=lambda item: -item[1])
    return {
        "title": title_of(images),
        "headline": headline(found),
        "reasons": list(found.reasons),
        "rows": [
            {
                "label": words_of(name),
                "percent": chance_words(chance),
                "width": f"{100 * chance:.1f}",
                "inside": found.label_set is not None and name in found.label_set,
            }
            for name, chance in ordered
        ],
        "has_set": found.label_set is not None,
        "group": found.group,
        "tone": tone,
        "alarm": found.alarm,
        "likeness": None if likeness is None else f"{100 * likeness:.0f}%",
    }


def chance_words(chance: float) -> str:
    """Write a chance in percent, without the certainty that rounding would give it.

    Args:
        chance: From 0 to 1.

    Returns:
        Whole percents; "over 99%" and "under 1%" in the place of 100% and 0%.

    Example:
        >>> chance_words(0.5), chance_words(0.997), chance_words(0.002)
        ('50%', 'over 99%', 'under 1%')
    """
    if round(100 * chance) >= 100:
        return "over 99%"
    return "under 1%" if round(100 * chance) <= 0 else f"{100 * chance:.0f}%"


def title_of(images: tuple[int, ...]) -> str:
    """Name a lesion by its images.

    Args:
        images: Their numbers.

    Returns:
        Words.

    >>> title_of((3, 4))
    'Images 3 and 4'
    """
    numbers = " and ".join(map(str, images))
    return f"Image {numbers}" if len(images) == 1 else f"Images {numbers}"


def headline(found: Answer) -> str:
    """Say the answer in one line.

    Args:
        found: The answer.

    Returns:
        "Cannot tell", or the labels that fit.
    """
    if found.abstains or not found.label_set:
        return "Cannot tell"
    return "Fits: " + ", ".join(map(words_of, found.label_set))


def words_of(label: str) -> str:
    """Write a label for a reader.

    Args:
        label: As the taxonomy has it.

    Returns:
        The label without underscores.
    """
    return label.replace("_", " ")


def set_words(tables: AnswerTables) -> str:
    """Say what the label sets hold.

    Args:
        tables: What the answers were made by.

    Returns:
        A sentence or two.
    """
    sets = tables.sets
    if sets is None:
        return "This model has no label sets, and so every answer is that it cannot tell."
    share = f"{100 * sets.coverage:.0f} of 100"
    whose = (
        "patients"
        if sets.attribute == EVERYBODY
        else f"patients of each group of {words_of(sets.attribute)}"
    )
    apart = ", of those with a malignant lesion and of the others alike" if sets.apart else ""
    return (
        f"Of {whose} like those at the clinics that the model comes from, the true label is in "
        f"the set for at least {share} on average{apart}. It is no promise about one patient, "
        "nor for patients of another kind."
    )
