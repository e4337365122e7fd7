"""How long this machine takes: a clinic's own work for an image and for a round."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from skinml.clinic.check_machine import Pace
from skinml.config import RunConfig, load_config
from skinml.data.cohort import MALIGNANCY
from skinml.data.sealed_images import ImageFile
from skinml.errors import ConfigError
from skinml.experiments.learners import build_learner, clinic_mechanism
from skinml.models.backbones import load_backbone
from skinml.records import Samples
from skinml.seeding import Seeds
from skinml.training.features import compute_features

_EXPERIMENT = "quickstart"
_CLINICS = 2
# A round's work grows with the patients; beyond this it is scaled and not measured.
_MOST_PATIENTS = 5000


def measure_pace(paths: Sequence[ImageFile], num_patients: int) -> Pace:
    """Measure the shipped recipe on some images and on as many drawn patients as would train.

    Args:
        paths: Some image files, at least one; they are decoded, and nothing is kept of them.
        num_patients: Training patients of the run to come.

    Returns:
        The pace after a warm-up; on fewer images than a batch the time per image is too long.

    Raises:
        ConfigError: If there is no image.
        DataError: If an image cannot be decoded.
        EnvironmentProblem: If the pretrained network is not installed.
    """
    if not paths:
        raise ConfigError(rule="images to measure on", got="none", do="Give at least one.")
    config = load_config(_EXPERIMENT)
    backbone = load_backbone(config.model)
    batch_size, limits = config.model.batch_size, config.data.limits
    compute_features(paths[:1], backbone, limits)  # the first pass also sets the network up
    start = perf_counter()
    compute_features(paths, backbone, limits, batch_size=batch_size)
    seconds = (perf_counter() - start) / len(paths)
    return Pace(
        seconds_per_image=seconds,
        seconds_per_round=_round(config, backbone.num_features, num_patients),
        num_rounds=config.training.head.rounds + 1,
    )


def _round(config: RunConfig, num_features: int, num_patients: int) -> float:
    """Time a gradient round on drawn features; nothing of it is kept or released."""
    drawn = min(max(num_patients, 2), _MOST_PATIENTS)
    random = Seeds(0).stream("pace")
    inputs = random.normal(0, num_features**-0.5, (drawn, num_features)).astype(np.float32)
    samples = Samples(inputs, np.arange(drawn) % 2, np.arange(drawn).astype(str))
    learner = build_learner(config, MALIGNANCY, num_features, _CLINICS)
    contributor = learner.contributor(samples)
    mechanism = clinic_mechanism(config, _CLINICS)
    gradient = learner.rounds[1]
    query = learner.query(gradient, learner.start())
    contributor.contribute(gradient, query, mechanism, random)
    times = []
    for _ in range(3):
        start = perf_counter()
        contributor.contribute(gradient, query, mechanism, random)
        times.append(perf_counter() - start)
    return min(times) * max(1.0, num_patients / drawn)
