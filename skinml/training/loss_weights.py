"""q-FedAvg: each clinic weighs its own part by its loss, and says how much weight that was.

The coordinator gets sums alone, as from every recipe: that of the weighted parts, and three numbers
that turn it into a step. The paper's devices send the same, put together already. A loss is a
figure of patients that no clip bounds, and it multiplies all of a clinic's part: one patient may
change that without bound. So both releases are unprotected, and only a run that promises nothing
may make them.

Of clinic k at the round's weights w: loss F_k, descent direction g_k (the mean gradient of its
patients, or its local steps' way divided by the step), unit u_k (its number of patients, or 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import torch
from torch import nn

from skinml.errors import ConfigError, IntegrityError
from skinml.models.linear_head import head_inputs, softmax
from skinml.models.networks import input_tensor, load_network_arrays
from skinml.privacy.clipping import mean_by_patient, modal_labels
from skinml.privacy.losses import LOSSES, image_losses
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release
from skinml.privacy.settings import PrivacySettings
from skinml.records import Arrays, FloatArray, Labels, Samples
from skinml.training.head import HeadLearner
from skinml.training.head_clinic import GRADIENT
from skinml.training.learner import Contributor, Learner, Round
from skinml.training.network import LOCAL_STEPS, WEIGHTS, NetworkLearner, flatten
from skinml.training.settings import HeadSettings, NetworkSettings

LOSS_WEIGHTS = "loss_weights"
WEIGHTED_STEPS = "weighted_steps"
_LEAST_LOSS = 1e-10  # as Flower's class has it: no power of zero is taken
_IMAGES_AT_ONCE = 64

LossesAt = Callable[[Arrays], FloatArray]
"""From a round's query to the loss of each patient of one clinic."""


@dataclass(frozen=True)
class Weighing:
    """What q-FedAvg has to know of a recipe.

    Attributes:
        name: The release whose sum is weighted.
        losses: From a clinic's training samples to their losses at a query.
        step: From the coordinator's state to the step eta along a mean gradient; 1 / eta is the
            paper's L.
        divisor: Of a clinic's array, for each unit: what is left is its mean gradient.
    """

    name: str
    losses: Callable[[Samples], LossesAt]
    step: Callable[[Arrays], float]
    divisor: float


