"""Rows of `scripts/bench`: skinml and what people would use instead, timed in turn.

A part is a module with a function `rows(size)`, where size is "smoke" or "full", that gives a row
for each thing it measures. At smoke size it holds both sides' results against each other
(`require_same`) and says nothing about time. Parts are listed in `bench_run.py`; add yours there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Size = Literal["smoke", "full"]
Task = Callable[[], object]

TURNS = {"smoke": 1, "full": 5}
"""Turns of each side; a part may take more."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: What was measured.
        ours: Median of skinml's turns, in `unit`.
        peer: Median of the other side's; none where there is nothing beside it.
        ratio: Median of the turns' ratios: how many times faster skinml is where the goal is an
            "at least", how many times as long it takes else; none without a peer.
        low: The least of the turns' ratios.
        high: The greatest.
        goal: "at most 1.2" or "at least 5", of the ratio, or of ours where there is no peer; none
            where the row only tells.
        met: Whether the median keeps the goal; none where there is none, or at smoke size.
        unit: What ours and peer are in.
        note: What else a reader should know.
    """

    name: str
    ours: float
    peer: float | None
    ratio: float | None
    low: float | None
    high: float | None
    goal: str | None
    met: bool | None
    unit: str = "s"
    note: str = ""


class DifferentError(RuntimeError):
    """Raised where both sides should have computed the same and have not."""


def require_same(what: str, ours: ArrayLike, peer: ArrayLike, tolerance: float) -> None:
    """End the benchmark where two sides computed different things.

    Args:
        what: What is compared.
        ours: Skinml's numbers.
        peer: The other side's.
        tolerance: Greatest difference allowed, over the greatest number of the peer's.

    Raises:
        DifferentError: If shapes or numbers differ by more.
    """
    mine, other = np.asarray(ours, np.float64), np.asarray(peer, np.float64)
    if mine.shape != other.shape:
        raise DifferentError(f"{what}: shapes {mine.shape} and {other.shape}")
    scale = float(np.abs(other).max(initial=0.0)) or 1.0
    apart = float(np.abs(mine - other).max(initial=0.0)) / scale
    if not apart <= tolerance:  # also where it is not a number
        raise DifferentError(f"{what}: {apart:.3g} apart, at most {tolerance:g} is allowed")


def in_turn(
    ours: Task, peer: Task, turns: int, *, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[float], list[float]]:
    """Time two sides in alternation, after one untimed turn each; every other turn the peer begins.

    Args:
        ours: One turn of skinml; where it gives a float, those are its seconds.
        peer: One turn of the other side, likewise.
        turns: How many are timed of each.
        clock: What tells the time: `time.process_time` for processor time.

    Returns:
        Seconds of ours and of the peer's.
    """
    ours()
    peer()
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(turns):
        sides = ((0, ours), (1, peer))
        for side, task in sides if number % 2 == 0 else sides[::-1]:
            began = clock()
            told = task()
            times[side].append(told if isinstance(told, float) else clock() - began)
    return times


def row(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float] = (),
    *,
    goal: str | None = None,
    size: Size = "full",
    unit: str = "s",
    note: str = "",
) -> Row:
    """Make a row of what was measured in turn.

    Args:
        name: What was measured.
        ours: A number a turn.
        peer: The other side's number of the same turn; empty where there is nothing beside it.
        goal: "at most NUMBER" or "at least NUMBER".
        size: At smoke size no goal is looked at.
        unit: What the numbers are in.
        note: What else a reader should know.

    Returns:
        The row.

    Raises:
        ValueError: If the goal is put otherwise.
    """
    middle = statistics.median(ours)
    faster = goal is not None and goal.startswith("at least")
    if peer:
        pairs = zip(ours, peer, strict=True)
        ratios = [theirs / mine if faster else mine / theirs for mine, theirs in pairs]
        ratio = statistics.median(ratios)
        beside = (statistics.median(peer), ratio, min(ratios), max(ratios))
    else:
        beside = None
    met = None
    if goal is not None:
        bound = read_goal(goal)
        held = beside[1] if beside else middle
        met = None if size == "smoke" else (held >= bound if faster else held <= bound)
    return Row(name, middle, *(beside or (None,) * 4), goal, met, unit, note)


def read_goal(goal: str) -> float:
    """Read the number of a goal.

    Args:
        goal: "at most NUMBER" or "at least NUMBER".

    Returns:
        The number.

    Raises:
        ValueError: If it is put otherwise.
    """
    start, number = goal[: goal.rfind(" ")], goal[goal.rfind(" ") + 1 :]
    if start not in ("at most", "at least"):
        raise ValueError(f"a goal is 'at most NUMBER' or 'at least NUMBER', not {goal!r}")
    return float(number)


def shown(value: float | None) -> str:
    """Write a number for a table, with three digits that count.

    Args:
        value: The number.

    Returns:
        The words; a dash for none.
    """
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")
