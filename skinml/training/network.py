"""End-to-end training by DP-SGD, in one of two ways that the trust model decides.

Where each clinic adds its own noise in full (trust local, or none at all), it takes several local
steps a round and the coordinator averages the weights: every clinic has the same weight, for a
weight by cohort size would publish the size. Where the noise is shared between the clinics or is
the coordinator's (distributed, central), a round is one global step: each clinic's sum of clipped
gradients leaves it, and the coordinator divides the total by a public number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from skinml.models.allocator import keep_freed_memory
from skinml.models.networks import input_tensor, load_network_arrays, network_arrays
from skinml.privacy.dpsgd import StepPlan, clipped_sum, train_steps
from skinml.privacy.dpsgd_sampling import Sampled, draw_sample, rows_by_patient
from skinml.privacy.gradient_modes import trained
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.network_checks import require_isolated, require_supported
from skinml.privacy.plan import Release, sampled_releases
from skinml.privacy.quantise import GRID
from skinml.privacy.remembered_modes import remembered_mode
from skinml.privacy.settings import PrivacySettings
from skinml.records import Arrays, FloatArray, Samples
from skinml.training.augment import random_views
from skinml.training.group_weights import GroupBalance, shares_by_patient
from skinml.training.learner import Round
from skinml.training.server_optimisers import (
    ServerOptimiser,
    optimised,
    with_moments,
    without_moments,
)
from skinml.training.settings import NetworkSettings
from skinml.training.step_rules import ONE_STEP, require_fitting_steps

LOCAL_STEPS = "local_steps"
GLOBAL_STEP = "global_step"
WEIGHTS = "weights"
GRADIENT = "gradient"


class NetworkLearner:
    """Trains a network by local DP-SGD and equal averaging, or by one global step a round.

    Args:
        settings: The recipe.
        privacy: Budget, clip and trust model.
        build: Builds the network with the run's initial weights.
        optimiser: Turns the clinics' common move into the coordinator's step; None takes it as
            it is.
        proximal_mu: Pull of local steps back to the weights of the round, see
            `skinml.privacy.dpsgd.StepPlan`.
        balance: Public factors of groups, by which a patient's rate is lower than
            settings.sampling_prob; None: all have that rate.

    Raises:
        ConfigError: If the trust model needs one step a round and the recipe has more; or, under
            it, a gradient mode in which patients share their rounding.
        UnsupportedModelError: If the network mixes or remembers samples.

    Guarantees:
        What leaves a clinic is the outcome of Poisson-sampled Gaussian steps on clipped gradients
        of patients and costs what the round's release says, which names the largest of their
        rates. Amplification by sampling rests on
        samples that only the clinic knows; which clinics take part is never counted as sampling.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        privacy: PrivacySettings,
        build: Callable[[], nn.Module],
        optimiser: ServerOptimiser | None = None,
        proximal_mu: float = 0.0,
        balance: GroupBalance | None = None,
    ) -> None:
        self._balance = balance
        self._settings = settings
        self._optimiser = optimiser
        self._proximal_mu = proximal_mu
        self._privacy = privacy
        self._build = build
        require_fitting_steps(settings, privacy.trust)
        self._global = privacy.trust in ONE_STEP
        network = build()
        require_supported(network)
        self._names = tuple(trained(network))
        self._modes: dict[tuple[int, ...], str] = {}
        self.rounds = self._plan(network_arrays(network))

    def _plan(self, arrays: Arrays) -> tuple[Round, ...]:
        settings, privacy = self._settings, self._privacy
        names = self._names if self._global else tuple(arrays)
        release = Release(
            GRADIENT if self._global else WEIGHTS,
            "training",
            "train",
            privacy.clip_norm,
            0.0,
            (sum(arrays[name].size for name in names),),
            sampling_prob=settings.sampling_prob,
            steps=settings.steps_per_round,
            grid=GRID if self._global else 0.0,
        )
        planned = sampled_releases(privacy, release, settings.rounds)
        kind = GLOBAL_STEP if self._global else LOCAL_STEPS
        return tuple(Round(number, kind, (planned,)) for number in range(1, settings.rounds + 1))

    def start(self) -> Arrays:
        """Make the initial weights.

        Returns:
            The network's arrays by name, and the moments of an optimiser.
        """
        arrays = network_arrays(self._build())
        if self._optimiser is None:
            return arrays
        return with_moments(self._optimiser, arrays, self._names)

    def query(self, round_: Round, state: Arrays) -> Arrays:
        """Send the current weights.

        Args:
            round_: The round.
            state: The coordinator's state.

        Returns:
            The network's arrays.
        """
        del round_
        return without_moments(state)

    def contributor(self, samples: Samples) -> NetworkContributor:
        """Open a clinic's side.

        Args:
            samples: Training images (n, height, width, 3) of uint8.

        Returns:
            The clinic's side.

        Raises:
            ConfigError: If rates of groups would not be public.
            UnsupportedModelError: If the network mixes images of a batch.
        """
        keep_freed_memory()  # each step takes the memory of the one before it
        images = input_tensor(samples.inputs)
        network = self._build()
        require_isolated(network, images.shape[1:])
        plan = StepPlan(
            steps=self._settings.steps_per_round,
            sampling_prob=self._settings.sampling_prob,
            divisor=self._settings.sampling_prob * self._settings.expected_patients,
            clip_norm=self._privacy.clip_norm / self._privacy.max_clinics_per_patient,
            noise_multiplier=0.0,
            learning_rate=self._settings.learning_rate,
            max_images=self._settings.max_images_per_patient,
            augmentations=self._settings.augmentations,
            loss=self._settings.loss,
            mode=self._mode(network, images.shape[1:]),
            grid=self._global,
            proximal_mu=self._proximal_mu,
        )
        shares = None if self._balance is None else shares_by_patient(samples, self._balance)
        return NetworkContributor(network, images, samples, plan, shares)

    def _mode(self, network: nn.Module, image_shape: tuple[int, ...]) -> str:
        """Choose how sums are computed, once for each shape of images."""
        settings = self._settings
        if self._global:
            return "alone"
        if settings.gradient_mode != "auto":
            return settings.gradient_mode
        if not self._privacy.private:
            return "hooks"
        if image_shape not in self._modes:
            views = max(settings.augmentations, 1)
            self._modes[image_shape] = remembered_mode(network, image_shape, settings.loss, views)
        return self._modes[image_shape]

    def advance(self, round_: Round, state: Arrays, total: Arrays, num_clinics: int) -> Arrays:
        """Average the clinics' weights, or take one step along the sum of their gradients.

        Args:
            round_: The round.
            state: The coordinator's state before the round.
            total: Sums over the clinics of their flat weights under "weights", or of their
                clipped gradients under "gradient".
            num_clinics: How many clinics are in the sums.

        Returns:
            The next state.
        """
        arrays = without_moments(state)
        if round_.kind == LOCAL_STEPS:
            averaged = total[WEIGHTS] / num_clinics
            if self._optimiser is None:
                return unflatten(averaged, arrays)
            return self._optimised(self._optimiser, state, averaged - flatten(arrays), arrays)
        settings = self._settings
        divisor = settings.sampling_prob * settings.expected_patients * num_clinics
        old = {name: state[name] for name in self._names}
        step = total[GRADIENT] * (settings.learning_rate / divisor)
        if self._optimiser is None:
            return dict(state) | dict(unflatten(flatten(old) - step, old))
        return self._optimised(self._optimiser, state, -step, old)

    def _optimised(
        self, optimiser: ServerOptimiser, state: Arrays, move: FloatArray, like: Arrays
    ) -> Arrays:
        """Let the optimiser choose how far to follow the clinics' flat move."""
        exact = {name: values.astype(np.float64) for name, values in like.items()}
        moves = unflatten(move.ravel().astype(np.float64), exact)
        return dict(state) | optimised(optimiser, state, {n: moves[n] for n in self._names})

    def model(self, state: Arrays) -> Arrays:
        """Read the network from the final state.

        Args:
            state: The coordinator's state.

        Returns:
            The network's arrays.
        """
        return without_moments(state)


