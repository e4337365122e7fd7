"""Other ways to a model on the same data, beside the run's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from skinml.fairness.groups import evaluate_groups
from skinml.fairness.settings import FairnessSettings
from skinml.records import (
    Estimate,
    Labels,
    Predictions,
    Samples,
    Yardstick,
    join_predictions,
    join_samples,
)
from skinml.seeding import Seeds
from skinml.training.evaluate import evaluate
from skinml.training.yardsticks import fit_logistic


def yardsticks(
    samples: Mapping[str, Mapping[str, Samples]],
    present: Sequence[str],
    classes: Labels,
    settings: FairnessSettings,
    seeds: Seeds,
) -> tuple[Yardstick, ...]:
    """Fit logistic regressions on all patients together and on each clinic alone.

    Args:
        samples: Samples by clinic and split.
        present: The clinics whose test items the run's own model was scored on.
        classes: What to tell apart.
        settings: How intervals are made.
        seeds: The root of the streams that intervals are drawn from.

    Returns:
        The yardsticks, each scored on the same test items as the run's own model.
    """
    test = join_samples([samples[name]["test"] for name in sorted(present)])
    what = "logistic regression" if test.inputs.ndim == 2 else "thumbnail logistic regression"
    everybody = join_samples([parts["train"] for parts in samples.values()])
    trained = {f"{what} on all clinics' patients together": everybody}
    if len(samples) > 1:
        trained |= {
            f"{what} on clinic {name} alone": parts["train"] for name, parts in samples.items()
        }
    return tuple(
        Yardstick(
            name, private=False, estimates=_score(name, train, test, classes, settings, seeds)
        )
        for name, train in trained.items()
    )


def _score(
    name: str,
    train: Samples,
    test: Samples,
    classes: Labels,
    settings: FairnessSettings,
    seeds: Seeds,
) -> Mapping[str, Estimate]:
    if len(np.unique(train.labels)) < 2:
        return {"auroc": Estimate(None, reason="training holds one class only")}
    bare = Samples(test.inputs, test.labels, test.patients)
    predictions = evaluate(fit_logistic(train, classes), classes, bare)
    everybody = settings.model_copy(update={"crossings": ()})
    overall, _ = evaluate_groups(
        predictions, threshold=None, settings=everybody, rng=seeds.stream(f"yardstick/{name}")
    )
    return overall.estimates


def pooled(predictions: Mapping[str, Predictions]) -> Predictions:
    """Join the clinics' predictions in the order of their names.

    Args:
        predictions: Predictions by clinic, at least one.

    Returns:
        All of them behind one another.
    """
    return join_predictions([predictions[name] for name in sorted(predictions)])
