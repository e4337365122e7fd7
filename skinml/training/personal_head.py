"""A clinic's own head: the run's model drawn towards the clinic's own patients, for itself alone.

No noise is in it. It is made where the patients are, is not released, and the run's guarantee says
nothing about it: whoever gets it can read patients from it as from any model without privacy.

Shapes in this file: p patients, d features, k classes.
"""

from __future__ import annotations

import numpy as np

from skinml.errors import require_positive
from skinml.models.linear_head import head_inputs, softmax
from skinml.privacy.clipping import mean_by_patient, modal_labels
from skinml.records import Arrays, FloatArray, Labels, Samples

_STEPS = 300


def personal_head(
    model: Arrays, samples: Samples, classes: Labels, *, pull: float, bias_input: float
) -> Arrays:
    """Fit a head to one clinic's patients, held to the run's model by a pull.

    Minimises the patients' mean cross-entropy plus pull / 2 times the squared distance of the
    weights from the model's: with a large pull it is the model, with a small one the clinic's own
    regression. Centre and offset stay the model's.

    Args:
        model: centre (d,), weight (d + 1, k) and offset (k,) of the run's model.
        samples: The clinic's training samples with features (n, d) of norm at most 1; patients
            whose features are not finite are left out.
        classes: What the head tells apart.
        pull: Above zero.
        bias_input: Constant behind the features.

    Returns:
        Arrays of the model's names and shapes; the model itself where there is nobody.

    Raises:
        ConfigError: If pull is not above zero.

    Source:
        Li et al. 2021, arXiv:2012.04221 (Ditto), equation 1; Beck and Teboulle 2009 for the
        accelerated descent, its steps from the objective's curvature.
    """
    require_positive(pull=pull)
    features, position = mean_by_patient(samples.inputs, samples.patients)
    labels = modal_labels(samples.labels, position, np.asarray(classes.malignant, dtype=bool))
    finite = np.isfinite(features).all(axis=1)
    if not finite.any():
        return model
    inputs = head_inputs(features[finite], model["centre"], bias_input).astype(np.float64)
    targets = np.eye(len(classes.names))[labels[finite]]
    began: FloatArray = model["weight"].astype(np.float64)
    # Of softmax' Hessian no eigenvalue is above 1/2.
    curvature = float(np.square(inputs).sum(axis=1).max()) / 2 + pull
    root = np.sqrt(pull / curvature)
    momentum = (1 - root) / (1 + root)
    weight, ahead = began, began
    for _ in range(_STEPS):
        errors = softmax(inputs @ ahead + model["offset"]) - targets
        gradient = inputs.T @ errors / len(inputs) + pull * (ahead - began)
        before, weight = weight, ahead - gradient / curvature
        ahead = weight + momentum * (weight - before)
    return dict(model) | {"weight": weight.astype(model["weight"].dtype)}
