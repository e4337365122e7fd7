"""Scores that a clinic counts and releases: one patient's are nobody else's."""

from __future__ import annotations

import numpy as np

from skinml.config import load_config
from skinml.experiments.learners import predictor
from skinml.models.networks import build_network, network_arrays
from skinml.records import Labels, Samples

CLASSES = Labels(("benign", "malignant"), (False, True))
SIZE, ITEMS = 32, 66  # two more than pass a network at once elsewhere


def test_no_image_moves_anothers_scores_in_one_bit_where_privacy_is_promised():
    words = ("model.kind=network", "model.network=small_cnn", f"model.image_size={SIZE}")
    config = load_config("quickstart", (*words, "model.half_turn=false", "privacy.trust=local"))
    rng = np.random.Generator(np.random.Philox(0))
    arrays = network_arrays(build_network("small_cnn", 2, rng))
    images = rng.integers(0, 256, (ITEMS, SIZE, SIZE, 3), dtype=np.uint8)
    names = np.array([f"p{place}" for place in range(ITEMS)])
    samples = Samples(images, np.zeros(ITEMS, int), names)
    predict = predictor(config, CLASSES)
    whole = predict(arrays, samples).probabilities
    for left_out in (0, ITEMS - 1):
        kept = np.arange(ITEMS) != left_out
        assert np.array_equal(predict(arrays, samples.take(kept)).probabilities, whole[kept])
