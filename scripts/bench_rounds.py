"""What a round costs, by phase, beside Flower's FedAvg carrying the same arrays.

    OMP_NUM_THREADS=1 python scripts/bench_rounds.py [--smoke | --full] [--json FILE]

Plain sums (trust central) and secure ones (distributed), by calls within the process and through
Flower's simulation. Clinics compute a real round of a head's recipe over eight patients, with
ledger and book on the disk; beside them the same nodes answer Flower's bare loop with arrays of the
same shape and do nothing else. The two take turns, round by round. Rows: name, ours, peer, the
median of the turns' ratios, their least and greatest. Times are the machine's: read them beside
each other, not against another day's. Bytes are counted, not timed.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import bench_rows
import numpy as np
from bench_federation import BARE, RUN, Federation, TimedApp, clinics_seconds, to_records
from bench_rows import Size
from flwr.app import Message
from flwr.common.serde import recorddict_to_proto
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from skinml.federated.client_app import close_clinics
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.federated.hosts import HostGrid
from skinml.federated.local_grid import LocalGrid
from skinml.federated.roll_call import Record, RunTerms
from skinml.federated.simulation import simulate
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.settings import Trust
from skinml.privacy.trust import noise_rule
from skinml.records import Arrays
from skinml.training.fit import Exchanged, fit
from skinml.training.learner import Round

PHASES = ("whole round, s", "clinics' computation, s", "coordinator's computation, s", "waiting, s")
COUNTED = ("bytes down", "bytes up")
_UNTIMED = 2  # rounds before the first timed one: statistics, then one to warm up and count bytes
_DEADLINE_S = 600.0
_LEAST_S = 1e-3  # below it a peer's time is the clock's noise


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        transport: "in process" or "simulation".
        trust: "central" or "distributed".
        clinics: How many.
        spare: How many of them a secure sum may lose.
    """

    transport: str
    trust: Trust
    clinics: int
    spare: int = 0

    @property
    def name(self) -> str:
        """The case in words."""
        spare = f" of whom {self.spare} may drop out" if self.spare else ""
        return f"{self.trust}, {self.clinics} clinics{spare}, {self.transport}"


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        name: What was measured.
        ours: Median of skinml's.
        peer: Median of bare Flower's.
        ratio: Median of the turns' ratios; none where the peer's time is below a millisecond.
        low: The least of them.
        high: The greatest.
    """

    name: str
    ours: float
    peer: float
    ratio: float | None
    low: float | None
    high: float | None


def in_process(*counts: int, trust: Trust) -> list[Case]:
    """List cases without Flower's simulation."""
    return [Case("in process", trust, count) for count in counts]


