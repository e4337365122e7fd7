"""What a finished run's record becomes in a tracking store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from math import isfinite

from skinml.records import Estimate, GroupResult, Participation, RunRecord, last_attempts
from skinml.tracking.allowlist import (
    FIGURES,
    checked_attribute,
    checked_tags,
    checked_word,
)


def shown_epsilon(value: float | None) -> float | None:
    """Round an epsilon up to two decimals, as the report shows it: 2.99996 reads 3.

    Args:
        value: The epsilon; None without a guarantee.

    Returns:
        Never less than it, but for the last digits of a float; None where there is none.

    >>> shown_epsilon(2.99996), shown_epsilon(1.2301), shown_epsilon(None)
    (3.0, 1.24, None)
    """
    if value is None or not isfinite(value):
        return None
    return float(Decimal(repr(round(value, 9))).quantize(Decimal("0.01"), rounding=ROUND_CEILING))


def final_metrics(record: RunRecord, attributes: tuple[str, ...]) -> dict[str, float]:
    """Collect a run's figures: overall, by group, of the yardsticks, and what it spent.

    Names are `auroc`, `auroc.low`, `auroc.skin_tone.0-2`, `yardstick.NAME.auroc`,
    `epsilon.CLINIC`. An undefined figure is left out, never written as 0.

    Args:
        record: What the run may show.
        attributes: The attributes whose groups may be named.

    Returns:
        The figures by name.

    Raises:
        PolicyError: If a group's attribute is not on the list, or a name looks like a patient's.
    """
    found: dict[str, float | None] = {
        "wall_s": record.wall_s,
        "threshold": record.threshold,
        **_participation(record),
        **_group(record.overall, ""),
        **_spends(record),
    }
    taken = set(found)
    for group in record.groups:
        attribute = checked_attribute(group.attribute, attributes)
        name = checked_word(f"a group of {attribute}", group.group)
        suffix = _fresh(f".{attribute}.{name}", "n_images", taken)
        found.update(_group(group, suffix))
        taken.update(found)
    for yardstick in record.yardsticks:
        name = checked_word("a yardstick's name", yardstick.name)
        prefix = f"yardstick.{name}."
        found.update({f"{prefix}{key}": value for key, value in _figures(yardstick.estimates)})
    return {name: value for name, value in found.items() if value is not None and isfinite(value)}


def clinic_metrics(record: RunRecord) -> dict[str, dict[str, float]]:
    """Collect what each clinic spent and in how many rounds it took part.

    Args:
        record: What the run may show.

    Returns:
        For each clinic its figures; an epsilon without a guarantee is left out.

    Raises:
        PolicyError: If a clinic's name looks like a patient's.
    """
    entries = last_attempts(record.participation)
    asked = {name for each in entries for name in each.expected}
    found = {}
    for clinic in sorted({*record.guarantee.clinics, *asked}):
        spend = record.guarantee.clinics.get(clinic)
        rounds = [each for each in entries if clinic in each.expected]
        values: dict[str, float | None] = {
            "epsilon": shown_epsilon(spend.epsilon) if spend else None,
            "total_epsilon": shown_epsilon(spend.total_epsilon) if spend else None,
            "num_events": float(spend.num_events) if spend else None,
            "rounds_taken_part": float(sum(clinic in each.took_part for each in rounds)),
            "rounds_expected": float(len(rounds)),
        }
        found[checked_word("a clinic's name", clinic)] = {
            name: value for name, value in values.items() if value is not None and isfinite(value)
        }
    return found


def clinic_rounds(
    entries: Sequence[Participation], answers: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Collect what the latest round tells about each clinic.

    Args:
        entries: Who took part, an attempt each; the last one is of the round that has just ended.
        answers: Seconds that clinics took to answer in it.

    Returns:
        For each clinic that was expected whether it is in the sum (`took_part`, 0 or 1), in which
        share of the rounds so far it is (`rounds_share`), and to a tenth of a second how long it
        took to answer (`answer_s`); the last is absent where it did not.

    >>> entry = Participation(1, ("harbour", "hillside"), ("harbour",), {"hillside": "no answer"})
    >>> clinic_rounds([entry], {"harbour": 1.23})["harbour"]
    {'took_part': 1.0, 'rounds_share': 1.0, 'answer_s': 1.2}
    """
    rounds, latest = last_attempts(entries), entries[-1]
    found = {}
    for clinic in latest.expected:
        asked = [each for each in rounds if clinic in each.expected]
        took_part = sum(clinic in each.took_part for each in asked)
        found[clinic] = {
            "took_part": float(clinic in latest.took_part),
            "rounds_share": took_part / len(asked),
        }
        if clinic in answers:
            found[clinic]["answer_s"] = round(answers[clinic], 1)
    return found


