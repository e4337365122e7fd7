"""What a finished run promises, read from the clinics' ledgers and from nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from math import isfinite

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig
from skinml.experiments.learners import split_key_id
from skinml.experiments.released import counts_release
from skinml.federated.clinic import schedule
from skinml.privacy.events import DiscreteGaussianEvent, RepeatAndSelectEvent
from skinml.privacy.ledger import Binding, Entry, spent
from skinml.privacy.plan import (
    STATISTICS,
    TEST_COUNTS,
    Release,
    admissions_release,
    by_split,
    epsilon_across_clinics,
)
from skinml.privacy.readings import advantage, recognised, replace_one_epsilon
from skinml.privacy.settings import PrivacySettings
from skinml.records import ClinicSpend, Guarantee, Participation, PlannedSum
from skinml.training.learner import Learner, Round
from skinml.training.network import LOCAL_STEPS

# What leaves a clinic, by the release's name in the ledger. A release that is not listed here is
# named as it is: nothing that was charged may be missing from the list.
COVERED = {
    "admissions": "the counts of whose data were admitted, and of why others were not",
    "label_counts": "the label counts that training begins with",
    "group_label_counts": "the counts of labels by group that training begins with",
    "feature_sum": "the sum of features that training is centred by",
    "class_sums": "the sums of features of each class",
    "gradient": "every training round",
    "group_losses": "the sums of losses by group, in every training round",
    "weights": "every local training step",
    "validation_scores": "the histogram of validation scores that the threshold comes from",
    "validation_scores_by_group": "the histogram of validation scores that the threshold comes "
    "from, and the counts by group that the label sets come from",
    "validation_scores_and_features": "the histogram of validation scores that the threshold comes "
    "from, and the sum of validation images' features by which other pictures are found",
    "validation_scores_by_group_and_features": "the histogram of validation scores that the "
    "threshold comes from, the counts by group that the label sets come from, and the sum of "
    "validation images' features by which other pictures are found",
    STATISTICS: "the counts of patients in all tables",
    TEST_COUNTS: "the counts of test patients that the run's test figures are computed from",
}
TUNING = "tuning: every trial of the settings that were chosen here"
YARDSTICKS = "the yardsticks, which are trained without privacy"
# What a report of exact figures holds, and one of figures from noised counts does not.
EXACT = (
    "the figures and intervals of this report: one machine saw the predictions in a simulation",
    "the counts of patients and images in this report, where they do not say that they are noisy",
    YARDSTICKS,
)
NOT_COVERED = (
    *EXACT[:2],
    "settings that were chosen on development images before this run",
    "what the same images release under another clinic's name, such as 'pooled'",
    YARDSTICKS,
    "which clinics took part, and the settings, which are public",
    "how long a clinic takes to answer, and whether it answers",
)
FLOATING_POINT = "what the last digits of noise in floating point may tell of a sum"
NOTHING_COVERED = ("everything: nothing was protected",)
# The share of patients who took no part that the report's example of a test suspects.
FALSE_ALARMS = 0.01


def guarantee(
    config: RunConfig,
    run: str,
    folders: Mapping[str, ClinicFolder],
    learner: Learner,
    validation: Release | None,
) -> Guarantee:
    """Read the ledgers after a run.

    Args:
        config: The run's config.
        run: The run's id.
        folders: Each clinic's folder by name.
        learner: The run's recipe.
        validation: The release of validation scores.

    Returns:
        The guarantee with the greatest epsilons over the clinics.

    Raises:
        IntegrityError: If a ledger was changed.
    """
    ledgers = {name: folder.ledger.entries() for name, folder in folders.items()}
    return guarantee_from(config, run, ledgers, learner, validation)


def guarantee_told(
    config: RunConfig,
    run: str,
    participation: Sequence[Participation],
    learner: Learner,
    validation: Release | None,
) -> Guarantee:
    """Work out a deployed run's promise from who was asked what: ledgers stay at the clinics.

    Args:
        config: The run's config.
        run: The run's id.
        participation: Every attempt at every round.
        learner: The run's recipe.
        validation: The release of validation scores.

    Returns:
        The guarantee. Each clinic is taken to have released its part in every attempt that it was
        asked in, so that its own ledger holds at most that, but for an attempt that a killed
        coordinator forgot. What earlier runs spent is not known here.
    """
    clinics = participation[-1].expected
    counts = counts_release(config, clinics)
    rounds = schedule(
        learner, validation, admissions_release(config.privacy), counts.release if counts else None
    )
    privacy, now = config.privacy, datetime.now(UTC).isoformat(timespec="seconds")
    entries = [
        Entry(
            0,
            now,
            Binding(
                run,
                each.round,
                each.attempt,
                each.expected,
                privacy.trust,
                privacy.unit,
                split_key_id(config.data),
                False,
            ),
            release.name,
            release.purpose,
            release.split,
            release.event,
            guarantee=privacy.private,
        )
        for each in participation
        for release in rounds[each.round - 1].releases
    ]
    ledgers = dict.fromkeys(clinics, tuple(entries))
    found = guarantee_from(config, run, ledgers, learner, validation)
    unknown = {
        name: replace(spend, total_epsilon=None, num_read=None)
        for name, spend in found.clinics.items()
    }
    return replace(
        found, simulated=False, total_epsilon=None, total_advantage=None, clinics=unknown
    )


def guarantee_from(
    config: RunConfig,
    run: str,
    ledgers: Mapping[str, Sequence[Entry]],
    learner: Learner,
    validation: Release | None,
) -> Guarantee:
    """Work out a run's promise from entries of ledgers.

    Args:
        config: The run's config.
        run: The run's id.
        ledgers: Each clinic's entries by name, from the ledger's first on.
        learner: The run's recipe.
        validation: The release of validation scores.

    Returns:
        The guarantee with the greatest epsilons over the clinics; the same arguments give the
        same one.
    """
    privacy, folders = config.privacy, tuple(ledgers)
    counts = counts_release(config, folders)
    counted = counts.release if counts else None
    rounds = schedule(learner, validation, admissions_release(privacy), counted)
    own = {
        name: [entry for entry in entries if entry.binding.run == run]
        for name, entries in ledgers.items()
    }
    clinics = {
        name: ClinicSpend(
            epsilon=_finite(spent(own[name], privacy.delta)),
            total_epsilon=_finite(spent(entries, privacy.delta)),
            num_events=len(own[name]),
            num_read=len(entries),
        )
        for name, entries in ledgers.items()
    }
    bounds = _guessing(own.values(), ledgers.values(), privacy.delta) if privacy.private else {}
    return Guarantee(
        private=privacy.private,
        trust=privacy.trust,
        unit=privacy.unit,
        epsilon=_greatest([c.epsilon for c in clinics.values()]),
        total_epsilon=_greatest([c.total_epsilon for c in clinics.values()]),
        epsilon_across_clinics=_finite(_across(privacy, rounds, folders)),
        max_clinics=_reach(privacy, folders),
        delta=privacy.delta,
        simulated=True,
        clinics=clinics,
        covered=covered(chain(*own.values())) if privacy.private else (),
        not_covered=not_covered(chain(*own.values())) if privacy.private else NOTHING_COVERED,
        num_clinics=len(folders),
        tolerated_dropouts=privacy.tolerated_dropouts,
        colluding_clinics=privacy.colluding_clinics,
        sums=planned_sums(rounds),
        **bounds,
    )


def planned_sums(rounds: Iterable[Round]) -> tuple[PlannedSum, ...]:
    """List the sums of a plan, those of consecutive rounds as one.

    Args:
        rounds: The run's rounds in order, the evaluation included.

    Returns:
        Each kind of sum once for every stretch of rounds that makes it with the same noise.
    """
    found: list[PlannedSum] = []
    latest: dict[PlannedSum, int] = {}  # by kind of sum, where its last stretch is
    for round_ in rounds:
        for release in round_.releases:
            new = _planned_sum(round_, release)
            kind = replace(new, first_round=0, last_round=0)
            place = latest.get(kind)
            if place is not None and found[place].last_round == round_.number - 1:
                found[place] = replace(found[place], last_round=round_.number)
            else:
                latest[kind] = len(found)
                found.append(new)
    return tuple(found)


def _planned_sum(round_: Round, release: Release) -> PlannedSum:
    return PlannedSum(
        name=release.name,
        first_round=round_.number,
        last_round=round_.number,
        sensitivity=release.sensitivity if isfinite(release.sensitivity) else None,
        std=release.noise_std,
        local_steps=release.steps if round_.kind == LOCAL_STEPS else 0,
    )


def covered(entries: Iterable[Entry]) -> tuple[str, ...]:
    """List in words what epsilon covers.

    Args:
        entries: The run's own entries of the ledgers.

    Returns:
        Each kind of release once, in the order of the first of its kind.
    """
    found = {}
    for entry in entries:
        found[COVERED.get(entry.name, f"the release {entry.name.replace('_', ' ')}")] = True
        if entry.purpose == "tuning" or isinstance(entry.event, RepeatAndSelectEvent):
            found[TUNING] = True
    return tuple(found)


def not_covered(entries: Iterable[Entry]) -> tuple[str, ...]:
    """List in words what epsilon does not cover.

    Args:
        entries: The run's own entries of the ledgers.

    Returns:
        What never is, and the limits of floating point where noise was not discrete.
    """
    found = list(entries)
    told: tuple[str, ...] = NOT_COVERED
    if any(entry.name == TEST_COUNTS for entry in found):
        told = tuple(words for words in NOT_COVERED if words not in EXACT)
    continuous = any(not isinstance(entry.event, DiscreteGaussianEvent) for entry in found)
    return (*told, FLOATING_POINT) if continuous else told


def _guessing(
    own: Iterable[Sequence[Entry]], ledgers: Iterable[Sequence[Entry]], delta: float
) -> dict[str, float | None]:
    runs = list(own)
    return {
        "advantage": max(map(advantage, runs), default=0.0),
        "total_advantage": max(map(advantage, ledgers), default=0.0),
        "recognised": max((recognised(run, FALSE_ALARMS) for run in runs), default=FALSE_ALARMS),
        "replace_one_epsilon": _finite(
            max((replace_one_epsilon(run, delta) for run in runs), default=0.0)
        ),
    }


def _reach(privacy: PrivacySettings, folders: Sequence[str]) -> int:
    """Count the clinics that one patient may be at."""
    if privacy.unit == "patient_within_clinic":
        return len(folders)
    return min(privacy.max_clinics_per_patient, len(folders))


def _across(privacy: PrivacySettings, rounds: Sequence[Round], folders: Sequence[str]) -> float:
    releases = [release for round_ in rounds for release in round_.releases]
    reach = _reach(privacy, folders)
    return max(
        epsilon_across_clinics(group, privacy, reach) for group in by_split(releases).values()
    )


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _greatest(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
