"""The simulation's own code with noise that a test fixed: what a deployed run is held against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Event

from skinml.config import RunConfig
from skinml.experiments.cohorts import gather
from skinml.experiments.learners import build_learner, validation_release
from skinml.experiments.progress import Silence
from skinml.experiments.resuming import Checkpoints
from skinml.experiments.rounds import Trained, train
from skinml.experiments.samples import grounds_by_split, prepare_samples, store_samples
from skinml.experiments.sites import Terms, clinic_setup
from skinml.experiments.workspace import Workspace
from skinml.federated.client_app import client_app
from skinml.federated.clinic import Clinic
from skinml.federated.coordinator import grid_asker
from skinml.federated.local_grid import LocalGrid
from skinml.federated.roll_call import Ask, Record, RunTerms
from tests.deployment.local_federation import with_fixed_noise

RUN = "reference-20260301-093000-1f2e"


def simulated(config: RunConfig, place: Path) -> Trained:
    """Train by a config on virtual clinics, each with its name's noise.

    Args:
        config: As the deployed run has it, but with a manifest of all clinics' rows.
        place: The working folder.
    """
    workspace, silence = Workspace(place), Silence()
    gathered = gather(config, workspace, RUN, silence)
    samples, _ = prepare_samples(config, gathered, silence)
    for name, folder in gathered.folders.items():
        mine = gathered.places == name
        grounds = grounds_by_split(gathered.cohort, mine, config.purpose, folder.policy.licences)
        store_samples(folder, RUN, samples[name], grounds)
    masked = config.privacy.trust == "distributed"
    keys = tuple((name, f.identity.public_key) for name, f in gathered.folders.items())
    terms = Terms(
        run=RUN,
        config=config.model_dump_json(),
        clinics=tuple(gathered.folders),
        clinics_root=str(workspace.clinics.resolve()),
        classes=gathered.cohort.labels,
        num_features=next(iter(samples.values()))["train"].inputs.shape[1],
        registered=keys if masked else (),
    )

    def open_clinic(node: Mapping[str, object]) -> Clinic:
        return Clinic(with_fixed_noise(clinic_setup(terms, node)))

    def reach(held_to: RunTerms) -> Ask:
        nodes = [{"partition-id": number} for number in range(len(terms.clinics))]
        return grid_asker(LocalGrid(client_app(open_clinic), nodes), held_to, Event())

    learner = build_learner(config, terms.classes, terms.num_features, len(terms.clinics))
    draft = place / "draft"
    draft.mkdir()
    checkpoints = Checkpoints(draft, RUN, learner.rounds, Record())
    validation = validation_release(config)
    return train(
        config, terms, learner, validation, checkpoints, lambda number, figures: None, reach=reach
    )
