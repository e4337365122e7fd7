"""The look at a clinic's machine: disk, clock, and how long a round would take on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skinml.clinic.findings import Finding, counted
from skinml.data.sealed_images import ImageFile

_GIB = 2**30
# A frozen network's row of 1,280 numbers, kept twice: in the cache and with a run's samples.
_BYTES_AN_IMAGE = 2 * 1280 * 4
_BYTES_A_RUN = 200 * 2**20
# File systems and clocks round; a clock that was set back shows as hours or days.
_TOLERATED_SECONDS = 120.0
_DRIFT_SECONDS = 2.0
_SLOW_MINUTES = 5.0


@dataclass(frozen=True)
class Moment:
    """Two clocks read together.

    Attributes:
        wall: Seconds since 1970, UTC; somebody can set it.
        monotonic: Seconds since some moment; nobody can set it.
    """

    wall: float
    monotonic: float


@dataclass(frozen=True)
class Pace:
    """How fast this machine is.

    Attributes:
        seconds_per_image: To decode an image and to compute its features, which happens once.
        seconds_per_round: A clinic's own work in one round of training.
        num_rounds: Rounds of the run that was measured.
    """

    seconds_per_image: float
    seconds_per_round: float
    num_rounds: int


Measure = Callable[[Sequence[ImageFile], int], Pace]
"""From some of the images and the number of training patients to the pace."""


def disk_finding(folder: Path, num_images: int) -> Finding:
    """Compare the free space with what a run writes.

    Args:
        folder: The clinic's folder.
        num_images: Images that may be used.

    Returns:
        The finding.
    """
    free = shutil.disk_usage(folder).free
    need = num_images * _BYTES_AN_IMAGE + _BYTES_A_RUN
    found = f"{free / _GIB:.1f} GB free; a run of these images needs about {need / _GIB:.1f} GB."
    if free < need:
        return Finding("red", "Disk", found, "Free some space, or move the clinic's folder.")
    if free < 3 * need:
        return Finding("amber", "Disk", found, "Free some space before the third run.")
    return Finding("green", "Disk", found)


def clock_finding(before: Moment, after: Moment, written: Sequence[float]) -> Finding:
    """Look whether the clock can be believed, without asking a network.

    Consents begin and end on days, so that a wrong clock uses data that it must not use.

    Args:
        before: Both clocks at the beginning of the check.
        after: Both clocks at its end.
        written: When the clinic's own files were last written, seconds since 1970.

    Returns:
        The finding.
    """
    topic = "Clock"
    ahead = max(written, default=0.0) - after.wall
    if ahead > _TOLERATED_SECONDS:
        return Finding(
            "red",
            topic,
            f"The clock shows a time {_span(ahead)} before the clinic's own files were last "
            "written: it was set back, and consents are judged by its date.",
            "Set the clock, best by the network time of your system (NTP).",
        )
    drift = (after.wall - before.wall) - (after.monotonic - before.monotonic)
    if abs(drift) > _DRIFT_SECONDS:
        return Finding(
            "amber",
            topic,
            f"The clock was moved by {_span(abs(drift))} during this check.",
            "Look whether its date is right, then check again.",
        )
    return Finding(
        "green", topic, "The clock runs evenly and is not behind the clinic's own files."
    )


def pace_finding(pace: Pace, num_images: int) -> Finding:
    """Say how long a run would take here.

    Args:
        pace: What was measured.
        num_images: Images that may be used.

    Returns:
        The finding.
    """
    once = pace.seconds_per_image * num_images
    found = (
        f"The first run reads {counted(num_images, 'image')}, which takes about {_span(once)}, "
        f"once. Then a round takes {_span(pace.seconds_per_round)} here and all "
        f"{pace.num_rounds} rounds {_span(pace.seconds_per_round * pace.num_rounds)}, not "
        "counting the wait for other clinics."
    )
    if pace.seconds_per_round > 60 * _SLOW_MINUTES:
        do = "Other clinics would wait for this machine: use a faster one."
        return Finding("amber", "Time", found, do)
    return Finding("green", "Time", found)


def _span(seconds: float) -> str:
    """Write a span in the unit that a person would use."""
    if seconds < 1:
        return "less than a second"
    for limit, length, unit in ((90, 1, "second"), (5400, 60, "minute"), (172_800, 3600, "hour")):
        if seconds < limit:
            return counted(round(seconds / length), unit)
    return counted(round(seconds / 86_400), "day")
