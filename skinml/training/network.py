"""End-to-end training: each clinic takes noisy local steps, the coordinator averages weights.

The average gives every clinic the same weight: a weight by cohort size would publish the size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from skinml.errors import ConfigError
from skinml.models.networks import input_tensor, load_network_arrays, network_arrays
from skinml.privacy.dpsgd import StepPlan, require_supported, train_steps
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release, sampled_releases
from skinml.privacy.settings import PrivacySettings
from skinml.records import Arrays, Samples
from skinml.training.learner import Round
from skinml.training.settings import NetworkSettings

LOCAL_STEPS = "local_steps"
WEIGHTS = "weights"


class NetworkLearner:
    """Trains a network by local DP-SGD and equal averaging.

    Args:
        settings: The recipe.
        privacy: Budget, clip and trust model ("local" or "none").
        build: Builds the network with the run's initial weights.

    Raises:
        ConfigError: If the trust model needs sums of clipped gradients, which local steps hide.
        UnsupportedModelError: If the network normalises over the batch.

    Guarantees:
        A clinic's weights after a round are the outcome of Poisson-sampled Gaussian steps on
        clipped patient gradients: what leaves the clinic costs what the round's release says.
    """

    def __init__(
        self, settings: NetworkSettings, privacy: PrivacySettings, build: Callable[[], nn.Module]
    ) -> None:
        if privacy.trust not in ("none", "local"):
            raise ConfigError(
                rule="privacy.trust=local (or none) for end-to-end training",
                got=f"privacy.trust={privacy.trust}",
                do="Set privacy.trust=local: each clinic adds its own noise at every step.",
            )
        self._settings = settings
        self._privacy = privacy
        self._build = build
        network = build()
        require_supported(network)
        size = sum(array.size for array in network_arrays(network).values())
        release = Release(
            WEIGHTS,
            "training",
            "train",
            privacy.clip_norm,
            0.0,
            (size,),
            sampling_prob=settings.sampling_prob,
            steps=settings.steps_per_round,
        )
        planned = sampled_releases(privacy, release, settings.rounds)
        self.rounds = tuple(
            Round(number, LOCAL_STEPS, (planned,)) for number in range(1, settings.rounds + 1)
        )

    def start(self) -> Arrays:
        """Make the initial weights.

        Returns:
            The network's arrays by name.
        """
        return network_arrays(self._build())

    def query(self, round_: Round, state: Arrays) -> Arrays:
        """Send the current weights.

        Args:
            round_: The round.
            state: The network's arrays.

        Returns:
            The same arrays.
        """
        del round_
        return state

    def contributor(self, samples: Samples) -> NetworkContributor:
        """Open a clinic's side.

        Args:
            samples: Training images (n, height, width, 3) of uint8.

        Returns:
            The clinic's side.
        """
        clip = self._privacy.clip_norm / self._privacy.max_clinics_per_patient
        return NetworkContributor(samples, self._settings, clip, self._build)

    def advance(self, round_: Round, state: Arrays, total: Arrays, num_clinics: int) -> Arrays:
        """Average the clinics' weights.

        Args:
            round_: The round.
            state: The network's arrays before the round.
            total: Sums over the clinics of their flat weights under "weights".
            num_clinics: How many clinics are in the sums.

        Returns:
            The averaged arrays.
        """
        del round_
        return unflatten(total[WEIGHTS] / num_clinics, state)

    def model(self, state: Arrays) -> Arrays:
        """Read the network from the final state.

        Args:
            state: The network's arrays.

        Returns:
            The same arrays.
        """
        return state


class NetworkContributor:
    """A clinic's side of end-to-end training.

    Args:
        samples: Training images.
        settings: The recipe.
        clip_norm: Greatest norm of one patient's averaged gradient at this clinic.
        build: Builds the network.
    """

    def __init__(
        self,
        samples: Samples,
        settings: NetworkSettings,
        clip_norm: float,
        build: Callable[[], nn.Module],
    ) -> None:
        self._images = input_tensor(samples.inputs)
        self._labels = torch.from_numpy(samples.labels.astype(np.int64))
        self._patients = samples.patients
        self._settings = settings
        self._clip_norm = clip_norm
        self._network = build()

    def contribute(
        self, round_: Round, query: Arrays, mechanism: Mechanism, sampling: np.random.Generator
    ) -> Arrays:
        """Take the round's local steps.

        Args:
            round_: The round.
            query: The network's arrays.
            mechanism: This clinic's part of the noise, in full or not at all.
            sampling: The clinic's secret stream for sampling patients.

        Returns:
            The network's flat weights after the steps under "weights".
        """
        (release,) = round_.releases
        load_network_arrays(self._network, query)
        plan = StepPlan(
            steps=release.steps,
            sampling_prob=release.sampling_prob,
            divisor=release.sampling_prob * self._settings.expected_patients,
            clip_norm=self._clip_norm,
            # With the clip split over k clinics the noise keeps its size, not its multiple.
            noise_multiplier=mechanism.std(release) / self._clip_norm,
            learning_rate=self._settings.learning_rate,
            max_images=self._settings.max_images_per_patient,
        )
        self._network.train()
        train_steps(
            self._network,
            self._images,
            self._labels,
            self._patients,
            plan,
            # Each patient's draw is keyed by this, the step and the patient's id.
            sampling.bytes(32),
            mechanism.open_source(),
        )
        return {WEIGHTS: flatten(network_arrays(self._network))}


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
