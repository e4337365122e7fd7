"""How long figures by group take, and how much memory: alone, and beside fairlearn's bootstrap.

    python scripts/bench_fairness.py [--large 1000000] [--small 16577] [--repeats 3]

Times depend on the machine: read them beside each other, not against another day's. The memory is
held against its bound and the script fails when it is passed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from fairlearn.metrics import MetricFrame
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from skinml.fairness.evaluation import evaluate_fairness
from skinml.fairness.groups import evaluate_groups
from skinml.fairness.settings import FairnessSettings
from skinml.records import Labels, Predictions

SIX = ("auroc", "sensitivity", "specificity", "ppv", "balanced_accuracy", "brier")
MOST_GIB = 4.0
THRESHOLD = 0.4
SETTINGS = FairnessSettings(replicates=2000, groups=("skin_tone",))


def main() -> None:
    """Draw predictions, time both tasks, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=int, default=1_000_000, help="predictions of the first")
    parser.add_argument("--small", type=int, default=16_577, help="predictions of the second")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    small = draw(options.small, options.small, groups=6)
    beside_fairlearn(small, options.repeats)
    large = draw(options.large, max(1, options.large // 5), groups=5)
    alone(large)


def draw(num: int, num_patients: int, groups: int) -> Predictions:
    """Draw predictions of patients with about num / num_patients images each."""
    rng = np.random.default_rng(0)
    patient = rng.permutation(np.arange(num) % num_patients)
    effect = rng.normal(size=num_patients)[patient]
    truth = (rng.random(num) < 1 / (1 + np.exp(2 - effect))).astype(int)
    scores = 1 / (1 + np.exp(1 - 1.5 * truth - 0.5 * effect - rng.normal(size=num)))
    return Predictions(
        classes=Labels(("benign", "malignant"), (False, True)),
        labels=truth,
        probabilities=np.stack([1 - scores, scores], axis=1),
        decisions=(scores >= THRESHOLD).astype(int),
        patients=patient.astype(str),
        groups={"skin_tone": rng.integers(groups, size=num_patients)[patient].astype(str)},
    )


def seconds(task: Callable[[], object]) -> float:
    """Time one turn."""
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def alone(made: Predictions) -> None:
    """Six figures of everybody and of each group, then the comparisons of groups too."""
    rng = np.random.default_rng(1)
    took = seconds(
        lambda: evaluate_groups(made, threshold=THRESHOLD, settings=SETTINGS, rng=rng, figures=SIX)
    )
    words = f"{len(made):,} predictions of {len(np.unique(made.patients)):,} patients, 5 groups"
    print(f"{words}, 6 figures, {SETTINGS.replicates} replicates: {took:.1f} s")
    compared = seconds(
        lambda: evaluate_fairness(
            made, threshold=THRESHOLD, settings=SETTINGS, rng=rng, figures=SIX
        )
    )
    print(f"the same and {SETTINGS.null_draws} chance draws of 3 figures: {compared:.1f} s")
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"most memory held: {gib:.2f} GiB (bound: {MOST_GIB:g})")
    if gib > MOST_GIB:
        sys.exit(f"{gib:.2f} GiB are more than {MOST_GIB:g}")


def beside_fairlearn(made: Predictions, repeats: int) -> None:
    """Time both in turn, so that what else the machine does hits both."""
    decided = {
        "sensitivity": recall_score,
        "specificity": lambda y, d: recall_score(y, d, pos_label=0),
        "ppv": precision_score,
        "balanced_accuracy": balanced_accuracy_score,
    }
    tone, truth, scores = made.groups["skin_tone"], made.labels, made.malignancy_scores
    few = 5

    def theirs() -> None:
        # Fairlearn gives all metrics one prediction: those of decisions, then the one of scores.
        for metrics, given in (
            (decided, made.decisions),
            ({"auroc": roc_auc_score, "brier": brier_score_loss}, scores),
        ):
            MetricFrame(
                metrics=metrics,
                y_true=truth,
                y_pred=given,
                sensitive_features=tone,
                n_boot=few,
                ci_quantiles=[0.025, 0.975],
                random_state=0,
            )

    def ours() -> None:
        rng = np.random.default_rng(2)
        evaluate_groups(made, threshold=THRESHOLD, settings=SETTINGS, rng=rng, figures=SIX)

    ratios, own, other = [], [], []
    for _ in range(repeats):
        own.append(seconds(ours))
        # Its value on the data themselves takes as long as a replicate.
        other.append(seconds(theirs) / (few + 1) * SETTINGS.replicates)
        ratios.append(other[-1] / own[-1])
    print(
        f"{len(made):,} predictions, 6 groups, {SETTINGS.replicates} replicates: "
        f"{statistics.median(own):.2f} s; fairlearn {statistics.median(other):.0f} s, "
        f"{few} of them timed; median ratio {statistics.median(ratios):.0f}"
    )


if __name__ == "__main__":
    main()
