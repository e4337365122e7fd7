"""Part of `scripts/bench`: figures by group beside fairlearn's bootstrap. Alone: a million of them.

    python scripts/bench_fairness.py [--large 1000000]

Times depend on the machine: read them beside each other, not against another day's. The memory of a
million predictions is held against its bound, and the script fails when it is passed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
from bench_rows import TURNS, Row, Size, in_turn, require_same, row
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
from skinml.records import GroupResult, Labels, Predictions

SIX = ("auroc", "sensitivity", "specificity", "ppv", "balanced_accuracy", "brier")
MOST_GIB = 4.0
THRESHOLD = 0.4
SETTINGS = FairnessSettings(replicates=2000, groups=("skin_tone",))


def main() -> None:
    """Draw predictions, time figures and comparisons, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=int, default=1_000_000, help="predictions")
    options = parser.parse_args()
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


def alone(made: Predictions) -> None:
    """Six figures of everybody and of each group, then the comparisons of groups too."""
    rng = np.random.default_rng(1)
    began = time.perf_counter()
    evaluate_groups(made, threshold=THRESHOLD, settings=SETTINGS, rng=rng, figures=SIX)
    took = time.perf_counter() - began
    words = f"{len(made):,} predictions of {len(np.unique(made.patients)):,} patients, 5 groups"
    print(f"{words}, 6 figures, {SETTINGS.replicates} replicates: {took:.1f} s")
    began = time.perf_counter()
    evaluate_fairness(made, threshold=THRESHOLD, settings=SETTINGS, rng=rng, figures=SIX)
    compared = time.perf_counter() - began
    print(f"the same and {SETTINGS.null_draws} chance draws of 3 figures: {compared:.1f} s")
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"most memory held: {gib:.2f} GiB (bound: {MOST_GIB:g})")
    if gib > MOST_GIB:
        sys.exit(f"{gib:.2f} GiB are more than {MOST_GIB:g}")


def rows(size: Size) -> list[Row]:
    """Measure the part of `scripts/bench`; fairlearn is timed for 20 replicates and scaled.

    Args:
        size: "smoke" or "full".

    Returns:
        The row.
    """
    full = size == "full"
    made = draw(16_577, 16_577, groups=6) if full else draw(600, 600, groups=3)
    few = 20 if full else 1
    require_same_figures(made)
    ours, peer = in_turn(lambda: ours_of(made), lambda: theirs_of(made, few), TURNS[size])
    # Its value on the data themselves takes as long as a replicate.
    scaled = [seconds / (few + 1) * SETTINGS.replicates for seconds in peer]
    name = f"{len(made):,} predictions, 6 figures, {SETTINGS.replicates} replicates"
    note = f"fairlearn's MetricFrame, from {few} replicates"
    return [row(name, ours, scaled, goal="at least 100", size=size, note=note)]


def ours_of(made: Predictions) -> tuple[GroupResult, ...]:
    """Six figures with intervals for each group."""
    rng = np.random.default_rng(2)
    return evaluate_groups(made, threshold=THRESHOLD, settings=SETTINGS, rng=rng, figures=SIX)[1]


def theirs_of(made: Predictions, replicates: int) -> dict[str, dict[str, float]]:
    """The same by fairlearn, which gives all metrics one prediction: decisions, then scores."""
    decided = {
        "sensitivity": recall_score,
        "specificity": lambda y, d: recall_score(y, d, pos_label=0),
        "ppv": precision_score,
        "balanced_accuracy": balanced_accuracy_score,
    }
    scored = {"auroc": roc_auc_score, "brier": brier_score_loss}
    found: dict[str, dict[str, float]] = {}
    for metrics, given in ((decided, made.decisions), (scored, made.malignancy_scores)):
        frame = MetricFrame(
            metrics=metrics,
            y_true=made.labels,
            y_pred=given,
            sensitive_features=made.groups["skin_tone"],
            n_boot=replicates,
            ci_quantiles=[0.025, 0.975],
            random_state=0,
        )
        found |= frame.by_group.to_dict()
    return found


def require_same_figures(made: Predictions) -> None:
    """Hold both sides' figures of each group against each other."""
    theirs = theirs_of(made, 1)
    for group in ours_of(made):
        mine = [group.estimates[name].value for name in SIX]
        require_same(f"figures of {group.group}", mine, [theirs[n][group.group] for n in SIX], 1e-9)


if __name__ == "__main__":
    main()
