"""What mitigation in training does to AUROC by skin tone, and what it costs.

From the project's folder:

    python scripts/bench_mitigation.py --work DIR [--data ../shared/derm] [--json FILE]
        [--arms reweigh group_dro] [--epsilons none 3] [--seeds 3] [--split-keys skinml-1 ...]

The shipped experiment `derm_tone`, its clinics and settings, the real learners, contributors and
noise shares, in one process; features are shared with bench_privacy.py, and so is the seeded noise:
no guarantee holds for such a run. Each arm is held against the same run without mitigation, on the
same test lesions: paired differences of the mean over the seeds, with 95% intervals from resampled
lesions, drawn anew within each split key and joined. A head without noise is the same at each
seed; what another choice of training patients does to it is told by several split keys, each of
which has test patients of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_privacy import Bench, RoundedNoise
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from skinml.config import load_config
from skinml.experiments.cohorts import open_manifest
from skinml.experiments.learners import build_learner, clinic_mechanism, coordinator_mechanism
from skinml.experiments.progress import Silence
from skinml.experiments.workspace import Workspace
from skinml.fairness.after_training import after_training
from skinml.fairness.thresholds import choose_threshold, score_edges, score_histogram
from skinml.models.linear_head import LinearHead
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.records import Arrays, Predictions, Samples, join_samples
from skinml.training.fit import Exchanged, fit
from skinml.training.group_weights import GROUP_WEIGHTS
from skinml.training.learner import Round

EXPERIMENT = "derm_tone"
ARMS: Mapping[str, Sequence[str]] = {
    "off": (),
    "reweigh": ("mitigation.method=reweigh",),
    "reweigh, ratio 2": ("mitigation.method=reweigh", "mitigation.greatest_ratio=2"),
    "group_dro": ("mitigation.method=group_dro",),
    "group_dro, step 0.5": ("mitigation.method=group_dro", "mitigation.dro_step=0.5"),
    "qfedavg": ("mitigation.method=qfedavg",),
}
TONES = {"0-2": ("0", "1", "2"), "3": ("3",), "4-5": ("4", "5")}
DARK, LIGHT = "0-2", "4-5"
RESAMPLES = 1000

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Trained:
    """A trained head.

    Attributes:
        test: (n,) scores of the test items.
        validation: (n,) scores of the validation items.
        weights: The groups' factors in the last round; None without.
    """

    test: Scores
    validation: Scores
    weights: tuple[float, ...] | None


@dataclass(frozen=True)
class Line:
    """One figure of one arm.

    Attributes:
        arm: What was tried.
        epsilon: Epsilon of a run; None without privacy.
        figure: "overall", "darkest" or "gap": lightest less darkest AUROC.
        value: Mean over seeds and split keys.
        seed_sd: Standard deviation over the noise seeds, mean over the split keys.
        key_sd: Standard deviation over the split keys; None of one.
        difference: Value less that of the run without mitigation.
        low: Lower end of its 95% interval.
        high: Upper end.
        weights: Factors of the groups at the end, of the last run; None without.
    """

    arm: str
    epsilon: float | None
    figure: str
    value: float
    seed_sd: float
    key_sd: float | None
    difference: float
    low: float
    high: float
    weights: tuple[float, ...] | None


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark.

    Args:
        arguments: The command line's words.

    Returns:
        The exit code, 0.
    """
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    scenes = [Scene(key, asked.data, asked.work) for key in asked.split_keys]
    lines: list[Line] = []
    for epsilon in asked.epsilons:
        arms = [arm for arm in asked.arms if epsilon is None or arm != "qfedavg"]
        plain = [scene.trained("off", epsilon, asked.seeds) for scene in scenes]
        for arm in ("off", *arms):
            made = [scene.trained(arm, epsilon, asked.seeds) for scene in scenes]
            for line in _lines(arm, epsilon, scenes, made, plain):
                lines.append(line)
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
            if asked.json:
                asked.json.write_text(json.dumps([asdict(each) for each in lines], indent=1))
    if asked.after:
        for epsilon in asked.epsilons:
            sys.stdout.write(f"{epsilon}: {json.dumps(scenes[0].after(epsilon), indent=1)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, required=True, help="where features are kept")
    parser.add_argument("--data", type=Path, default=Path("../shared/derm"))
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS)[1:], default=list(ARMS)[1:])
    parser.add_argument("--epsilons", nargs="+", type=_epsilon, default=[None, 3.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--after", action="store_true", help="thresholds and lines of groups' own, first split key"
    )
    parser.add_argument("--split-keys", nargs="+", default=["skinml-1"])
    return parser


def _epsilon(word: str) -> float | None:
    return None if word == "none" else float(word)


class Scene:
    """The experiment under one split key.

    Args:
        key: The split key.
        data: Folder of the data.
        work: Folder for features.
    """

    def __init__(self, key: str, data: Path, work: Path) -> None:
        self._overrides = [f"data.root={data}", f"work_dir={work}", f"data.split_key={key}"]
        config = load_config(EXPERIMENT, self._overrides)
        bench = Bench(EXPERIMENT, data, work, split_key=key)
        frame = open_manifest(config.data, Workspace(work), Silence()).frame
        tones = dict(zip(frame["patient_id"], frame["skin_tone"].astype(str), strict=True))
        self._classes = bench.classes
        self._clinics = [_with_tones(own["train"], tones) for own in bench.clinics.values()]
        self.test = _with_tones(
            join_samples([own["test"] for own in bench.clinics.values()]), tones
        )
        self.validation = _with_tones(
            join_samples([own["validation"] for own in bench.clinics.values()]), tones
        )
        self._known: dict[tuple[str, float | None, int], Trained] = {}

    def trained(self, arm: str, epsilon: float | None, seeds: int) -> list[Trained]:
        """Train at every seed.

        Args:
            arm: A key of `ARMS`.
            epsilon: None without privacy.
            seeds: How many noise seeds.

        Returns:
            For each the test items' scores, and the groups' factors in the last round.
        """
        found = []
        for seed in range(1 if epsilon is None else seeds):
            key = (arm, epsilon, seed)
            if key not in self._known:
                self._known[key] = self._run(*key)
            found.append(self._known[key])
        return found

    def _run(self, arm: str, epsilon: float | None, seed: int) -> Trained:
        promise = "privacy.trust=none" if epsilon is None else f"privacy.epsilon={epsilon:g}"
        config = load_config(EXPERIMENT, [*self._overrides, promise, *ARMS[arm]])
        count, rng = len(self._clinics), np.random.default_rng([seed, 7])
        learner = build_learner(config, self._classes, self.test.inputs.shape[1], count)
        sides = [learner.contributor(own) for own in self._clinics]
        source = RoundedNoise(fixed_noise(rng).words, guarantee=False, rng=rng)
        at_clinic = Mechanism(clinic_mechanism(config, count).share, lambda: source)
        central = Mechanism(coordinator_mechanism(config, count).share, lambda: source)
        sent: list[tuple[float, ...]] = []

        def exchange(round_: Round, query: Arrays) -> Exchanged:
            if GROUP_WEIGHTS in query:
                sent.append(tuple(np.round(query[GROUP_WEIGHTS], 3).tolist()))
            parts = [side.contribute(round_, query, at_clinic, rng) for side in sides]
            total = {
                r.name: central.privatize(r, np.sum([part[r.name] for part in parts], axis=0))
                for r in round_.releases
            }
            return Exchanged(total, count)

        arrays = fit(learner, exchange).arrays
        head = LinearHead(**arrays, bias_input=config.training.head.bias_input)
        test, validation = (
            head.probabilities(each.inputs)[:, 1] for each in (self.test, self.validation)
        )
        return Trained(test, validation, sent[-1] if sent else None)

    def after(self, epsilon: float | None) -> Mapping[str, Any]:
        """Try thresholds and recalibrations of groups' own on the run without mitigation.

        Args:
            epsilon: None without privacy.

        Returns:
            The analysis, at the threshold of the exact validation scores.
        """
        made = self.trained("off", epsilon, 1)[0]
        sides = [
            Predictions(
                self._classes,
                part.labels,
                np.stack([1 - scores, scores], axis=1),
                (scores >= 0.5).astype(np.int64),
                part.patients,
                part.groups,
            )
            for part, scores in ((self.validation, made.validation), (self.test, made.test))
        ]
        held = sides[0]
        counts = score_histogram(held.malignancy_scores, held.malignant, held.patients, 64)
        return after_training(
            *sides,
            "skin_tone",
            choose_threshold(counts, score_edges(64)).value,
            settings=load_config(EXPERIMENT).fairness,
            rng=lambda: np.random.default_rng(5),
        ).values()

    def figures(self, scores: Scores, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Compute the figures on some of the test items.

        Args:
            scores: (n,) of all items.
            rows: Which items, resampled.

        Returns:
            Overall and darkest AUROC, and the gap.
        """
        truth, tones = self.test.labels[rows], self.test.groups["skin_tone"][rows]
        taken = scores[rows]
        dark, light = (
            roc_auc_score(truth[tones == tone], taken[tones == tone]) for tone in (DARK, LIGHT)
        )
        return np.array([roc_auc_score(truth, taken), dark, light - dark])


def _with_tones(samples: Samples, tones: Mapping[str, str]) -> Samples:
    bins = {value: name for name, values in TONES.items() for value in values}
    words = [bins.get(tones[name], "unknown") for name in samples.patients.tolist()]
    return Samples(samples.inputs, samples.labels, samples.patients, {"skin_tone": np.array(words)})


def _lines(
    arm: str,
    epsilon: float | None,
    scenes: Sequence[Scene],
    made: Sequence[Sequence[Trained]],
    plain: Sequence[Sequence[Trained]],
) -> list[Line]:
    """Put one arm's figures together, each with what it differs by."""
    by_key, sds, differences, drawn = [], [], [], []
    for scene, ours, theirs in zip(scenes, made, plain, strict=True):
        everybody = np.arange(len(scene.test))
        values = np.array([scene.figures(each.test, everybody) for each in ours])
        base = np.array([scene.figures(each.test, everybody) for each in theirs])
        by_key.append(values.mean(axis=0))
        sds.append(values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(3))
        differences.append(values.mean(axis=0) - base.mean(axis=0))
        drawn.append(_resampled(scene, ours, theirs) if arm != "off" else np.zeros((1, 3)))
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5], axis=0)
    return [
        Line(
            arm,
            epsilon,
            name,
            float(np.mean([each[at] for each in by_key])),
            float(np.mean([each[at] for each in sds])),
            float(np.std([each[at] for each in by_key], ddof=1)) if len(by_key) > 1 else None,
            float(np.mean([each[at] for each in differences])),
            float(low[at]),
            float(high[at]),
            made[-1][-1].weights,
        )
        for at, name in enumerate(("overall", "darkest", "gap"))
    ]


def _resampled(
    scene: Scene,
    ours: Sequence[Trained],
    theirs: Sequence[Trained],
) -> NDArray[np.float64]:
    """(resamples, figures) differences; every item of these data is one lesion."""
    rng = np.random.default_rng(11)
    differences = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(scene.test), len(scene.test))
        pair = [
            np.mean([scene.figures(each.test, rows) for each in side], axis=0)
            for side in (ours, theirs)
        ]
        differences.append(pair[0] - pair[1])
    return np.array(differences)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
