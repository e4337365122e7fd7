"""The linear head on frozen features: what goes in, and what its numbers mean. NumPy only.

Shapes in this file: n items, v views (images of one item, such as a close-up and a dermoscopic
one), d features, k classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, hypot, ldexp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.errors import DataError

BIAS_INPUT = 0.1  # small, so that the bias does not eat the clip budget


def item_features(view_features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Turn a backbone's features into one vector of bounded norm an item.

    Each view's features go through an elementwise square root, which evens out the few features
    that fire strongly; a negative feature, which some backbones have, keeps its sign. Then each
    view is scaled to norm 1/sqrt(v), so that an item's norm is 1 however many views it has.

    Args:
        view_features: (n, v, d), finite.

    Returns:
        (n, v * d). A view of nothing but zeros stays zero.

    Raises:
        DataError: If the shape is another, or a feature is NaN or infinite.

    Guarantees:
        Each row's L2 norm is at most 1, up to rounding, and depends on that item only.

    >>> item_features(np.array([[[9.0, 16.0], [0.0, 4.0]]]))
    array([[0.42426407, 0.56568545, 0.        , 0.70710677]], dtype=float32)
    """
    if view_features.ndim != 3 or 0 in view_features.shape[1:]:
        raise DataError(
            rule="features of shape (items, views, features)",
            got=f"shape={view_features.shape}",
            do="Give items of one view the shape (items, 1, features).",
        )
    not_finite = int(np.count_nonzero(~np.isfinite(view_features).all(axis=(1, 2))))
    if not_finite:
        raise DataError(
            rule="finite features",
            got=f"num_items_with_nan_or_infinity={not_finite}",
            do="Check the backbone's weights, then extract the features again.",
        )
    roots = np.sign(view_features) * np.sqrt(np.abs(view_features))
    norms = np.linalg.norm(roots.astype(np.float64), axis=2, keepdims=True)
    num_items, num_views, num_features = roots.shape
    scaled = roots / np.where(norms > 0, norms, 1.0) / np.sqrt(num_views)
    return np.asarray(scaled.reshape(num_items, num_views * num_features), dtype=np.float32)


def head_inputs(
    features: NDArray[np.floating[Any]],
    centre: NDArray[np.floating[Any]],
    bias_input: float = BIAS_INPUT,
) -> NDArray[np.float32]:
    """Centre, normalise, and append the constant that the bias weighs.

    Args:
        features: (n, d), rows of norm at most 1 from `item_features`.
        centre: (d,) where the features lie on average, from a release or public data.
        bias_input: The constant, above zero.

    Returns:
        (n, d + 1), rows (u - c) / ||u - c|| followed by the constant. A row that equals the
        centre keeps zeros before the constant.

    Guarantees:
        Each row's L2 norm is at most sqrt(1 + bias_input**2), up to rounding.

    >>> head_inputs(np.array([[3.0, 5.0]]), np.array([0.0, 1.0]))
    array([[0.6, 0.8, 0.1]], dtype=float32)
    """
    num_items, num_features = features.shape
    inputs = np.empty((num_items, num_features + 1), dtype=np.float32)
    directions = inputs[:, :-1]
    np.subtract(features, centre, out=directions, casting="same_kind")
    norms = np.linalg.norm(directions.astype(np.float64), axis=1, keepdims=True)
    directions /= np.where(norms > 0, norms, 1.0).astype(np.float32)
    inputs[:, -1] = bias_input
    return inputs


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A trained linear softmax head.

    Attributes:
        centre: (d,) subtracted from the features.
        weight: (d + 1, k); the last row is the bias, which sees `bias_input`.
        offset: (k,) log prior of the classes, fixed while training.
        bias_input: The constant behind the features.

    Source:
        Menon et al. 2021, arXiv:2007.07314, section 4: an offset of the log prior in training,
        left out of the decision, aims at the balanced error.
    """

    centre: NDArray[np.floating[Any]]
    weight: NDArray[np.floating[Any]]
    offset: NDArray[np.floating[Any]]
    bias_input: float = BIAS_INPUT

    def __post_init__(self) -> None:
        shapes = (self.centre.shape, self.weight.shape, self.offset.shape)
        num_features, num_classes = len(self.centre), len(self.offset)
        if shapes != ((num_features,), (num_features + 1, num_classes), (num_classes,)):
            raise DataError(
                rule="a centre (d,), a weight (d + 1, k) and an offset (k,)",
                got=f"shapes={shapes}",
                do="Take all three from one trained head.",
            )

    def logits(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Compute the scores without the classes' prior.

        Args:
            features: (n, d) from `item_features`.

        Returns:
            (n, k).

        Raises:
            DataError: If d is another than the head's.

        Guarantees:
            A row's scores are the same whichever other rows there are, to the last bit: counts of
            patients by score are released, and one patient must move one count alone.
        """
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise DataError(
                rule=f"features of shape (n, {len(self.centre)})",
                got=f"shape={features.shape}",
                do="Use the backbone and the views that the head was trained on.",
            )
        inputs = head_inputs(features, self.centre, self.bias_input)
        return _row_products(inputs, self.weight.astype(np.float32), hypot(1.0, self.bias_input))

    def probabilities(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Compute class probabilities, the classes' prior included.

        Args:
            features: (n, d) from `item_features`.

        Returns:
            (n, k), rows sum to 1.

        Raises:
            DataError: If d is another than the head's.
        """
        return softmax(self.logits(features) + self.offset)

    def decisions(self, features: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Decide for the class of the largest score without the prior.

        Args:
            features: (n, d) from `item_features`.

        Returns:
            (n,) index of the class.

        Raises:
            DataError: If d is another than the head's.
        """
        return np.asarray(self.logits(features).argmax(axis=1), dtype=np.int64)


def _row_products(
    rows: NDArray[np.float32],
    weight: NDArray[np.float32],
    norm: float,
    rows_at_once: int = 4096,
) -> NDArray[np.float64]:
    """Multiply so that no row of the product depends on the other rows.

    Blocked floating-point products round a row by where it stands among the others. In whole
    numbers below 2**53 nothing is rounded, whatever the order.

    Args:
        rows: (n, d) of L2 norm at most `norm`, up to rounding.
        weight: (d, k).
        norm: A public bound.
        rows_at_once: Rows turned into double precision at once.

    Returns:
        (n, k) products, exact for rows read to 2**-26 of the norm and a weight read to 2**-26 of
        its longest column; NaN where the weight is not finite.
    """
    columns = weight.astype(np.float64)
    longest = float(np.sqrt(np.square(columns).sum(axis=0)).max(initial=0.0))
    # Powers of two, so that scaling is exact; by Cauchy and Schwarz all sums are below 2**53.
    row_unit, unit = (ldexp(1.0, frexp(size)[1] - 26) for size in (norm, longest))
    whole = np.rint(columns / unit)
    product = np.empty((len(rows), weight.shape[1]))
    for start in range(0, len(rows), rows_at_once):
        block = rows[start : start + rows_at_once].astype(np.float64)
        product[start : start + rows_at_once] = np.rint(block / row_unit) @ whole
    return product * (row_unit * unit)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Turn scores into probabilities without overflow.

    Args:
        logits: (n, k), finite.

    Returns:
        (n, k), rows sum to 1.

    >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    np.exp(shifted, out=shifted)
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