class NetworkContributor:
    """A clinic's side of end-to-end training; between rounds it keeps its samples, and
    who gave no finite numbers in the last one.

    Args:
        network: A network of the run's kind; its weights are changed.
        images: (n, channels, height, width) training images.
        samples: Their labels and patients.
        plan: The public schedule of a round, its noise left open.
        shares: Each patient's part of the plan's sampling probability; None: all of it.
    """

    def __init__(
        self,
        network: nn.Module,
        images: torch.Tensor,
        samples: Samples,
        plan: StepPlan,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self._shares = shares
        self._network = network
        self._images = images
        self._labels = torch.from_numpy(samples.labels.astype(np.int64))
        self._patients = samples.patients
        self._plan = plan
        self._left_out: set[str] = set()

    @property
    def not_finite(self) -> int:
        """Patients with a gradient in the last contribution that was NaN or infinite.

        One patient counts once, in however many steps. For the clinic's own log, never to leave it.
        """
        return len(self._left_out)

    def _leave_out(self, one: Sampled) -> None:
        self._left_out.add(str(self._patients[one.rows[0]]))

    def contribute(
        self, round_: Round, query: Arrays, mechanism: Mechanism, sampling: np.random.Generator
    ) -> Arrays:
        """Take the round's local steps, or sum up the gradients of one global step.

        Args:
            round_: The round.
            query: The network's arrays.
            mechanism: This clinic's part of the noise.
            sampling: The clinic's secret stream for sampling patients.

        Returns:
            The network's flat weights after the steps under "weights", or the noisy sum of
            clipped gradients under "gradient".
        """
        (release,) = round_.releases
        # Each patient's draw is keyed by this, the step and the patient's id.
        secret = sampling.bytes(32)
        if round_.kind == GLOBAL_STEP:
            return {GRADIENT: mechanism.privatize(release, self.exact(query, secret))}
        self._left_out.clear()
        load_network_arrays(self._network, query)
        train_steps(
            self._network,
            self._images,
            self._labels,
            self._patients,
            # With the clip split over k clinics the noise keeps its size, not its multiple.
            replace(self._plan, noise_multiplier=mechanism.std(release) / self._plan.clip_norm),
            secret,
            mechanism.open_source(),
            random_views,
            self._leave_out,
            self._shares,
        )
        return {WEIGHTS: flatten(network_arrays(self._network))}

    def exact(self, query: Arrays, secret: bytes) -> FloatArray:
        """Compute the clipped sum of one step without noise: it never leaves the clinic.

        Args:
            query: The network's arrays.
            secret: The clinic's secret for sampling, fresh for each release.

        Returns:
            (size,) the sum, of multiples of the grid where the noise is shared or central.
        """
        self._left_out.clear()
        load_network_arrays(self._network, query)
        sample = draw_sample(
            rows_by_patient(self._patients),
            secret=secret,
            step=0,
            sampling_prob=self._plan.sampling_prob,
            max_images=self._plan.max_images,
            shares=self._shares,
        )
        return clipped_sum(
            self._network,
            self._images,
            self._labels,
            sample,
            self._plan,
            random_views,
            self._leave_out,
        )


def flatten(arrays: Arrays) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Put arrays behind one another in the order of their names.

    Args:
        arrays: Named arrays.

    Returns:
        (total size,) float64.
    """
    return np.concatenate([arrays[name].ravel().astype(np.float64) for name in sorted(arrays)])


def unflatten(flat: np.ndarray[tuple[int], np.dtype[np.float64]], like: Arrays) -> Arrays:
    """Undo `flatten`.

    Args:
        flat: (total size,) values.
        like: Arrays of the wanted names, shapes and types.

    Returns:
        New arrays.
    """
    result, start = {}, 0
    for name in sorted(like):
        old = like[name]
        result[name] = flat[start : start + old.size].reshape(old.shape).astype(old.dtype)
        start += old.size
    return result
