"""Carrying a run's rounds: through Flower's simulation, or by plain calls to one clinic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import TypeVar

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig
from skinml.errors import SkinmlError
from skinml.experiments.learners import clinic_mechanism, coordinator_mechanism
from skinml.experiments.released import counts_release
from skinml.experiments.resuming import Checkpoints
from skinml.experiments.sites import Opener, Terms, open_clinic, open_site, secure_session
from skinml.federated.answer_times import Stopwatch
from skinml.federated.client_app import client_app, close_clinics
from skinml.federated.clinic import Clinic, schedule
from skinml.federated.coordinator import Grid, exchanger, grid_asker
from skinml.federated.local_grid import LocalGrid
from skinml.federated.messages import Reply, Request
from skinml.federated.roll_call import Ask, RunTerms
from skinml.federated.secure_rounds import KeptAdverts
from skinml.federated.simulation import simulate
from skinml.federated.strategies import combiner
from skinml.privacy.plan import Release, admissions_release
from skinml.records import Arrays, FloatArray
from skinml.training.fit import Exchange, Fitted, fit
from skinml.training.learner import Learner

T = TypeVar("T")
OnRound = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Trained:
    """What came out of all rounds.

    Attributes:
        fitted: The model and its history.
        scores: (2, bins) noisy histogram of validation scores; row 1 is malignant. With label
            sets, their rows follow.
        admissions: (cells,) noisy sum of what became of patients at the clinics' gates, in the
            order of `records.ADMISSION_CELLS`; None where the run releases none.
        test_counts: (groups, 2, bins) noisy sum of counts of test patients; None where the run
            releases none.
    """

    fitted: Fitted
    scores: FloatArray
    admissions: FloatArray | None
    test_counts: FloatArray | None


def train(
    config: RunConfig,
    terms: Terms,
    learner: Learner,
    validation: Release,
    checkpoints: Checkpoints,
    on_round: OnRound,
    *,
    first_attempt: int = 1,
    reach: Callable[[RunTerms], Ask] | None = None,
    watch: Stopwatch | None = None,
    kept: KeptAdverts | None = None,
    folder: ClinicFolder | None = None,
) -> Trained:
    """Run all rounds of a run that are still to be done, evaluation included.

    Args:
        config: The run's config.
        terms: What every node knows.
        learner: The recipe.
        validation: The release of validation scores.
        checkpoints: Where the run stands, and where each whole round is kept; its record grows by
            one entry an attempt, whatever happens.
        on_round: Called after each training round.
        first_attempt: Number of the first attempt at each round.
        reach: Finds the way to real clinics; None: they are virtual.
        watch: Takes the time of the clinics' answers.
        kept: Where clinics' public keys outlive this process; None: nowhere.
        folder: The opened folder of the only clinic, where one place holds all.

    Returns:
        The model, the released validation scores and counts.

    Raises:
        BudgetExceededError, PolicyError, IntegrityError: If a clinic refused.
        IncompleteRunError: If more clinics were missing than allowed.
    """
    admissions, counts = admissions_release(config.privacy), counts_release(config, terms.clinics)
    tested, done = counts.release if counts else None, checkpoints.load()

    def work(exchange: Exchange) -> Trained:
        fitted = fit(learner, exchange, on_round, resume=done, keep=checkpoints.keep)
        last = schedule(learner, validation, admissions, tested)[-1]
        total = exchange(last, fitted.arrays).total
        released = (total[each.name] if each else None for each in (admissions, tested))
        return Trained(fitted, total[validation.name], *released)

    return carried(
        config,
        terms,
        checkpoints,
        work,
        first_attempt=first_attempt,
        reach=reach,
        watch=watch,
        kept=kept,
        folder=folder,
    )


def carried(
    config: RunConfig,
    terms: Terms,
    checkpoints: Checkpoints,
    work: Callable[[Exchange], T],
    *,
    first_attempt: int = 1,
    reach: Callable[[RunTerms], Ask] | None = None,
    watch: Stopwatch | None = None,
    kept: KeptAdverts | None = None,
    folder: ClinicFolder | None = None,
) -> T:
    """Let some work exchange rounds with a run's clinics, wherever they are.

    Args:
        config: The run's config.
        terms: What every node knows.
        checkpoints: Where each attempt is put on record.
        work: What is done with the clinics.
        first_attempt: As for `train`.
        reach: As for `train`.
        watch: As for `train`.
        kept: As for `train`.
        folder: As for `train`.

    Returns:
        What the work gave.

    Raises:
        BudgetExceededError, PolicyError, IntegrityError: If a clinic refused.
        IncompleteRunError: If more clinics were missing than allowed.
    """
    held_to = run_terms(config, terms, first_attempt)

    def through(ask: Ask) -> T:
        if watch is not None:
            ask = watch.timed(ask, held_to.deadline_s / (held_to.resends + 1))
        return work(exchanger(ask, held_to, checkpoints.record, kept))

    def drive(grid: Grid, stop: Event) -> T:
        return through(grid_asker(grid, held_to, stop))

    try:
        if reach is not None:
            return through(reach(held_to))
        if config.federation.mode == "centralised":
            clinic = open_site(terms, folder) if folder else open_clinic(terms, {"partition-id": 0})
            return through(partial(_ask_directly, clinic))
        app, cpus = client_app(Opener(terms)), config.federation.cpus
        return simulate(app, len(terms.clinics), drive, cpus=cpus)
    except SkinmlError:
        checkpoints.close()
        raise
    finally:
        close_clinics()


def tally(
    config: RunConfig,
    terms: Terms,
    learner: Learner,
    checkpoints: Checkpoints,
    *,
    reach: Callable[[RunTerms], Ask],
    first_attempt: int = 1,
    watch: Stopwatch | None = None,
    kept: KeptAdverts | None = None,
) -> Arrays:
    """Run the rounds of a recipe that only counts, which has no evaluation.

    Args:
        config: The run's config.
        terms: What every node knows.
        learner: The recipe.
        checkpoints: As for `train`.
        reach: Finds the way to the clinics.
        first_attempt: As for `train`.
        watch: As for `train`.
        kept: As for `train`.

    Returns:
        The released sums.

    Raises:
        BudgetExceededError, PolicyError, IntegrityError: If a clinic refused.
        IncompleteRunError: If more clinics were missing than allowed.
    """
    done = checkpoints.load()

    def work(exchange: Exchange) -> Arrays:
        return fit(learner, exchange, resume=done, keep=checkpoints.keep).arrays

    return carried(
        config,
        terms,
        checkpoints,
        work,
        first_attempt=first_attempt,
        reach=reach,
        watch=watch,
        kept=kept,
    )


def in_this_process(terms: Terms) -> Callable[[RunTerms], Ask]:
    """Find the way to virtual clinics that answer one after the other, without worker processes.

    For what takes a clinic no time, such as counting: starting workers would take longest.

    Args:
        terms: What every node knows.

    Returns:
        What `carried` reaches the clinics through.
    """
    nodes = [{"partition-id": place} for place in range(len(terms.clinics))]
    grid = LocalGrid(client_app(Opener(terms)), nodes)
    return lambda held_to: grid_asker(grid, held_to, Event())


def run_terms(config: RunConfig, terms: Terms, first_attempt: int = 1) -> RunTerms:
    """Write down what the coordinator holds a run to.

    Args:
        config: The run's config.
        terms: What every node knows.
        first_attempt: Number of the first attempt at each round.

    Returns:
        The terms.
    """
    count, federation = len(terms.clinics), config.federation
    return RunTerms(
        run=terms.run,
        clinics=terms.clinics,
        allowed_missing=federation.allowed_missing,
        deadline_s=federation.round_deadline_s,
        least_survivors=_least_survivors(config, count),
        mechanism=coordinator_mechanism(config, count),
        clinic_share=clinic_mechanism(config, count).share,
        session=secure_session(config, terms),
        resends=federation.resends,
        attempts=federation.attempts,
        first_attempt=first_attempt,
        combine=combiner(federation.strategy, config.privacy.trust),
        max_update_norm=federation.max_update_norm,
    )


def _least_survivors(config: RunConfig, num_clinics: int) -> int:
    """Count the clinics whose noise shares a distributed sum needs."""
    if config.privacy.trust != "distributed":
        return 1
    return num_clinics - config.privacy.tolerated_dropouts


def _ask_directly(clinic: Clinic, requests: Mapping[str, Request]) -> Mapping[str, Reply | str]:
    """Ask without a wire: what the clinic raises is raised here."""
    request = requests[clinic.name]
    return {clinic.name: Reply(clinic.name, request.round, clinic.answer(request), {})}


def num_rounds(learner: Learner) -> int:
    """Count a run's rounds.

    Args:
        learner: The recipe.

    Returns:
        Training rounds and the one of evaluation.
    """
    return len(learner.rounds) + 1
