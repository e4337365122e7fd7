"""A run's privacy planned ahead: noise, epsilon, what rounds cost, what a ledger leaves.

It needs public figures and, where a clinic's folder is given, that clinic's ledger; no patient's
data are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from skinml.clinic.gate import require_role
from skinml.clinic.opening import open_at_screen
from skinml.config import RunConfig, load_config
from skinml.durable import write_whole
from skinml.errors import ConfigError, require_positive
from skinml.experiments.approval import Draft
from skinml.experiments.comparison import require_clinics
from skinml.experiments.plan_limits import Bounds, draft_of, require_possible
from skinml.privacy.accounting import PLOT_GRID
from skinml.privacy.headroom import MOST_RUNS, Room, room_under
from skinml.privacy.ledger import entries_of_year, spent
from skinml.privacy.planner import (
    NoiseToSignal,
    PlanCurves,
    Reading,
    ReleaseLine,
    epsilon_by_rounds,
    noise_by_epsilon,
    noise_to_signal,
    readings,
    release_lines,
    training_line,
)
from skinml.reports.plan_figure import plan_png

__all__ = ["MOST_RUNS", "Plan", "plan_experiment", "save_plot"]

_LEAST_ROUNDS = {"head": 2, "network": 1}
_MOST_ROUNDS = 10_000
_CHANGES = (-10, 0, 1, 10)
_POINTS = 13


@dataclass(frozen=True)
class RoundsChange:
    """What another number of rounds would mean.

    Attributes:
        rounds: Rounds of training.
        noise_multiplier: Of a round's release, at the planned epsilon.
        signal: Noise-to-signal with that noise.
        epsilon: Of a training patient of one clinic, at the planned noise instead.
    """

    rounds: int
    noise_multiplier: float
    signal: NoiseToSignal
    epsilon: float


@dataclass(frozen=True)
class LedgerTotals:
    """What a clinic's ledger adds up to.

    Attributes:
        clinic: The clinic's name.
        num_releases: Entries.
        year: Epsilon of the last 365 days; infinite where something was released without noise.
        life: Epsilon of everything.
    """

    clinic: str
    num_releases: int
    year: float
    life: float


@dataclass(frozen=True)
class Plan:
    """A possible run.

    Attributes:
        experiment: Its name.
        private: Whether it promises anything.
        trust: The trust model.
        unit: Whose records are protected as a whole.
        unit_stands_for: What the data's patient_id stands for.
        delta: Delta that every epsilon is read at.
        num_clinics: Clinics in the run.
        patients: Training patients of all clinics that the noise is held against.
        patients_from: Where that figure comes from.
        epsilon: What each clinic's ledger is charged.
        readings: Epsilon of a patient at one clinic, at several, at all.
        lines: The releases.
        training: The name of what a round of training releases.
        end_to_end: Whether a round is a few local steps of a whole network.
        signal: Noise-to-signal.
        changes: What other numbers of rounds would mean.
        rooms: What each ceiling leaves.
        ledger: What the ledger holds; None where no folder was given.
        curves: For a plot; None where none was asked for.
    """

    experiment: str
    private: bool
    trust: str
    unit: str
    unit_stands_for: str
    delta: float
    num_clinics: int
    patients: float
    patients_from: str
    epsilon: float
    readings: tuple[Reading, ...]
    lines: tuple[ReleaseLine, ...]
    training: str
    end_to_end: bool
    signal: NoiseToSignal
    changes: tuple[RoundsChange, ...]
    rooms: tuple[Room, ...]
    ledger: LedgerTotals | None
    curves: PlanCurves | None

    @property
    def runs(self) -> int | None:
        """How many such runs still fit under every ceiling; None where none is set."""
        return min((room.runs for room in self.rooms if room.runs is not None), default=None)


def plan_experiment(
    experiment: str,
    overrides: Sequence[str] = (),
    *,
    now: datetime,
    patients: int | None = None,
    num_clinics: int | None = None,
    folder: Path | None = None,
    curves: bool = False,
) -> Plan:
    """Plan the privacy of a run.

    Args:
        experiment: The experiment's name.
        overrides: Changes such as "privacy.epsilon=1".
        now: The time, with its zone.
        patients: Patients of all clinics together, a public figure; None: what the config says.
        num_clinics: Clinics in the run; None: as many as the experiment itself says.
        folder: A clinic's folder, for its ledger and policy; None: a new virtual clinic's.
        curves: Whether to compute the curves of a plot too.

    Returns:
        The plan.

    Raises:
        BudgetExceededError: If the run would pass a ceiling of epsilon.
        ConfigError: If the experiment, a key or a value is unknown or impossible, no honest
            clinic would be left, or nobody says how many clinics there are.
        EnvironmentProblem: If the folder cannot be opened.
        IntegrityError: If the folder was changed.
        PolicyError: If the policy does not allow the run's terms, or the user may not read the
            ledger.
    """
    config = load_config(experiment, overrides)
    if curves and not config.privacy.private:
        raise ConfigError(
            rule="a run that promises something, where it is plotted",
            got="privacy.trust=none",
            do="Choose another privacy.trust, or leave the plot out.",
        )
    clinics = require_clinics(config, num_clinics)
    cohort, source = _training_patients(config, clinics, patients)
    draft = draft_of(config, clinics)
    bounds = _bounds(config, folder, now)
    require_possible(draft, bounds, experiment, overrides)
    return _planned(draft, bounds, cohort, source, curves=curves)


def save_plot(plan: Plan, path: Path) -> None:
    """Draw a plan's curves into a file.

    Args:
        plan: A plan with curves.
        path: The PNG file; an older one is replaced.

    Raises:
        ConfigError: If the plan was made without curves.
        EnvironmentProblem: If the file cannot be written.
    """
    if plan.curves is None:
        raise ConfigError(rule="a plan with curves", got="none", do="Plan with curves=True.")
    write_whole(path, plan_png(plan.curves), "plot")


def _bounds(config: RunConfig, folder: Path | None, now: datetime) -> Bounds:
    if folder is None:
        return Bounds(config.clinic.policy, None, (), now)
    opened = open_at_screen(folder)
    actor = require_role(opened, "log.read")
    held = opened.ledger.entries()
    opened.audit.write("access", actor, now=now, kind="ledger", objects=len(held))
    return Bounds(opened.policy, opened.name, held, now)


def _training_patients(
    config: RunConfig, num_clinics: int, patients: int | None
) -> tuple[float, str]:
    """Choose the public figure of training patients, and say where it comes from."""
    share = config.data.fractions.train
    if patients is not None:
        require_positive(patients=patients)
        return share * patients, f"{share:.0%} of the {patients:,} patients given"
    drawn = config.data.synthetic
    if drawn is not None and config.data.source == "synthetic":
        return share * drawn.num_patients, f"{share:.0%} of data.synthetic.num_patients"
    if config.model.kind == "linear_head":
        return config.training.head.reference_patients, "training.head.reference_patients"
    figure = num_clinics * config.training.network.expected_patients
    return figure, "training.network.expected_patients at each clinic"


def _planned(draft: Draft, bounds: Bounds, patients: float, source: str, *, curves: bool) -> Plan:
    config, privacy, clinics = draft.config, draft.config.privacy, draft.num_clinics
    lines = release_lines(draft.releases, privacy, clinics)
    main = training_line(lines)
    totals = None
    if bounds.clinic is not None:
        totals = LedgerTotals(
            clinic=bounds.clinic,
            num_releases=len(bounds.held),
            year=spent(entries_of_year(bounds.held, bounds.now), privacy.delta),
            life=spent(bounds.held, privacy.delta),
        )
    return Plan(
        experiment=config.name,
        private=privacy.private,
        trust=privacy.trust,
        unit=privacy.unit,
        unit_stands_for=config.data.unit,
        delta=privacy.delta,
        num_clinics=clinics,
        patients=patients,
        patients_from=source,
        epsilon=spent(draft.entries, privacy.delta),
        readings=readings(draft.releases, privacy, clinics),
        lines=lines,
        training=main.name,
        end_to_end=config.model.kind == "network" and privacy.trust in ("none", "local"),
        signal=noise_to_signal(main, privacy, clinics, patients),
        changes=_changes(draft, main, patients),
        rooms=tuple(
            room_under(limit, draft.entries, privacy.delta) for limit in bounds.limits(config)
        ),
        ledger=totals,
        curves=_curves(draft, main) if curves else None,
    )


def _changes(draft: Draft, main: ReleaseLine, patients: float) -> tuple[RoundsChange, ...]:
    config, clinics = draft.config, draft.num_clinics
    if main.times == 1:  # a recipe of one round, which more rounds would not change
        return ()
    least, now = _LEAST_ROUNDS[_recipe(config)], _rounds(config)
    numbers = [now + n for n in _CHANGES if least <= now + n <= _MOST_ROUNDS]
    costs = dict(epsilon_by_rounds(draft.releases, main.name, numbers, config.privacy.delta))
    made = []
    for number in numbers:
        other = draft_of(_with_rounds(config, number), clinics)
        line = training_line(release_lines(other.releases, config.privacy, clinics))
        signal = noise_to_signal(line, config.privacy, clinics, patients)
        made.append(RoundsChange(number, line.noise_multiplier, signal, costs[number]))
    return tuple(made)


def _curves(draft: Draft, main: ReleaseLine) -> PlanCurves:
    config = draft.config
    rounds = 1 if main.times == 1 else _rounds(config)
    delta, asked = config.privacy.delta, config.privacy.epsilon
    numbers = sorted({round(n) for n in np.linspace(0, 2 * rounds, _POINTS)} | {rounds})
    epsilons = sorted({float(e) for e in asked * np.geomspace(0.1, 4, _POINTS)} | {asked})
    return PlanCurves(
        by_rounds=epsilon_by_rounds(draft.releases, main.name, numbers, delta, grid=PLOT_GRID),
        by_epsilon=noise_by_epsilon(draft.releases, main.name, epsilons, delta),
        rounds=rounds,
        epsilon=epsilon_by_rounds(draft.releases, main.name, [rounds], delta)[0][1],
        noise_multiplier=main.noise_multiplier,
        delta=delta,
        release=main.name,
    )


def _recipe(config: RunConfig) -> str:
    return "head" if config.model.kind == "linear_head" else "network"


def _rounds(config: RunConfig) -> int:
    head = config.model.kind == "linear_head"
    return config.training.head.rounds if head else config.training.network.rounds


def _with_rounds(config: RunConfig, rounds: int) -> RunConfig:
    name = _recipe(config)
    recipe = getattr(config.training, name).model_copy(update={"rounds": rounds})
    training = config.training.model_copy(update={name: recipe})
    return config.model_copy(update={"training": training})
