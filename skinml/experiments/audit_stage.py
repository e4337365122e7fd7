"""Drawn patients at clinics in memory: where canaries are planted.

The clinics are the real ones, with real ledgers in a folder that is thrown away; only their
patients are made. So an audit of a mechanism reads no patient's data and costs nobody anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skinml.config import RunConfig
from skinml.errors import IncompleteRunError
from skinml.experiments.learners import (
    clinic_mechanism,
    coordinator_mechanism,
    split_key_id,
    validation_release,
)
from skinml.federated.clinic import Clinic, ClinicSetup
from skinml.federated.messages import Request
from skinml.privacy.ledger import Ceilings, Ledger, spent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import NoiseSource, fixed_noise
from skinml.privacy.settings import BudgetSettings
from skinml.records import Arrays, FloatArray, Predictions, Samples
from skinml.seeding import Seeds
from skinml.training.learner import Learner, Round

RUN = "canaries"
_SILENCE = Mechanism(0.0, lambda: fixed_noise(np.random.default_rng(0)))
Tamper = Callable[[ClinicSetup], ClinicSetup]
"""What a test changes in every clinic, to see whether the audit notices."""


@dataclass(frozen=True)
class Seen:
    """What an attacker sees of one round.

    Attributes:
        sums: What was released, by name.
        known: What everybody but the canaries added to it, exactly.
    """

    sums: Arrays
    known: Arrays


class Stage:
    """A run at clinics in memory, round by round, with the attacker beside it.

    The first clinic holds the canaries. The attacker sees its own release under local noise,
    otherwise the sum of the clinics whose noise the attacker does not know: without dropouts and
    colluding clinics.

    Args:
        config: The run's config.
        learner: Its recipe.
        others: Training samples of those who are known, by clinic, at least as many clinics as
            `num_clinics` says.
        canaries: Training samples of the canaries that are in.
        folder: An empty folder for the ledgers.
        open_source: Opens the noise of a release.
        tamper: Plants a fault in every clinic.

    Attributes:
        recipe: The recipe that the first clinic follows, with whatever fault was planted.
    """

    def __init__(
        self,
        config: RunConfig,
        learner: Learner,
        others: Sequence[Samples],
        canaries: Samples,
        folder: Path,
        open_source: Callable[[], NoiseSource],
        tamper: Tamper | None,
    ) -> None:
        self._config = config
        names = tuple(f"clinic-{number}" for number in range(1, len(others) + 1))
        self._names = names
        self._honest = names[: len(names) - _lost(config)]
        self._coordinator = replace(
            coordinator_mechanism(config, len(names)), open_source=open_source
        )
        mechanism = replace(clinic_mechanism(config, len(names)), open_source=open_source)
        self._clinics: dict[str, Clinic] = {}
        self._shadows: dict[str, Clinic] = {}
        self._ledgers: dict[str, Ledger] = {}
        for name, known in zip(names, others, strict=True):
            own = joined(known, canaries) if name == names[0] else known
            path = folder / f"{name}.jsonl"
            setup = _setup(config, learner, name, names, own, path, mechanism)
            setup = tamper(setup) if tamper else setup
            self._ledgers[name] = setup.ledger
            self._clinics[name] = Clinic(setup)
            # The same without noise and canaries: what the attacker knows already.
            path = folder / f"{name}-known.jsonl"
            shadow = _setup(config, learner, name, names, known, path, _SILENCE)
            shadow = tamper(shadow) if tamper else shadow
            self._shadows[name] = Clinic(replace(shadow, mechanism=_SILENCE))
            if name == names[0]:
                self.recipe = setup.learner

    @property
    def epsilon(self) -> float:
        """What the first clinic's ledger says that its training patients lost so far."""
        entries = self._ledgers[self._names[0]].entries()
        # Whether a test fixed the noise or not: what counts is how much of it there is.
        charged = [replace(entry, guarantee=True) for entry in entries]
        return spent(charged, self._config.privacy.delta)

    def run(self, round_: Round, query: Arrays) -> Arrays:
        """Do one round that nobody watches.

        Args:
            round_: The round.
            query: What the coordinator sends.

        Returns:
            The total that the coordinator works with.
        """
        return self._run(round_, query, {})

    def exchange(self, round_: Round, query: Arrays) -> tuple[Arrays, Seen]:
        """Do one round under the attacker's eyes.

        Args:
            round_: The round.
            query: What the coordinator sends.

        Returns:
            The total that the coordinator works with, and what the attacker sees.
        """
        replies: dict[str, Arrays] = {}
        total = self._run(round_, query, replies)
        request = Request(RUN, round_.number, 1, self._names, query)
        watched = self._names[:1] if self._config.privacy.trust == "local" else self._honest
        known = [self._shadows[name].answer(request) for name in watched]
        sums = total
        if self._config.privacy.trust != "central":
            sums = _added([replies[name] for name in watched])
        return total, Seen(sums, _added(known))

    def _run(self, round_: Round, query: Arrays, replies: dict[str, Arrays]) -> Arrays:
        request = Request(RUN, round_.number, 1, self._names, query)
        for name, clinic in self._clinics.items():
            replies[name] = clinic.answer(request)
        exact = _added([replies[name] for name in self._names])
        return {
            release.name: self._coordinator.privatize(release, exact[release.name])
            for release in round_.releases
        }


