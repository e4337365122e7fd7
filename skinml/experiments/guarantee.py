"""What a finished run promises, read from the clinics' ledgers and from nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig
from skinml.federated.clinic import schedule
from skinml.privacy.ledger import spent
from skinml.privacy.plan import Release, epsilon_across_clinics
from skinml.records import ClinicSpend, Guarantee
from skinml.training.learner import Learner

_COVERED = (
    "the label counts and the sum of features that training begins with",
    "every training round",
    "the histogram of validation scores that the threshold comes from",
)
_COVERED_NETWORK = (
    "every local training step",
    "the histogram of validation scores that the threshold comes from",
)
_NOT_COVERED = (
    "the figures and intervals of this report: one machine saw the predictions in a simulation",
    "the counts of patients and images in this report, those of training among them",
    "settings that were chosen on development images before this run",
    "what the same images release under another clinic's name, such as 'pooled'",
    "the yardsticks, which are trained without privacy",
    "which clinics took part, and the settings, which are public",
)


def guarantee(
    config: RunConfig,
    run: str,
    folders: Mapping[str, ClinicFolder],
    learner: Learner,
    validation: Release,
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
    delta, private = config.privacy.delta, config.privacy.private
    clinics = {}
    for name, folder in folders.items():
        entries = folder.ledger.entries()
        own = [entry for entry in entries if entry.binding.run == run]
        clinics[name] = ClinicSpend(
            epsilon=_finite(spent(own, delta)),
            total_epsilon=_finite(spent(entries, delta)),
            num_events=len(own),
        )
    releases = [r for round_ in schedule(learner, validation) for r in round_.releases]
    splits = {release.split for release in releases}
    reach = min(config.privacy.max_clinics_per_patient, len(folders))
    if config.privacy.unit == "patient_within_clinic":
        reach = len(folders)
    across = max(
        epsilon_across_clinics([r for r in releases if r.split == split], config.privacy, reach)
        for split in splits
    )
    return Guarantee(
        private=private,
        trust=config.privacy.trust,
        unit=config.privacy.unit,
        epsilon=_greatest([c.epsilon for c in clinics.values()]),
        total_epsilon=_greatest([c.total_epsilon for c in clinics.values()]),
        epsilon_across_clinics=_finite(across),
        max_clinics=reach,
        delta=delta,
        simulated=True,
        clinics=clinics,
        covered=(_COVERED if config.model.kind == "linear_head" else _COVERED_NETWORK)
        if private
        else (),
        not_covered=_NOT_COVERED if private else ("everything: nothing was protected",),
    )


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _greatest(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
