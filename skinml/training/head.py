"""The linear head: centred, patient-clipped gradient descent with a prior offset.

The first round releases the label counts and the sum of the patients' features; each later round
one clipped gradient sum. The recipe "prototypes" has a single later round, the sum of each class.
Public images, where a recipe has them, are used by the coordinator alone, on sums that already
have their noise. There is no sampling: with cached features all patients cost little, and
no sampler can then disagree with the accountant.

Shapes in this file: p patients, d features, k classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np

from skinml.errors import ConfigError
from skinml.privacy.accounting import gaussian_mu_for
from skinml.privacy.plan import Release, gaussian_releases
from skinml.privacy.quantise import GRID
from skinml.privacy.settings import PrivacySettings
from skinml.records import Arrays, FloatArray, Labels, Samples
from skinml.training.group_dro import GROUP_LOSSES, moved_shares, start_of_shares
from skinml.training.group_weights import (
    GROUP_COUNTS,
    GROUP_SIZES,
    GROUP_WEIGHTS,
    GroupBalance,
    start_of,
    weighed,
)
from skinml.training.head_clinic import CLASS_SUMS, GRADIENT, STATISTICS, HeadContributor
from skinml.training.learner import Round
from skinml.training.server_optimisers import ServerOptimiser, optimised, with_moments
from skinml.training.settings import HeadSettings

if TYPE_CHECKING:
    from skinml.training.public_images import PublicImages

# The step sizes of the settings belong to this many rounds; other numbers are scaled to it.
_REFERENCE_ROUNDS = 30
# Of the public variance: axes along which images vary much less are not stretched further.
_FLOOR = 0.1
# Longer steps overshoot where they are stretched, whatever the noise.
_LONGEST_STRETCHED = 2.0
# A prototype's scores are cosines; logistic probabilities want them larger. Changes no ranking of
# two classes.
_PROTOTYPE_SCALE = 10.0


class HeadLearner:
    """Trains a `LinearHead` on unit-norm features.

    Args:
        settings: The recipe.
        privacy: Budget, clip and trust model.
        classes: What the head tells apart.
        num_features: d.
        num_clinics: Clinics in the run, a public number; with local noise each of them adds to
            the sum's noise, and the step shrinks accordingly.
        public: Opens the public images of a recipe that has them; called by the coordinator only,
            when the first round is over.
        optimiser: Takes the coordinator's steps in place of gradient descent with momentum.
        balance: How groups of patients are weighed; None: every patient counts the same.
        losses_share: Part of mu squared for the sums of losses of a balance that follows them.

    Raises:
        ConfigError: If a weight of the clip is for a class that there is not.

    Guarantees:
        Clinics are asked the same with public images as without. One patient of a clinic changes
        the counts by at most 1, the feature sum by at most 1 and each sum of gradients or of
        classes by at most clip_norm in L2 norm, however many images it has; all
        bounds are divided by max_clinics_per_patient. The factor of a patient's group is at most
        1 and comes after the clip, so that none of this changes with it; a sum of losses moves by
        at most the balance's greatest loss. Clipped by class, each column of a gradient
        has a bound of its own, and the whole the same. The sums are whole multiples of
        `skinml.privacy.quantise.GRID`, and the bounds hold in integers.

    Source:
        Abadi et al. 2016, arXiv:1607.00133, for clipped noisy gradients; Menon et al. 2021,
        arXiv:2007.07314, for the prior offset.
    """

    def __init__(
        self,
        settings: HeadSettings,
        privacy: PrivacySettings,
        classes: Labels,
        num_features: int,
        num_clinics: int,
        public: Callable[[], PublicImages] | None = None,
        optimiser: ServerOptimiser | None = None,
        balance: GroupBalance | None = None,
        losses_share: float = 0.1,
    ) -> None:
        self._balance, self._losses_share = balance, losses_share
        self._settings = settings
        self._public = public
        self._optimiser = optimiser
        self._privacy = privacy
        self._classes = classes
        self._num_features = num_features
        self._num_clinics = num_clinics
        self._class_weights = _class_weights(settings, classes)
        self.rounds = self._plan()

    def _plan(self) -> tuple[Round, ...]:
        privacy, total = self._privacy, self._settings.rounds
        kind = GRADIENT
        if privacy.recipe == "prototypes":
            kind, total = CLASS_SUMS, 1
        d, k, balance = self._num_features, len(self._classes.names), self._balance
        counts = _release("label_counts", "label counts", 1.0, (k,))
        if balance is not None:  # each patient is in one cell of this table too
            counts = replace(counts, name=GROUP_COUNTS, shape=(balance.num_groups, k))
        first = [(counts, privacy.counts_share)]
        if self._settings.centring == "paid":
            first.append((_release("feature_sum", "training", 1.0, (d,)), privacy.centre_share))
        later = []
        if balance is not None and balance.losses is not None:
            losses = _release(GROUP_LOSSES, "losses", balance.losses, (balance.num_groups,), total)
            later.append((losses, self._losses_share))
        rest = 1 - sum(share for _, share in (*first, *later))
        later.append((_release(kind, "training", privacy.clip_norm, (d + 1, k), total), rest))
        planned = gaussian_releases(privacy, [*first, *later])
        each = tuple(replace(release, steps=1) for release in planned[len(first) :])
        rounds = (Round(number, kind, each) for number in range(2, total + 2))
        return (Round(1, STATISTICS, planned[: len(first)]), *rounds)

    def start(self) -> Arrays:
        """Make the state before the first round: zero weights, which need no seed.

        Returns:
            weight, velocity and average (d + 1, k), centre (d,), offset and counts (k,),
            patients (1,), each patient with its group's factor; what a balance keeps; and the
            moments of an optimiser.
        """
        shape = (self._num_features + 1, len(self._classes.names))
        state: Arrays = {
            "weight": np.zeros(shape, np.float32),
            "velocity": np.zeros(shape, np.float32),
            "average": np.zeros(shape, np.float64),
            "centre": np.zeros(self._num_features, np.float32),
            "offset": np.zeros(shape[1], np.float64),
            "counts": np.zeros(shape[1], np.float64),
            "patients": np.zeros(1),
        }
        if self._balance is not None:
            state = {**state, **start_of(self._balance), **start_of_shares(self._balance)}
        if self._optimiser is None:
            return state
        return with_moments(self._optimiser, state, ["weight"])

    def query(self, round_: Round, state: Arrays) -> Arrays:
        """Choose what the clinics are sent.

        Args:
            round_: The round.
            state: The coordinator's state.

        Returns:
            Nothing in the first round, then centre, and for a gradient weight and offset; the
            groups' factors where they are weighed.
        """
        if round_.kind == STATISTICS:
            return {}
        names = ["centre"] if round_.kind == CLASS_SUMS else ["weight", "centre", "offset"]
        if self._balance is not None:
            names.append(GROUP_WEIGHTS)
        return {name: state[name] for name in names}

    def contributor(self, samples: Samples) -> HeadContributor:
        """Open a clinic's side.

        Args:
            samples: Training samples with features (n, d) of norm at most 1.

        Returns:
            The clinic's side.
        """
        return HeadContributor(
            samples,
            self._classes,
            share=1 / self._privacy.max_clinics_per_patient,
            clip_norm=self._privacy.clip_norm,
            bias_input=self._settings.bias_input,
            class_weights=self._class_weights,
            balance=self._balance,
        )

    def advance(self, round_: Round, state: Arrays, total: Arrays, num_clinics: int) -> Arrays:
        """Take the clinics' sums into the state.

        Args:
            round_: The round.
            state: The coordinator's state.
            total: Sums over the clinics under the releases' names.
            num_clinics: Not used: everything here is a sum.

        Returns:
            The next state.
        """
        del num_clinics
        scale = float(self._privacy.max_clinics_per_patient)
        if round_.kind == STATISTICS:
            return self._after_statistics(round_, state, total, scale)
        if round_.kind == CLASS_SUMS:
            return self._after_class_sums(state, total[CLASS_SUMS])
        patients = float(state["patients"][0])
        step = scale * total[GRADIENT] / (self._privacy.clip_norm * patients)
        moved = self._moved(state, self._shaped(step), patients)
        weight, average = moved["weight"], state["average"]
        tail = max(1, int(self._settings.rounds * self._settings.averaged))
        if round_.number > self._settings.rounds + 1 - tail:
            average = average + weight.astype(np.float64) / tail
        return dict(state) | moved | {"average": average} | self._shifted(state, total, scale)

    def _shifted(self, state: Arrays, total: Arrays, scale: float) -> dict[str, FloatArray]:
        """Move the groups' factors by their losses, where those are released."""
        if self._balance is None or GROUP_LOSSES not in total:
            return {}
        moved = moved_shares(self._balance, state, scale * total[GROUP_LOSSES])
        if state[GROUP_SIZES].any():  # else all groups are within the noise, and count in full
            moved["patients"] = np.array([moved[GROUP_WEIGHTS] @ state[GROUP_SIZES]])
        return moved

    def _moved(self, state: Arrays, step: FloatArray, patients: float) -> dict[str, FloatArray]:
        """Descend along a step, with momentum or by the optimiser; gives what changed."""
        if self._optimiser is not None:
            return optimised(self._optimiser, state, {"weight": -step})
        velocity = (self._settings.momentum * state["velocity"] + step).astype(np.float32)
        weight = state["weight"] - self.learning_rate(patients) * velocity
        return {"weight": weight.astype(np.float32), "velocity": velocity}

    def _after_statistics(
        self, round_: Round, state: Arrays, total: Arrays, scale: float
    ) -> dict[str, FloatArray]:
        """Read prior, centre and, from public images, the first weights."""
        groups: dict[str, FloatArray] = {}
        if self._balance is None:
            counts = np.maximum(scale * total["label_counts"], self._settings.least_count)
            everybody = float(counts.sum())
        else:
            std = self._noise_std(round_.releases[0])
            table, least = scale * total[GROUP_COUNTS], self._settings.least_count
            found = weighed(self._balance, table, least, std)
            counts, everybody, groups = found.counts, found.patients, {**found.state}
        centre = self._centre(round_, total, scale, everybody).astype(np.float32)
        weight = state["weight"]
        if self._public is not None and self._privacy.recipe == "started":
            weight = self._public().start(centre, self._settings.bias_input, len(counts))
        return dict(state) | {
            "weight": weight,
            "centre": centre,
            "offset": np.log(counts / counts.mean()),
            "counts": counts,
            "patients": np.array([counts.sum()]),
            **groups,
        }

    def _centre(self, round_: Round, total: Arrays, scale: float, patients: float) -> FloatArray:
        """Find the features' centre, with public images if there are some."""
        public = None if self._public is None else self._public()
        if public is not None and self._settings.centring == "public":
            return public.mean
        centre = np.asarray(scale * total["feature_sum"] / patients)
        if public is None:
            return centre
        release = next(each for each in round_.releases if each.name == "feature_sum")
        return public.centre(centre, self._noise_std(release) / patients)

    def _noise_std(self, release: Release) -> float:
        """Standard deviation of the noise in a sum that was brought back to whole patients."""
        # Under local noise the sum has that of each clinic.
        parties = self._num_clinics if self._privacy.trust == "local" else 1
        return sqrt(parties) * self._privacy.max_clinics_per_patient * release.noise_std

    def _after_class_sums(self, state: Arrays, sums: FloatArray) -> dict[str, FloatArray]:
        """Take the difference of each class's mean from the mean of all as its weights."""
        counts, patients = state["counts"], float(state["patients"][0])
        length = sqrt(1 + self._settings.bias_input**2)
        bound = self._privacy.clip_norm / self._privacy.max_clinics_per_patient
        sums = sums / min(bound / length, 1.0)  # as the clinics scaled each patient's input
        weight = _PROTOTYPE_SCALE * self._shaped(
            sums / counts - sums.sum(axis=1, keepdims=True) / patients
        )
        weight[-1] = 0.0  # the prior is in the offset
        return dict(state) | {"weight": weight.astype(np.float32), "average": weight}

    def _shaped(self, step: FloatArray) -> FloatArray:
        """Take noise out of a noisy sum where public images say that little else can be there."""
        if self._public is None:
            return step
        public, factors = self._public(), None
        if self._privacy.recipe == "preconditioned":
            spread = public.variances / public.variances[0]
            factors = (1 + _FLOOR) / (spread + _FLOOR)
        return np.concatenate([public.shaped(step[:-1], factors), step[-1:]])

    def learning_rate(self, patients: float) -> float:
        """Choose the step along a mean gradient whose patients were clipped to norm 1.

        Args:
            patients: Training patients of all clinics, as they were released.

        Returns:
            The step of each round.
        """
        settings = self._settings
        step = settings.learning_rate
        if step is None:
            step = step_for_mu(settings.learning_rate_by_mu, self._effective_mu(patients))
        if self._privacy.recipe == "preconditioned":
            step = min(step, _LONGEST_STRETCHED)
        return step * _REFERENCE_ROUNDS / settings.rounds

    def _effective_mu(self, patients: float) -> float:
        """Weigh the run's mu by cohort size and noise, both public or already released."""
        if not self._privacy.private:
            return self._settings.learning_rate_by_mu[-1][0]
        mu = gaussian_mu_for(self._privacy.epsilon, self._privacy.delta)
        if self._privacy.trust == "local":
            mu /= sqrt(self._num_clinics)
        mu /= self._privacy.max_clinics_per_patient
        return mu * min(1.0, patients / self._settings.reference_patients)

    def model(self, state: Arrays) -> Arrays:
        """Read the head from the final state.

        Args:
            state: The coordinator's state after the last round.

        Returns:
            centre (d,), weight (d + 1, k): the average over the last half, offset (k,).
        """
        return {
            "centre": state["centre"],
            "weight": state["average"].astype(np.float32),
            "offset": state["offset"].astype(np.float32),
        }


