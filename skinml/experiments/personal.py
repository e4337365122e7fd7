"""The clinics' own heads beside the run's model, which only a simulation can put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig
from skinml.experiments.samples import PERSONAL_TEST, read_predictions
from skinml.fairness.groups import evaluate_groups
from skinml.records import Estimate, Labels, PersonalHead, Predictions
from skinml.seeding import Seeds


def personal_heads(
    config: RunConfig,
    run: str,
    folders: Mapping[str, ClinicFolder],
    present: Sequence[str],
    classes: Labels,
) -> tuple[PersonalHead, ...]:
    """Hold each clinic's own head against the run's model on that clinic's test patients.

    Args:
        config: The run's config.
        run: The run's id.
        folders: The clinics' folders.
        present: The clinics that took part in the evaluation.
        classes: What the model tells apart.

    Returns:
        One entry a clinic, its intervals from resampled patients; none where no clinic keeps a
        head of its own.

    Raises:
        IntegrityError: If a prediction was changed.
    """
    if not config.training.personal_head.keep:
        return ()
    found = []
    for clinic in sorted(present):
        made = (
            read_predictions(folders[clinic], run, split, classes)
            for split in ("test", PERSONAL_TEST)
        )
        shared, personal = (_figures(config, clinic, each) for each in made)
        found.append(PersonalHead(clinic, shared, personal))
    return tuple(found)


def _figures(config: RunConfig, clinic: str, made: Predictions) -> Mapping[str, Estimate]:
    # Both sides draw the same resamples of the clinic's patients.
    stream = Seeds(config.seed).stream(f"personal heads/{clinic}")
    overall, _ = evaluate_groups(made, threshold=None, settings=config.fairness, rng=stream)
    return overall.estimates