def num_clinics(config: RunConfig) -> int:
    """Count the clinics of a stage: two, and those whose noise is not there or is known.

    Args:
        config: The run's config.

    Returns:
        The number of clinics.
    """
    return 2 + _lost(config)


def without_budget(config: RunConfig) -> RunConfig:
    """Take the ceilings out of a config: a stage's ledgers begin empty and are thrown away.

    Args:
        config: The config.

    Returns:
        The same without ceilings.
    """
    budget = BudgetSettings(epsilon=None, epsilon_per_year=None)
    privacy = config.privacy.model_copy(update={"budget": budget, "admissions_share": 0.0})
    return config.model_copy(update={"privacy": privacy})


def joined(*parts: Samples) -> Samples:
    """Put samples behind one another, without their groups.

    Args:
        *parts: Samples of one shape.

    Returns:
        All of them.
    """
    return Samples(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.patients for part in parts]),
    )


def named(prefix: str, inputs: NDArray[np.generic], labels: NDArray[np.int64]) -> Samples:
    """Make patients of one item each.

    Args:
        prefix: What their ids begin with.
        inputs: (n, ...) their items.
        labels: (n,) their classes.

    Returns:
        The samples.
    """
    ids = np.array([f"{prefix}-{number:06d}" for number in range(len(labels))])
    return Samples(inputs, labels, ids)


def _lost(config: RunConfig) -> int:
    return config.privacy.tolerated_dropouts + config.privacy.colluding_clinics


def _added(parts: Sequence[Arrays]) -> dict[str, FloatArray]:
    return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}


def _setup(
    config: RunConfig,
    learner: Learner,
    name: str,
    names: tuple[str, ...],
    samples: Samples,
    ledger: Path,
    mechanism: Mechanism,
) -> ClinicSetup:
    return ClinicSetup(
        name=name,
        run=RUN,
        participants=names,
        learner=learner,
        validation=validation_release(config),
        samples={"train": samples},
        predict=_no_predictions,
        keep=_keep_nothing,
        admitted=lambda split: np.ones(len(samples), dtype=bool),
        note=lambda entries, masks: None,
        ledger=Ledger(ledger, name, bytes(32)),
        ceilings=Ceilings,
        least_patients=0,
        mechanism=mechanism,
        privacy=config.privacy,
        split_key_id=split_key_id(config.data),
        sampling_root=Seeds(config.seed).integer(f"audit/sampling/{name}"),
        simulated=True,
    )


def _no_predictions(model: Arrays, samples: Samples) -> Predictions:
    del model, samples
    raise IncompleteRunError(
        rule="training rounds only", got="the round of validation", do="Ask for training rounds."
    )


def _keep_nothing(split: str, predictions: Predictions) -> None:
    """Keep nothing."""
