"""Whether an image is like those of a model's patients, from a released mean of features alone.

A head keeps the mean of its training patients' features, which a run releases with noise; a network
trained end to end may keep that of its validation patients' features in a public network. An image
that points elsewhere is none of the kind that the model knows. Nothing more of any patient is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CENTRE = "likeness_centre"
"""The array of a network's bundle that holds the mean."""
NUM_FEATURES = 1280
"""Features of EfficientNet-Lite0, the public network whose features a network's images have."""
LEAST = 0.7
"""Least part of the training images' mean likeness; docs/predict.md says what it finds: of 200
dermoscopic images that had no part in the centre none was below it, and of 34 pictures of other
things all but a moon and a retina."""
# A centre this short says that images of any kind were in it, or that the recipe has none.
_SHORTEST = 0.1


def likeness(
    released: NDArray[np.floating], features: NDArray[np.floating]
) -> NDArray[np.float64] | None:
    """Hold items against the mean of a model's patients.

    The features have norm 1, so that the mean inner product of training images with their mean is
    that mean's squared norm, which is at most 1. Noise lengthens a released centre, but moves inner
    products with it by its deviation in one direction only: what is above 1 is noise, and cut off.

    Args:
        released: (d,) the mean of the patients' features.
        features: (n, d) from `linear_head.item_features`.

    Returns:
        (n,) inner products with the centre over their mean in training, 1 for a usual image;
        None where the centre tells nothing.
    """
    centre = released.astype(np.float64)
    usual = min(float(centre @ centre), 1.0)
    if usual < _SHORTEST:
        return None
    return np.asarray(features.astype(np.float64) @ centre / usual)
