"""What a run asks of a clinic, in the terms of the clinic's policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig
from skinml.data.cohort import MALIGNANCY
from skinml.experiments.learners import build_learner, held_out_release, split_key_id
from skinml.experiments.released import counts_release
from skinml.federated.clinic import planned_entries, schedule
from skinml.privacy.ledger import Entry, entries_of_year, spent
from skinml.privacy.plan import Release, admissions_release
from skinml.privacy.planner import require_honest_clinics
from skinml.records import Labels
from skinml.stewardship.policy import KEPT_FIELDS
from skinml.stewardship.policy_terms import Proposal

COORDINATOR = "simulation"
_READ_FOR = {"age_band": "age"}


@dataclass(frozen=True)
class Draft:
    """A run as its own recipe plans it.

    Attributes:
        config: The run's config.
        num_clinics: Clinics in the run.
        releases: What leaves in all rounds, the evaluation included.
        entries: What is left of it, as entries of a ledger.
        run: The run's id.
    """

    config: RunConfig
    num_clinics: int
    releases: tuple[Release, ...]
    entries: tuple[Entry, ...]
    run: str


def drafted(
    config: RunConfig, classes: Labels, *, num_clinics: int, run: str, from_round: int = 1
) -> Draft:
    """Let the recipe of a run plan its releases.

    Args:
        config: The run's config.
        classes: What the model tells apart.
        num_clinics: Clinics in the run.
        run: The run's id.
        from_round: The first round that is still to be done, of a run that is resumed.

    Returns:
        The draft: what the run itself would do.

    Raises:
        ConfigError: If the config's sections do not fit together.
    """
    require_honest_clinics(config.privacy, num_clinics)
    # The features' number moves noise and epsilon by less than a part in ten thousand, by what is
    # paid for the grid: any will do for a plan.
    learner = build_learner(config, classes, 1, num_clinics)
    validation, admissions = held_out_release(config), admissions_release(config.privacy)
    # Clinics' names decide nothing here, only their number.
    counts = counts_release(config, [str(number) for number in range(num_clinics)])
    tested = counts.release if counts else None
    releases = tuple(
        r for round_ in schedule(learner, validation, admissions, tested) for r in round_.releases
    )
    entries = planned_entries(
        learner,
        validation,
        config.privacy,
        run=run,
        split_key_id=split_key_id(config.data),
        from_round=from_round,
        test_counts=tested,
    )
    return Draft(config, num_clinics, releases, tuple(entries), run)


def first_round_left(folder: ClinicFolder, run: str) -> int:
    """Tell from a clinic's ledger which round of a run comes next here.

    A round that was broken off counts as done: each round is held against the policy and the
    budget once more before anything of it leaves, the one that is asked for again too.

    Args:
        folder: The clinic's folder.
        run: The run's id.

    Returns:
        The round after the last one that was charged; 1 for a run that has not begun.

    Raises:
        IntegrityError: If the clinic's ledger was changed.
    """
    rounds = (e.binding.round for e in folder.ledger.entries() if e.binding.run == run)
    return max(rounds, default=0) + 1


def propose(
    draft: Draft, folder: ClinicFolder, *, num_patients: int | None, coordinator: str = COORDINATOR
) -> Proposal:
    """Put a run into the terms of a policy.

    Args:
        draft: The run.
        folder: The clinic that is asked.
        num_patients: Training patients of this clinic; None before they are counted.
        coordinator: Who asks.

    Returns:
        The proposal.

    Raises:
        IntegrityError: If the clinic's ledger was changed.
    """
    held, planned = folder.ledger.entries(), draft.entries
    before = [entry for entry in held if entry.binding.run == draft.run]
    delta, now = draft.config.privacy.delta, datetime.now(UTC)
    return replace(
        terms_of(
            draft.config, draft.releases, num_clinics=draft.num_clinics, coordinator=coordinator
        ),
        epsilon=spent([*before, *planned], delta),
        patients=num_patients,
        epsilon_year=spent([*entries_of_year(held, now), *planned], delta),
        epsilon_life=spent([*held, *planned], delta),
    )


def terms_of(
    config: RunConfig,
    releases: Iterable[Release],
    *,
    num_clinics: int,
    coordinator: str = COORDINATOR,
) -> Proposal:
    """Put the terms of a run that need neither ledger nor patients into those of a policy.

    Args:
        config: The run's config.
        releases: What leaves in all rounds, the evaluation included.
        num_clinics: Clinics in the run.
        coordinator: Who asks.

    Returns:
        The proposal; it spends nothing and counts no patients.
    """
    missing = max(config.federation.allowed_missing, config.privacy.tolerated_dropouts)
    return Proposal(
        experiment=config.name,
        purpose=config.purpose,
        coordinator=coordinator,
        trust=config.privacy.trust,
        unit=config.privacy.unit,
        epsilon=0.0,
        delta=config.privacy.delta,
        noise_multiplier=min(release.noise_multiplier for release in releases) or None,
        clinics=max(_smallest_sum(config, num_clinics) - missing, 1),
        patients=None,
        fields=fields_of(config),
        epsilon_year=0.0,
        epsilon_life=0.0,
    )


def _smallest_sum(config: RunConfig, num_clinics: int) -> int:
    """Count the clinics of the smallest group whose counts can be read apart."""
    regions = config.statistics.regions.values() if config.statistics else ()
    return min((len(each) for each in regions), default=num_clinics)


def expected_classes(config: RunConfig) -> Labels:
    """Name a config's classes without its data.

    Args:
        config: The config.

    Returns:
        The classes; which of them are malignant is not told, and a plan does not ask.
    """
    if config.data.target == "malignant":
        return MALIGNANCY
    return Labels(config.data.classes, (False,) * len(config.data.classes))


def fields_of(config: RunConfig) -> tuple[str, ...]:
    """List the columns of the manifest that a run reads and a policy decides on.

    Args:
        config: The run's config.

    Returns:
        Their names, in the order of `KEPT_FIELDS`.
    """
    data, counted = config.data, config.statistics
    if counted is not None:
        read = {_READ_FOR.get(name, name) for name in counted.attributes} | set(data.where)
        return tuple(name for name in KEPT_FIELDS if name in read)
    read = {_READ_FOR.get(name, name) for name in data.groups} | set(data.where)
    read |= {"modality", "lesion_id"} if data.views else set()
    read |= {"anatomical_site"} if data.partition.by == "site" else set()
    return tuple(name for name in KEPT_FIELDS if name in read)
