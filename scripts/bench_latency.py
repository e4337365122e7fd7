"""Seconds of a round of clinics on their own processes, by part, beside bare Flower.

    OMP_NUM_THREADS=1 python scripts/bench_latency.py [--clinics 3] [--rounds 4] [--turns 2]
        [--spare 0] [--json FILE]

Ours is a real run under secure sums: served federation, joined clinics, TLS, ledgers. Beside it
stands a stock ServerApp and a stock ClientApp on a SuperLink and SuperNodes of the same release
with the same settings, whose messages carry as many bytes as ours and do nothing. The two take
turns. Each message is cut into parts by the lines that Flower's node and the app at the clinic
write down, all of one clock:

    asked for   from the last clinic's answer before it until the node has heard of the message:
                the coordinator's computing, its look for answers, and the node's next question
    started     until the app begins: Flower hands the message over, or starts a process for it
    computing   within the app
    noticed     until the node looks whether the app is done, every half second
    sent        until the answer is at the SuperLink

Seconds are the machine's: read them beside each other, not against another day's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench_processes import Bare, Ours

PARTS = ("asked for", "started", "computing", "noticed", "sent")


@dataclass(frozen=True)
class Trip:
    """One message to one clinic, in seconds since the epoch.

    Attributes:
        clinic: Whose.
        heard: The node has heard of it.
        began: The app begins.
        answered: The app is done.
        sending: The node has noticed.
        sent: The answer is at the SuperLink.
    """

    clinic: str
    heard: float
    began: float
    answered: float
    sending: float
    sent: float

    def parts(self, before: float) -> dict[str, float]:
        """Cut it into parts.

        Args:
            before: When the last answer to the message before it was at the SuperLink.

        Returns:
            Seconds by the names of PARTS.
        """
        cuts = (before, self.heard, self.began, self.answered, self.sending, self.sent)
        return {
            name: later - earlier
            for name, earlier, later in zip(PARTS, cuts[:-1], cuts[1:], strict=True)
        }


def main() -> None:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clinics", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4, help="gradient rounds of a turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--spare", type=int, default=0, help="clinics that may drop out of a sum")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        found = measure(Path(place), given.clinics, given.rounds, given.turns, given.spare)
    print_table(found, given.clinics)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def steps_of(spare: int) -> tuple[str, ...]:
    """Name the messages of a round.

    Args:
        spare: Clinics that may drop out of a sum.

    Returns:
        The steps of a secure sum, in order.
    """
    return ("shares", "masked", "survivors", "unmask") if spare else ("paired",)


def measure(place: Path, clinics: int, rounds: int, turns: int, spare: int) -> dict[str, Any]:
    """Let both take turns.

    Args:
        place: An empty folder.
        clinics: How many.
        rounds: Gradient rounds of a turn.
        turns: How often each is run.
        spare: Clinics that may drop out of a sum.

    Returns:
        What is printed, as JSON's values.
    """
    ours: dict[str, list[dict[str, float]]] = defaultdict(list)
    bare: list[dict[str, float]] = []
    cpu: list[Mapping[str, float]] = []
    whole: dict[str, list[float]] = {"ours": [], "bare": []}
    steps = steps_of(spare)
    with Ours(place / "ours", clinics) as mine:
        for turn in range(turns):
            done = mine.run(rounds, spare)
            cpu.append(done.cpu_s)
            trips = rounds_of(mine.lines(), done.run)
            for cut in cut_rounds(trips, range(2, rounds + 2), steps):
                for step, parts in cut.items():
                    ours[step].append(parts)
            whole["ours"] += done.round_s
            load = (done.bytes_down, done.bytes_up)
            with Bare(place / f"bare-{turn}", clinics, *load) as other:
                seconds, lines = other.run(len(steps) * rounds)
            as_many = [seconds[at : at + len(steps)] for at in range(0, len(seconds), len(steps))]
            whole["bare"] += [sum(each) for each in as_many]
            bare += cut_messages(list(rounds_of(lines, "bare").values()))
    return {
        "clinics": clinics,
        "rounds": len(whole["ours"]),
        "bytes": {"down": done.bytes_down, "up": done.bytes_up},
        "round_s": {name: spread(each) for name, each in whole.items()},
        "ours": {step: medians(each) for step, each in ours.items()},
        "bare": medians(bare),
        "cpu_s_a_round": {
            name: statistics.median(each[name] for each in cpu) for name in sorted(cpu[0])
        },
    }


def trip_of(
    lines: Iterable[Mapping[str, Any]], clinic: str
) -> Iterable[tuple[Trip, Mapping[str, Any]]]:
    """Put the lines of a clinic's log together, a message after another: its node takes one only.

    Args:
        lines: The log, in order.
        clinic: Whose.

    Yields:
        Each message, and what the runner told about it.
    """
    heard = sending = 0.0
    told: Mapping[str, Any] = {}
    for line in lines:
        at, said = datetime.fromisoformat(line["at"]).timestamp(), str(line.get("line", ""))
        if "Receiving: " in said:
            heard, told = at, {}
        elif line.get("event") == "answered":
            told = {**line, "answered": at}
        elif "Sending: " in said:
            sending = at
        elif "Sent successfully" in said and heard and told:
            answered = told["answered"]
            began = answered - told["seconds"]
            yield Trip(clinic, heard, began, answered, sending, at), told
            told = {}


def rounds_of(
    logs: Mapping[str, Sequence[Mapping[str, Any]]], run: str
) -> dict[tuple[int, int], list[Trip]]:
    """Sort a run's messages.

    Args:
        logs: Each clinic's log.
        run: The run's id.

    Returns:
        The trips of each message, by the round's number and the message's number in it.
    """
    found: dict[tuple[int, int], list[Trip]] = defaultdict(list)
    for clinic, lines in logs.items():
        count: dict[int, int] = defaultdict(int)
        for trip, told in trip_of(lines, clinic):
            if told.get("run") == run and told.get("kind") == "train":
                number = int(told["round"])
                found[number, count[number]].append(trip)
                count[number] += 1
    return dict(sorted(found.items()))


def cut_rounds(
    trips: Mapping[tuple[int, int], Sequence[Trip]], numbers: Sequence[int], steps: Sequence[str]
) -> Iterable[dict[str, dict[str, float]]]:
    """Cut the messages of each round into parts.

    Args:
        trips: What `rounds_of` gave.
        numbers: The rounds; there is one before the first.
        steps: The messages of a round.

    Yields:
        By step the mean of its parts over the clinics.
    """
    for number in numbers:
        last = max(place for round_, place in trips if round_ == number - 1)
        before = max(trip.sent for trip in trips[number - 1, last])
        cut = {}
        for place, step in enumerate(steps):
            cut[step] = means([trip.parts(before) for trip in trips[number, place]])
            before = max(trip.sent for trip in trips[number, place])
        yield cut


def cut_messages(trips: Sequence[Sequence[Trip]]) -> Iterable[dict[str, float]]:
    """Cut bare Flower's messages into parts, each from the end of the one before it on.

    Args:
        trips: A list a message, of its trips.

    Yields:
        The mean of the parts over the clinics.
    """
    for earlier, now in itertools.pairwise(trips):
        yield means([trip.parts(max(each.sent for each in earlier)) for trip in now])


def means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average parts over the clinics."""
    return {name: statistics.fmean(each[name] for each in found) for name in PARTS}


def medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Give each part's median over the rounds."""
    return {name: round(statistics.median(each[name] for each in found), 3) for name in PARTS}


def spread(found: Sequence[float]) -> dict[str, float]:
    """Give a median, the least and the greatest."""
    return {
        "median": round(statistics.median(found), 2),
        "least": round(min(found), 2),
        "greatest": round(max(found), 2),
    }


def print_table(found: Mapping[str, Any], clinics: int) -> None:
    """Print what was measured, 80 columns wide.

    Args:
        found: What `measure` gave.
        clinics: How many there were.
    """
    sizes, messages = found["bytes"], f"{len(found['ours'])} messages"
    print(f"{clinics} clinics, {found['rounds']} rounds of {messages}; a message carries")
    print(f"{sizes['down']:,} bytes to a clinic and {sizes['up']:,} back, on average")
    print(f"\n{'seconds a message':<20}" + "".join(f"{name:>11}" for name in (*PARTS, "all")))
    rows = {f"ours, {step}": parts for step, parts in found["ours"].items()}
    for name, parts in (rows | {"bare Flower": found["bare"]}).items():
        values = [parts[part] for part in PARTS]
        print(f"{name:<20}" + "".join(f"{value:>11.2f}" for value in (*values, sum(values))))
    print(f"\n{'seconds a round':<34}{'median':>10}{'least':>10}{'greatest':>10}")
    names = {"ours": "ours", "bare": f"bare Flower, {messages}"}
    for name, words in names.items():
        each = found["round_s"][name]
        values = (each["median"], each["least"], each["greatest"])
        print(f"{words:<34}" + "".join(f"{value:>10.1f}" for value in values))
    print("\nCPU seconds a round, ours (clinics: all together)")
    for name, seconds in found["cpu_s_a_round"].items():
        print(f"   {name:<31}{seconds:>10.2f}")


if __name__ == "__main__":
    sys.exit(main())
