"""A clinic's side of the linear head: what its patients add to the sums, clipped in integers.

Shapes in this file: p patients, d features, k classes, g groups.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skinml.models.linear_head import head_inputs, softmax
from skinml.privacy.clipping import (
    class_bounds,
    clip_factors,
    clip_factors_by_class,
    mean_by_patient,
    modal_labels,
)
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.quantise import (
    GRID,
    clipped_columns,
    clipped_factor,
    counts_on_grid,
    factor_of,
    on_grid,
    products,
    squared_norms,
    summed_products,
)
from skinml.records import Arrays, FloatArray, Labels, Samples
from skinml.training.group_dro import GROUP_LOSSES, loss_sums
from skinml.training.group_weights import (
    GROUP_COUNTS,
    GroupBalance,
    factors_at,
    patient_groups,
)
from skinml.training.learner import Round

STATISTICS = "statistics"
GRADIENT = "gradient"
CLASS_SUMS = "class_sums"


class HeadContributor:
    """A clinic's side of the head: one vector and one label a patient.

    Attributes:
        not_finite: Patients who added only zeros to the last sums: their features, or what the
            query made of them, were NaN or infinite. For the clinic's own log, never to leave it.

    Args:
        samples: Training samples with features (n, d) of norm at most 1.
        classes: What the head tells apart.
        share: Part of the clip that this clinic may use of one patient.
        clip_norm: Greatest norm of one patient's gradient.
        bias_input: Constant behind the features.
        class_weights: k weights of the bounds where gradients are clipped by class; None: as a
            whole.
        balance: How groups are weighed; None: every patient counts the same.
    """

    def __init__(
        self,
        samples: Samples,
        classes: Labels,
        *,
        share: float,
        clip_norm: float,
        bias_input: float,
        class_weights: tuple[float, ...] | None = None,
        balance: GroupBalance | None = None,
    ) -> None:
        features, position = mean_by_patient(samples.inputs, samples.patients)
        malignant = np.asarray(classes.malignant, dtype=bool)
        labels = modal_labels(samples.labels, position, malignant)
        # Left out whole: zeros for features would still have a label, and a gradient.
        finite = np.isfinite(features).all(axis=1)
        self._left_out = int(np.count_nonzero(~finite))
        self.not_finite = 0
        # A mean of unit vectors has norm at most 1; the clip holds it against rounding and bugs.
        self._features = on_grid(features[finite], 1.0).astype(np.float32)
        self._targets = np.eye(len(malignant))[labels[finite]]
        self._share = share
        self._clip_norm = clip_norm
        self._bias_input = bias_input
        self._class_weights = class_weights
        self._balance = balance
        self._groups = np.zeros(len(self._targets), np.intp)
        if balance is not None:
            self._groups = patient_groups(samples, position, balance)[finite]
        self._inputs: tuple[bytes, NDArray[np.int16], NDArray[np.int64]] | None = None

    def contribute(
        self, round_: Round, query: Arrays, mechanism: Mechanism, sampling: np.random.Generator
    ) -> Arrays:
        """Compute the round's sums and add this clinic's noise.

        Args:
            round_: The round.
            query: What the coordinator sent.
            mechanism: Adds this clinic's part of the noise.
            sampling: Not used: this recipe takes all patients.

        Returns:
            One array for each release of the round.
        """
        del sampling
        exact = self.exact(round_, query)
        return {
            release.name: mechanism.privatize(release, exact[release.name])
            for release in round_.releases
        }

    def exact(self, round_: Round, query: Arrays) -> dict[str, FloatArray]:
        """Compute the round's clipped sums without noise: these never leave the clinic.

        Args:
            round_: The round.
            query: What the coordinator sent.

        Returns:
            label_counts (k,) or group_label_counts (g, k), and feature_sum (d,); or gradient or
            class_sums (d + 1, k), and group_losses (g,): multiples of the grid.

        Guarantees:
            A patient with features that are not finite changes no sum: all are as without it.
        """
        self.not_finite = self._left_out
        if round_.kind == STATISTICS:
            return {
                **self._counts(),
                "feature_sum": on_grid(self._share * self._features, self._share).sum(axis=0),
            }
        inputs, squares = self._centred(query["centre"])
        factors = self._factors(query)
        if round_.kind == CLASS_SUMS:
            return {CLASS_SUMS: self._class_sums(inputs, squares, factors)}
        chances = softmax(products(inputs, query["weight"]) + query["offset"])
        errors = chances - self._targets
        # Not finite where a weight overflowed: the clip makes zeros of it.
        if not np.isfinite(errors.sum()):
            self.not_finite += int(np.count_nonzero(~np.isfinite(errors).all(axis=1)))
        second = self._clipped_errors(errors, squares, factors)
        return {GRADIENT: summed_products(inputs, second), **self._losses(chances)}

    def _counts(self) -> dict[str, FloatArray]:
        """Count patients by label, or by group and label: each is in one cell."""
        if self._balance is None:
            return {"label_counts": counts_on_grid(self._targets.sum(axis=0), self._share)}
        table = np.zeros((self._balance.num_groups, self._targets.shape[1]))
        np.add.at(table, self._groups, self._targets)
        return {GROUP_COUNTS: counts_on_grid(table, self._share)}

    def _factors(self, query: Arrays) -> FloatArray:
        """Each patient's factor, from 0 to 1."""
        if self._balance is None:
            return np.ones(len(self._targets))
        return factors_at(query, self._groups)

    def _losses(self, chances: FloatArray) -> dict[str, FloatArray]:
        """Add up losses by group where the recipe releases them."""
        balance = self._balance
        if balance is None or balance.losses is None:
            return {}
        own = (chances * self._targets).sum(axis=1)
        sums = loss_sums(own, self._groups, balance.num_groups, balance.losses, self._share)
        return {GROUP_LOSSES: sums}

    def _clipped_errors(
        self, errors: FloatArray, squares: NDArray[np.int64], weights: FloatArray
    ) -> NDArray[np.int16]:
        """Clip the patients' gradients by their second factors, the errors, and weigh them.

        A gradient is the outer product of input and error, so its norm needs no gradient: it is
        the product of the two norms (Goodfellow 2015, arXiv:1510.01799), and a column's that of
        the input's norm and one error.
        """
        lengths, bound = np.sqrt(squares * GRID), self._share * self._clip_norm
        if self._class_weights is None:
            norms = lengths * np.linalg.norm(errors, axis=1)
            factors = self._share * weights * clip_factors(norms, self._clip_norm)
            return clipped_factor(errors * factors[:, None], squares, bound)
        bounds = class_bounds(self._clip_norm, self._class_weights)
        by_class = clip_factors_by_class(lengths[:, None] * np.abs(errors), bounds)
        scaled = errors * (self._share * weights[:, None] * by_class)
        return clipped_columns(scaled, squares, bound, self._class_weights)

    def _class_sums(
        self, inputs: NDArray[np.int16], squares: NDArray[np.int64], weights: FloatArray
    ) -> FloatArray:
        """Add up the patients of each class, each scaled to the clip and weighed."""
        bound = self._share * self._clip_norm
        norms = np.sqrt(np.maximum(squares, 1) * GRID)
        # Never longer than the input itself: the grid of factors holds no large numbers.
        scales = np.minimum(bound / norms, 1.0) * weights
        second = clipped_factor(self._targets * scales[:, None], squares, bound)
        return summed_products(inputs, second)

    def _centred(self, centre: FloatArray) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Centre the features once for all rounds that use the same centre."""
        key = centre.tobytes()
        if self._inputs is None or self._inputs[0] != key:
            # A hostile centre must not tell an empty clinic from one that is not: what is not
            # finite in an input becomes zero.
            inputs = factor_of(head_inputs(self._features, centre, self._bias_input))
            self._inputs = key, inputs, squared_norms(inputs)
        return self._inputs[1:]