class LossWeightedLearner:
    """A recipe whose rounds of training weigh each clinic by the q-th power of its loss.

    Args:
        recipe: The recipe. Everything but the weights is its own: rounds, momentum, average.
        weighing: What has to be known of it.
        q: 0 weighs clinics as the recipe does; the larger, the more the worst clinic counts.

    Guarantees:
        None of privacy. With q = 0 every state is the recipe's own, up to rounding of local steps.

    Source:
        Li et al. 2020, arXiv:1905.10497, Algorithm 2, with u_k in the place of drawing clinics in
        proportion to their patients; all clinics take part.
    """

    def __init__(self, recipe: Learner, weighing: Weighing, q: float) -> None:
        self._recipe, self._weighing, self._q = recipe, weighing, q
        self.rounds = tuple(self._told(round_) for round_ in recipe.rounds)

    def _told(self, round_: Round) -> Round:
        """Add the release of the weights, and say that nothing bounds what one patient changes."""
        if not _weighted(round_, self._weighing.name):
            return round_
        sums = tuple(replace(each, sensitivity=inf, grid=0.0) for each in round_.releases)
        weights = Release(LOSS_WEIGHTS, "losses", "train", inf, 0.0, (3,))
        kind = WEIGHTED_STEPS if round_.kind == LOCAL_STEPS else round_.kind
        return Round(round_.number, kind, (*sums, weights))

    def start(self) -> Arrays:
        """Make the recipe's state before the first round.

        Returns:
            The recipe's arrays.
        """
        return self._recipe.start()

    def query(self, round_: Round, state: Arrays) -> Arrays:
        """Choose what the clinics are sent.

        Args:
            round_: The round.
            state: The coordinator's state.

        Returns:
            The recipe's query.
        """
        return self._recipe.query(self._own(round_), state)

    def contributor(self, samples: Samples) -> LossWeightedContributor:
        """Open a clinic's side.

        Args:
            samples: The clinic's training samples.

        Returns:
            The clinic's side.
        """
        return LossWeightedContributor(
            self._recipe.contributor(samples),
            self._recipe.rounds,
            self._weighing,
            self._weighing.losses(samples),
            self._q,
        )

    def advance(self, round_: Round, state: Arrays, total: Arrays, num_clinics: int) -> Arrays:
        """Take the step of q-FedAvg, by giving the recipe the sum that leads it there.

        Args:
            round_: The round.
            state: The coordinator's state.
            total: Sums over the clinics under the releases' names.
            num_clinics: How many clinics are in the sums.

        Returns:
            The recipe's next state.

        Raises:
            IntegrityError: If the clinics' weights add up to less than nothing.
        """
        own, name = self._own(round_), self._weighing.name
        if not _weighted(own, name):
            return self._recipe.advance(own, state, total, num_clinics)
        units, powers, lengths = total[LOSS_WEIGHTS].tolist()
        h = powers + self._weighing.step(state) * lengths
        if min(units, powers, lengths) < 0:
            raise IntegrityError(
                rule=f"sums of zero or more in '{LOSS_WEIGHTS}'",
                got="a negative one",
                do="Run the same release of skinml at the coordinator and at every clinic.",
            )
        summed = total[name] * (units / h if h > 0 else 0.0)
        if own.kind == LOCAL_STEPS:
            # The recipe's sum is that of the weights themselves.
            summed = summed + num_clinics * flatten(self._recipe.query(own, state))
        return self._recipe.advance(own, state, {name: summed}, num_clinics)

    def model(self, state: Arrays) -> Arrays:
        """Read the model from the final state.

        Args:
            state: The coordinator's state.

        Returns:
            The recipe's model.
        """
        return self._recipe.model(state)

    def _own(self, round_: Round) -> Round:
        return self._recipe.rounds[round_.number - 1]


class LossWeightedContributor:
    """A clinic's side of q-FedAvg.

    Args:
        contributor: The clinic's side of the recipe.
        rounds: The recipe's own rounds.
        weighing: What has to be known of the recipe.
        losses: The losses of the clinic's patients at a query.
        q: The power.
    """

    def __init__(
        self,
        contributor: Contributor,
        rounds: tuple[Round, ...],
        weighing: Weighing,
        losses: LossesAt,
        q: float,
    ) -> None:
        self._contributor, self._rounds = contributor, rounds
        self._weighing, self._losses, self._q = weighing, losses, q

    @property
    def not_finite(self) -> int:
        """Patients whose part of the recipe's sums was not finite and became zeros."""
        return self._contributor.not_finite

    def contribute(
        self, round_: Round, query: Arrays, mechanism: Mechanism, sampling: np.random.Generator
    ) -> Arrays:
        """Compute the recipe's sums, and in rounds of training weigh them.

        Args:
            round_: The round.
            query: What the coordinator sent.
            mechanism: Adds nothing, for the run promises nothing.
            sampling: The clinic's secret stream for sampling patients.

        Returns:
            One array for each release: the sum times F^q, and u, u F^q and u q F^(q-1) ||g||^2.
            Patients whose loss is not finite are in no mean of losses.
        """
        own, name = self._rounds[round_.number - 1], self._weighing.name
        sums = self._contributor.contribute(own, query, mechanism, sampling)
        if not _weighted(own, name):
            return sums
        losses = self._losses(query)
        losses = losses[np.isfinite(losses)]
        loss = _LEAST_LOSS + (float(losses.mean()) if len(losses) else 0.0)
        moved, unit = sums[name], float(len(losses))
        if own.kind == LOCAL_STEPS:
            moved, unit = moved - flatten(query), 1.0
        direction = moved / (self._weighing.divisor * max(unit, 1.0))
        length = self._q * loss ** (self._q - 1) * float(np.square(direction).sum())
        power = loss**self._q
        return {name: power * moved, LOSS_WEIGHTS: unit * np.array([1.0, power, length])}