def _release(
    name: str, purpose: str, sensitivity: float, shape: tuple[int, ...], steps: int = 1
) -> Release:
    return Release(name, purpose, "train", sensitivity, 0.0, shape, steps=steps, grid=GRID)


def _class_weights(settings: HeadSettings, classes: Labels) -> tuple[float, ...] | None:
    """Put the weights of the bounds into the order of the classes; None where the clip is flat."""
    if settings.clipping == "flat":
        return None
    named = settings.class_clip_weights
    unknown = [name for name in named if name not in classes.names]
    if unknown:
        raise ConfigError(
            rule=f"training.head.class_clip_weights for classes among {', '.join(classes.names)}",
            got=f"class_clip_weights.{unknown[0]}",
            do="Use the names of the run's classes.",
        )
    return tuple(named.get(name, 1.0) for name in classes.names)


def step_for_mu(points: Sequence[tuple[float, float]], mu: float) -> float:
    """Read a step size at a mu from public points.

    Args:
        points: Pairs (mu, step), rising in mu.
        mu: Where to read.

    Returns:
        The step: straight lines between the logarithms of the points, in proportion to mu below
        the first point, the last step above the last.

    Example:
        >>> step_for_mu([(0.1, 2.0), (1.0, 20.0)], 0.05)
        1.0
    """
    first_mu, first_step = points[0]
    if mu < first_mu:
        return first_step * mu / first_mu
    logs = np.interp(log(mu), [log(m) for m, _ in points], [log(s) for _, s in points])
    return exp(float(logs))