def secure(transport: str, *counts: int) -> list[Case]:
    """List secure sums: of all clinics, and of those that are left where a third may drop out."""
    return [
        Case(transport, "distributed", count, spare)
        for count in counts
        for spare in (0, (count - 1) // 3)
    ]


SMOKE = [*in_process(4, trust="central"), *secure("in process", 4)]
USUAL = [*in_process(4, 50, trust="central"), *secure("in process", 4, 20)]
FULL = [
    *in_process(4, 50, 500, trust="central"),
    *secure("in process", 4, 20, 50, 100),
    *(Case("simulation", "central", count) for count in (4, 50, 500)),
    *secure("simulation", 4, 20, 50, 100),
]


SMOKE_PART = in_process(3, trust="none")
FULL_PART = [
    *(Case("simulation", "none", count) for count in (4, 50, 500)),
    *secure("simulation", 4, 20),
]
NOTE = "beside clinics that compute nothing and write nothing"


def main() -> None:
    """Measure the cases and print a row a phase."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--smoke", action="store_true", help="four clinics, one turn, seconds")
    size.add_argument("--full", action="store_true", help="4 to 500 clinics, many minutes")
    parser.add_argument("--json", type=Path, help="file for all rows")
    asked = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    cases = SMOKE if asked.smoke else FULL if asked.full else USUAL
    turns, features = (1, 16) if asked.smoke else (5, 1280)
    all_rows: list[Row] = []
    _say(f"{'':<64}{'ours':>12}{'peer':>12}{'ratio':>9}  (low to high)")
    for case in cases:
        with tempfile.TemporaryDirectory() as place:
            found = measure(case, Path(place), turns, features)
        all_rows += found
        for row in found:
            _say(_line(row))
        if asked.json:
            asked.json.write_text(json.dumps([asdict(row) for row in all_rows], indent=1) + "\n")


def rows(size: Size) -> list[bench_rows.Row]:
    """Measure the part of `scripts/bench`: rounds without noise, and secure ones, as they simulate.

    The clinics' work is theirs; beside them Flower's clinics compute nothing, so that a ratio has
    in it the recipe's round, the ledger and the book on the disk, and what carries the messages.

    Args:
        size: "smoke" or "full".

    Returns:
        For each number of clinics the whole round, and the coordinator's processor time in it.
    """
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    whole, computed = PHASES[0], PHASES[2]
    found = []
    for case in SMOKE_PART if size == "smoke" else FULL_PART:
        with tempfile.TemporaryDirectory() as place:
            taken = turns_of(case, Path(place), bench_rows.TURNS[size], 1280)
        if case.trust == "none":  # both sides carried the same arrays
            up = [taken.bytes[side][COUNTED[1]] for side in ("ours", BARE)]
            bench_rows.require_same("bytes from clinics", *up, 0.05)
        for phase, goal in ((whole, "at most 1.15"), (computed, None)):
            ours, peer = ([turn[phase] for turn in taken.times[side]] for side in ("ours", BARE))
            name = f"{case.name}: {phase[:-3]}"
            held = goal if case.trust == "none" else None
            found.append(bench_rows.row(name, ours, peer, goal=held, size=size, note=NOTE))
    return found


def measure(case: Case, place: Path, turns: int, features: int) -> list[Row]:
    """Measure one case.

    Args:
        case: What.
        place: An empty folder.
        turns: Timed rounds of each side.
        features: Numbers of an image.

    Returns:
        A row a phase.
    """
    return rows_of(case, turns_of(case, place, turns, features))


def turns_of(case: Case, place: Path, turns: int, features: int) -> Turns:
    """Take the turns of one case."""
    clocks = place / "clocks"
    clocks.mkdir()
    rounds = turns + _UNTIMED - 1  # beside the round of statistics
    federation = Federation(str(place), case.clinics, case.trust, features, rounds, case.spare)
    app = TimedApp(federation, clocks)

    def drive(grid: Grid, stop: Event) -> Turns:
        taken = Turns(grid, federation, clocks, case.transport == "in process", stop)
        fit(federation.learner(), taken.exchange)
        return taken

    close_clinics()
    if case.transport == "in process":
        nodes = [{"partition-id": number} for number in range(case.clinics)]
        taken = drive(LocalGrid(app, nodes), Event())
    else:
        # Flower's own loop has a node a clinic; skinml takes as many of them as it needs.
        taken = simulate(app, case.clinics, drive, cpus=2, num_nodes=case.clinics)
    close_clinics()
    return taken


class Turns:
    """Carries a run's rounds, and after each one of Flower's bare loop.

    Args:
        grid: Where messages go; Flower's own loop reaches each of its nodes by itself.
        federation: The clinics.
        clocks: Where their processes write how long they computed.
        shared: Whether clinics and coordinator share one thread.
        stop: Set by whoever wants the run to end.
    """

    def __init__(
        self, grid: Grid, federation: Federation, clocks: Path, shared: bool, stop: Event
    ) -> None:
        rule = noise_rule(federation.privacy, federation.count)
        terms = RunTerms(
            run=RUN,
            clinics=federation.names,
            allowed_missing=0,
            least_survivors=1,
            deadline_s=_DEADLINE_S,
            mechanism=Mechanism(rule.coordinator),
            session=federation.session(),
        )
        bare = grid.nodes if isinstance(grid, HostGrid) else grid
        self._grids = {"ours": Counted(grid), BARE: Counted(bare)}
        self._clocks, self._shared = clocks, shared
        self._count = federation.count
        self._ask = exchanger(grid_asker(self._grids["ours"], terms, stop), terms, Record())
        self.times: dict[str, list[Mapping[str, float]]] = {"ours": [], BARE: []}
        self.bytes: dict[str, Mapping[str, float]] = {}

    def exchange(self, round_: Round, query: Arrays) -> Exchanged:
        """Carry one round, then the bare one."""
        if round_.number < _UNTIMED:
            return self._ask(round_, query)
        answers: list[Exchanged] = []
        self._turn("ours", round_, lambda: answers.append(self._ask(round_, query)))
        self._turn(BARE, round_, partial(self._bare, query))
        return answers[0]

    def _bare(self, query: Arrays) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_train_nodes=self._count,
            min_available_nodes=self._count,
            configrecord_key=BARE,
        )
        strategy.start(self._grids[BARE], to_records(query), num_rounds=1, timeout=_DEADLINE_S)

    def _turn(self, whose: str, round_: Round, go: Callable[[], None]) -> None:
        counting = round_.number == _UNTIMED
        clinics_seconds(self._clocks, whose)
        grid = self._grids[whose]
        grid.begin(counting=counting)
        wall, busy = time.perf_counter(), time.thread_time()
        go()
        busy, wall = time.thread_time() - busy, time.perf_counter() - wall
        clinics = clinics_seconds(self._clocks, whose)
        if counting:
            self.bytes[whose] = dict(zip(COUNTED, (grid.down, grid.up), strict=True))
            return
        coordinator = busy - clinics if self._shared else busy
        spent = (wall, clinics, coordinator, max(wall - busy, 0.0))
        self.times[whose].append(dict(zip(PHASES, spent, strict=True)))


class Counted(Grid):
    """Passes everything on to another grid and counts the bytes of what it carries.

    Args:
        inner: The other grid.
    """

    def __init__(self, inner: Grid) -> None:
        self._inner, self._counting = inner, False
        self.down = self.up = 0.0

    def begin(self, *, counting: bool) -> None:
        """Set the counts to zero; count from now on, or do not."""
        self._counting, self.down, self.up = counting, 0.0, 0.0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages."""
        sent = list(messages)
        if self._counting:
            self.down += sum(map(_size, sent))
        return self._inner.push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand replies out."""
        for message in self._inner.pull_messages(message_ids):
            if self._counting:
                self.up += _size(message)
            yield message

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages and hand the replies out, in the inner grid's own way."""
        sent = list(messages)
        replies = list(self._inner.send_and_receive(sent, timeout=timeout))
        if self._counting:
            self.down += sum(map(_size, sent))
            self.up += sum(map(_size, replies))
        return replies

    def get_node_ids(self) -> Iterable[int]:
        """Name the nodes."""
        return self._inner.get_node_ids()

    @property
    def run(self) -> Any:
        """The inner grid's run."""
        return self._inner.run

    def set_run(self, run: Any) -> None:
        """Tell the inner grid its run."""
        self._inner.set_run(run)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Refuse the deprecated way to make a message."""
        raise AttributeError("make a Message directly")


def rows_of(case: Case, taken: Turns) -> list[Row]:
    """Turn what was measured into rows."""
    start = f"{case.name}: "
    rows = []
    for phase in PHASES:
        ours = [each[phase] for each in taken.times["ours"]]
        peer = [each[phase] for each in taken.times[BARE]]
        rows.append(_row(start + phase, ours, peer))
    for phase in COUNTED:
        rows.append(_row(start + phase, [taken.bytes["ours"][phase]], [taken.bytes[BARE][phase]]))
    return rows


def _row(name: str, ours: list[float], peer: list[float]) -> Row:
    middles = statistics.median(ours), statistics.median(peer)
    if min(peer) < _LEAST_S:
        return Row(name, *middles, None, None, None)
    ratios = np.divide(ours, peer).tolist()
    return Row(name, *middles, statistics.median(ratios), min(ratios), max(ratios))


def _size(message: Message) -> int:
    if message.has_error():
        return 0
    return int(recorddict_to_proto(message.content).ByteSize())


def _line(row: Row) -> str:
    shown = f"{row.name:<64}{row.ours:>12.4g}{row.peer:>12.4g}"
    if row.ratio is None:
        return shown + f"{'-':>9}"
    return shown + f"{row.ratio:>9.3g}  ({row.low:.3g} to {row.high:.3g})"


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
