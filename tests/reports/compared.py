"""A run whose groups were compared, for tests of what a reviewer decides by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from skinml.fairness.curves import curves_by_group, curves_values
from skinml.fairness.evaluation import evaluate_fairness
from skinml.fairness.settings import FairnessSettings, PrimaryComparison
from skinml.records import Labels, Predictions, RunRecord

SETTINGS = FairnessSettings.model_validate(
    {
        "replicates": 600,
        "null_draws": 200,
        "groups": ["skin_tone"],
        "metrics": ["auroc", "specificity"],
        "primary": PrimaryComparison(),
        "order": {"skin_tone": ("I-II", "III-IV", "V-VI")},
        "scale": {"skin_tone": "fitzpatrick"},
        "acceptance": [
            {"figure": "auroc", "at_least": 0.5},
            {"gap": "auroc", "column": "skin_tone"},
            {"figure": "auroc", "at_least": 0.92, "allow_cannot_tell": True},
        ],
    }
)


def predictions() -> Predictions:
    """1,600 images of 800 patients; the model sees little on the darkest skin."""
    rng = np.random.default_rng(11)
    tones = np.repeat(rng.choice(["I-II", "III-IV", "V-VI"], 800, p=[0.5, 0.3, 0.2]), 2)
    cases = np.repeat(rng.choice(["a", "b"], 800), 2)
    truth = np.repeat(rng.random(800) < 0.4, 2)
    pull = np.where(tones == "V-VI", 0.3, 2.2)
    scores = 1 / (1 + np.exp(-(pull * (truth - 0.5) + rng.normal(0, 0.8, 1600))))
    return Predictions(
        classes=Labels(("benign", "malignant"), (False, True)),
        labels=truth.astype(int),
        probabilities=np.stack([1 - scores, scores], axis=1),
        decisions=(scores > 0.5).astype(int),
        patients=np.repeat(np.arange(800), 2).astype(str),
        groups={"skin_tone": tones, "diagnosis": cases},
    )


def partly_known() -> Predictions:
    """The same, but of a third of the patients at one clinic nobody knows the tone."""
    made = predictions()
    place = np.repeat(np.arange(800), 2)
    clinic = np.where(place % 2 == 0, "north", "south")
    tones = np.where((clinic == "south") & (place % 3 == 0), "unknown", made.groups["skin_tone"])
    groups = {**made.groups, "skin_tone": tones, "clinic": clinic}
    return replace(made, groups=groups)


def compared_of(base: RunRecord, made: Predictions, **changes: Any) -> RunRecord:
    """Give a record the comparisons of predictions, under some settings."""
    options = SETTINGS.model_copy(update=changes)
    rng = np.random.default_rng(1)
    found = evaluate_fairness(made, threshold=0.5, settings=options, rng=rng, figures=())
    return replace(
        base,
        overall=found.overall,
        groups=found.groups,
        gaps=found.gaps.values(),
        config={**base.config, "fairness": options.model_dump(mode="json")},
    )


def compared(base: RunRecord) -> RunRecord:
    """Give a record comparisons of groups, curves and criteria."""
    found = evaluate_fairness(
        predictions(), threshold=0.5, settings=SETTINGS, rng=np.random.default_rng(1)
    )
    return replace(
        base,
        overall=found.overall,
        groups=(*found.groups, *(each for each in base.groups if each.attribute == "clinic")),
        gaps=found.gaps.values(),
        curves=curves_values(curves_by_group(predictions(), SETTINGS)),
        config={**base.config, "fairness": SETTINGS.model_dump(mode="json")},
    )