def _weighted(round_: Round, name: str) -> bool:
    return any(release.name == name for release in round_.releases)


def loss_weighted_head(
    recipe: HeadLearner,
    settings: HeadSettings,
    privacy: PrivacySettings,
    classes: Labels,
    q: float,
) -> LossWeightedLearner:
    """Weigh the gradients of a linear head.

    Args:
        recipe: The recipe of the head.
        settings: Its settings.
        privacy: Its clip; trust "none".
        classes: What the head tells apart.
        q: The power, zero or above.

    Returns:
        The recipe with weights. A clinic's unit is its number of patients, as in the plain sum.

    Raises:
        ConfigError: If the run promises privacy.
    """
    _require_no_promise(privacy)

    def losses(samples: Samples) -> LossesAt:
        features, position = mean_by_patient(samples.inputs, samples.patients)
        labels = modal_labels(samples.labels, position, np.asarray(classes.malignant, dtype=bool))
        finite = np.isfinite(features).all(axis=1)
        features, labels = features[finite], labels[finite]

        def at(query: Arrays) -> FloatArray:
            inputs = head_inputs(features, query["centre"], settings.bias_input)
            logits = inputs.astype(np.float64) @ query["weight"] + query["offset"]
            chances = softmax(logits)[np.arange(len(labels)), labels]
            # Below the least positive number the logarithm would say that the loss is infinite.
            return np.asarray(-np.log(np.maximum(chances, np.finfo(np.float64).tiny)))

        return at

    def step(state: Arrays) -> float:
        return recipe.learning_rate(float(state["patients"][0])) / privacy.clip_norm

    share = 1 / privacy.max_clinics_per_patient
    return LossWeightedLearner(recipe, Weighing(GRADIENT, losses, step, share), q)


def loss_weighted_network(
    recipe: NetworkLearner,
    settings: NetworkSettings,
    privacy: PrivacySettings,
    build: Callable[[], nn.Module],
    q: float,
) -> LossWeightedLearner:
    """Weigh the clinics' local steps in a network.

    Args:
        recipe: The recipe of the network.
        settings: Its settings.
        privacy: Trust "none".
        build: Builds the network.
        q: The power, zero or above.

    Returns:
        The recipe with weights. Each clinic's unit is 1, as in the plain mean; F_k is the mean
        over all its patients of the mean loss of a patient's images.

    Raises:
        ConfigError: If the run promises privacy.
    """
    _require_no_promise(privacy)
    loss = LOSSES[settings.loss]

    def losses(samples: Samples) -> LossesAt:
        images, network = input_tensor(samples.inputs), build()
        targets = torch.from_numpy(samples.labels.astype(np.int64))

        @torch.no_grad()
        def at(query: Arrays) -> FloatArray:
            load_network_arrays(network, query)
            by_image = np.zeros(len(targets))
            for start in range(0, len(targets), _IMAGES_AT_ONCE):
                some = slice(start, start + _IMAGES_AT_ONCE)
                by_image[some] = image_losses(loss, network(images[some]), targets[some]).numpy()
            return mean_by_patient(by_image[:, None], samples.patients)[0][:, 0]

        return at

    def step(state: Arrays) -> float:
        del state
        return settings.learning_rate

    divisor = settings.learning_rate
    return LossWeightedLearner(recipe, Weighing(WEIGHTS, losses, step, divisor), q)


def _require_no_promise(privacy: PrivacySettings) -> None:
    if privacy.private:
        raise ConfigError(
            rule="privacy.trust=none where clinics are weighed by their losses",
            got=f"privacy.trust={privacy.trust}",
            do="Choose another strategy: no clip bounds what one patient changes here.",
        )
