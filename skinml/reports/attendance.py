"""Who was in which sum, in figures: rounds put together, and the noise that each sum really had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from skinml.records import Guarantee, Participation, PlannedSum, last_attempts


@dataclass(frozen=True)
class Stretch:
    """Consecutive rounds that went alike.

    Attributes:
        first_round: The first of them.
        last_round: The last of them.
        attempt: The number of the attempt at each.
        summed: Whether there is a sum; else the attempt ended without one.
        num_expected: Clinics asked.
        num_took_part: Clinics in the sum, k'; without a sum, those that had answered.
        missing: The other clinics, each with the reason.
        noise: Standard deviation of the noise in each sum over the one that the ledgers count on;
            None where there is none to tell.
    """

    first_round: int
    last_round: int
    attempt: int
    summed: bool
    num_expected: int
    num_took_part: int
    missing: Mapping[str, str]
    noise: float | None


@dataclass(frozen=True)
class SumNoise:
    """The noise that one kind of sum had.

    Attributes:
        plan: What was planned.
        least: Least standard deviation over the rounds that made it, in the sum's units; None
            where none can be told.
        most: Greatest one.
    """

    plan: PlannedSum
    least: float | None
    most: float | None


def stretches(participation: Sequence[Participation]) -> tuple[Stretch, ...]:
    """Put consecutive rounds together that went alike.

    Args:
        participation: The entries of a finished run, in the order in which things happened.

    Returns:
        The stretches in the same order. Each round's last attempt has a sum, or the run would not
        have gone on.
    """
    last = {(each.round, each.attempt) for each in last_attempts(participation)}
    found: list[Stretch] = []
    for each in participation:
        new = Stretch(
            first_round=each.round,
            last_round=each.round,
            attempt=each.attempt,
            summed=(each.round, each.attempt) in last,
            num_expected=len(each.expected),
            num_took_part=len(each.took_part),
            missing=dict(each.missing),
            noise=each.noise,
        )
        if found and _continues(found[-1], new):
            found[-1] = replace(found[-1], last_round=new.last_round)
        else:
            found.append(new)
    return tuple(found)


def _continues(before: Stretch, new: Stretch) -> bool:
    same = replace(new, first_round=before.first_round, last_round=before.last_round) == before
    return same and new.first_round == before.last_round + 1


def sum_noise(promised: Guarantee, participation: Sequence[Participation]) -> tuple[SumNoise, ...]:
    """Tell how much noise each kind of sum had.

    Args:
        promised: The guarantee, with the plan's sums.
        participation: The entries of the run.

    Returns:
        One entry a planned sum. Of local steps it is each step's noise at one clinic: who else
        took part does not change it.
    """
    ratios = {each.round: each.noise for each in last_attempts(participation)}
    found = []
    for plan in promised.sums:
        if plan.local_steps:
            found.append(SumNoise(plan, plan.std, plan.std))
            continue
        had = [ratios.get(number) for number in range(plan.first_round, plan.last_round + 1)]
        told = [plan.std * ratio for ratio in had if ratio is not None]
        whole = bool(told) and len(told) == len(had)
        found.append(SumNoise(plan, min(told), max(told)) if whole else SumNoise(plan, None, None))
    return tuple(found)