def final_tags(record: RunRecord) -> dict[str, str]:
    """Collect a run's tags: what kind of evidence it is.

    Args:
        record: What the run may show.

    Returns:
        The tags by name.

    Raises:
        PolicyError: If a value looks like a patient's id or like the path of an image.
    """
    return checked_tags(
        {
            "skinml.complete": record.complete,
            "skinml.evaluation_source": record.evaluation_source,
            "skinml.private": record.guarantee.private,
            "skinml.seed": record.seed,
            "skinml.simulated": record.guarantee.simulated,
            "skinml.started": record.started,
            "skinml.trust": record.guarantee.trust,
            "skinml.unit": record.guarantee.unit,
            "skinml.version": record.versions.get("skinml", ""),
        }
    )


def _group(group: GroupResult, suffix: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        f"n_images{suffix}": None if group.num_images is None else float(group.num_images),
        f"n_patients{suffix}": float(group.num_patients),
        f"n_positives{suffix}": float(group.num_positives),
        f"n_negatives{suffix}": float(group.num_negatives),
    }
    for name, value in _figures(group.estimates):
        figure, dot, limit = name.partition(".")
        found[f"{figure}{suffix}{dot}{limit}"] = value
    return found


def _figures(estimates: Mapping[str, Estimate]) -> Iterable[tuple[str, float | None]]:
    for name in FIGURES:
        if name in estimates:
            estimate = estimates[name]
            yield name, estimate.value
            yield f"{name}.low", estimate.low
            yield f"{name}.high", estimate.high


def _participation(record: RunRecord) -> dict[str, float | None]:
    """Count rounds by their last attempts: a failed one is an attempt more, and no round."""
    rounds, promised = last_attempts(record.participation), record.guarantee
    noises = [each.noise for each in rounds]
    told = [noise for noise in noises if noise is not None]
    secure = promised.trust == "distributed" and promised.num_clinics > 1
    return {
        "num_rounds": float(len(rounds)),
        "num_attempts": float(len(record.participation)),
        "num_incomplete_rounds": float(sum(bool(each.missing) for each in rounds)),
        "num_resumes": float(record.resumes),
        "least_survivors": min((float(len(each.took_part)) for each in rounds), default=None),
        # Robust strategies do not tell the noise of every round: then there is no least.
        "least_noise_ratio": round(min(told), 9) if told and len(told) == len(noises) else None,
        "secure_sum_threshold": (
            float(promised.num_clinics - promised.tolerated_dropouts) if secure else None
        ),
        "secure_sum_colluding": float(promised.colluding_clinics) if secure else None,
    }


def _spends(record: RunRecord) -> dict[str, float | None]:
    guarantee = record.guarantee
    found = {
        "epsilon": shown_epsilon(guarantee.epsilon),
        "total_epsilon": shown_epsilon(guarantee.total_epsilon),
        "epsilon_across_clinics": shown_epsilon(guarantee.epsilon_across_clinics),
        "delta": guarantee.delta if guarantee.private else None,
    }
    for clinic, spend in guarantee.clinics.items():
        name = checked_word("a clinic's name", clinic)
        found[f"epsilon.{name}"] = shown_epsilon(spend.epsilon)
        found[f"total_epsilon.{name}"] = shown_epsilon(spend.total_epsilon)
    return found


def _fresh(suffix: str, probe: str, taken: set[str]) -> str:
    """Keep two groups apart whose names differ only in characters that MLflow refuses."""
    candidate, number = suffix, 2
    while f"{probe}{candidate}" in taken:
        candidate, number = f"{suffix}_{number}", number + 1
    return candidate
