"""What clinics that poison a run do to it, with the plain sum and with robust strategies.

From the project's folder:

    python scripts/bench_poisoning.py --work DIR [--data ../shared/derm] [--json FILE]
        [--experiments derm_tone ...] [--trusts none local] [--strategies median ...]
        [--poisoners 1 3] [--seeds 3]

The patients of the shipped experiments are dealt out to ten clinics, the sites of derm_malignancy
kept apart; the learners, contributors, strategies and noise shares are the real ones, in one
process. A poisoning clinic adds its noise like the others. Its attack is one of

    sign flip     minus its gradient sum, in every round
    flip x10      minus ten times its gradient sum
    label flip    honest sums of its patients with every label turned round

The first two say the truth in the first round, about label counts and the features' centre. The
robust strategies are told that three clinics may be malicious, however many are. Noise comes from
seeds, as in bench_privacy.py, whose folder of features this script shares: no guarantee holds for
such a run. Which clinics poison is drawn from the seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from bench_privacy import Bench, RoundedNoise
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from skinml.config import RunConfig, load_config
from skinml.experiments.cohorts import open_manifest
from skinml.experiments.learners import build_learner, clinic_mechanism, coordinator_mechanism
from skinml.experiments.progress import Silence
from skinml.experiments.workspace import Workspace
from skinml.federated.local_grid import LocalGrid
from skinml.federated.strategies import combiner
from skinml.models.linear_head import LinearHead
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.records import Arrays, Samples, join_samples
from skinml.training.fit import Exchanged, fit
from skinml.training.learner import Round

EXPERIMENTS = ("derm_malignancy", "derm_tone")
CLINICS = 10
MALICIOUS = 3
_CUT = (MALICIOUS + 0.01) / CLINICS
STRATEGIES: Mapping[str, Sequence[str]] = {
    "sum": ("name=fedavg",),
    "trimmed mean": ("name=trimmed_mean", f"trim_fraction={_CUT:g}"),
    "median": ("name=median",),
    "Krum": ("name=krum", f"malicious_clinics={MALICIOUS}"),
    "Multi-Krum": ("name=krum", f"malicious_clinics={MALICIOUS}", "krum_selects=7"),
}
ATTACKS = ("sign flip", "flip x10", "label flip")
TONES = {"0-2": ("0", "1", "2"), "3": ("3",), "4-5": ("4", "5")}


@dataclass(frozen=True)
class Line:
    """One cell of the table.

    Attributes:
        experiment: Its name.
        trust: Who adds the noise.
        strategy: The strategy's name.
        attack: The attack; empty without one.
        poisoners: How many clinics poison.
        auroc: Median over the seeds, test patients of all clinics.
        low: Least AUROC of a seed.
        high: Greatest.
        worst_tone: Median over the seeds of the least AUROC of a skin tone; None without tones.
    """

    experiment: str
    trust: str
    strategy: str
    attack: str
    poisoners: int
    auroc: float
    low: float
    high: float
    worst_tone: float | None


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark.

    Args:
        arguments: The command line's words.

    Returns:
        The exit code, 0.
    """
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # a line a round
    LocalGrid(None, [])  # type: ignore[arg-type]  # only for the ids that Flower's messages need
    lines: list[Line] = []
    for experiment in asked.experiments:
        scene = Scene(experiment, asked.data, asked.work)
        sys.stdout.write(f"{experiment}: {scene.words}\n")
        attacks = [("", 0), *product(ATTACKS, asked.poisoners)]
        for trust, strategy, (attack, count) in product(asked.trusts, asked.strategies, attacks):
            if trust == "distributed" and strategy != "sum":
                continue
            line = scene.line(trust, strategy, attack, count, asked.seeds)
            lines.append(line)
            sys.stdout.write(
                f"{trust:12} {strategy:13} {attack:11} {count} {line.auroc:.3f} "
                f"[{line.low:.3f}, {line.high:.3f}] worst tone {line.worst_tone}\n"
            )
            sys.stdout.flush()
            if asked.json:
                asked.json.write_text(json.dumps([asdict(each) for each in lines], indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, required=True, help="where features are kept")
    parser.add_argument("--data", type=Path, default=Path("../shared/derm"))
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--trusts", nargs="+", default=["none", "local"])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--poisoners", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--seeds", type=int, default=3)
    return parser


class Scene:
    """One experiment: ten clinics' training samples, and everybody's test items.

    Args:
        experiment: The name.
        data: Folder of the data.
        work: Folder for features.
    """

    def __init__(self, experiment: str, data: Path, work: Path) -> None:
        self._experiment = experiment
        self._overrides = [f"data.root={data}", f"work_dir={work}", "privacy.epsilon=3"]
        bench = Bench(experiment, data, work)
        self._classes = bench.classes
        self._clinics = _dealt({name: own["train"] for name, own in bench.clinics.items()})
        self._test = join_samples([own["test"] for own in bench.clinics.values()])
        config = load_config(experiment, self._overrides)
        frame = open_manifest(config.data, Workspace(work), Silence()).frame
        by_patient = dict(zip(frame["patient_id"], frame["skin_tone"].astype(str), strict=True))
        tones = np.array([by_patient[name] for name in self._test.patients])
        self._tones = [np.isin(tones, values) for values in TONES.values()]
        self._has_tones = experiment == "derm_tone"
        sizes = [len(set(own.patients.tolist())) for own in self._clinics]
        self.words = f"training patients {sizes}, reference {bench.reference_auroc:.3f}"

    def line(self, trust: str, strategy: str, attack: str, poisoners: int, seeds: int) -> Line:
        """Train at every seed.

        Args:
            trust: Who adds the noise.
            strategy: A key of `STRATEGIES`.
            attack: One of `ATTACKS`, or nothing.
            poisoners: How many clinics poison.
            seeds: How many seeds.

        Returns:
            The cell.
        """
        chosen = [f"federation.strategy.{each}" for each in STRATEGIES[strategy]]
        config = load_config(
            self._experiment, [*self._overrides, f"privacy.trust={trust}", *chosen]
        )
        found, worst = [], []
        for seed in range(seeds):
            scores = self._trained(config, attack, poisoners, seed)
            found.append(float(roc_auc_score(self._test.labels, scores)))
            worst.append(
                min(roc_auc_score(self._test.labels[m], scores[m]) for m in self._tones)
                if self._has_tones
                else np.nan
            )
        return Line(
            self._experiment,
            trust,
            strategy,
            attack,
            poisoners,
            float(np.median(found)),
            min(found),
            max(found),
            round(float(np.median(worst)), 4) if self._has_tones else None,
        )

    def _trained(
        self, config: RunConfig, attack: str, poisoners: int, seed: int
    ) -> NDArray[np.float64]:
        """Train one head while some clinics poison; give the test items' scores."""
        rng = np.random.default_rng([seed, *self._experiment.encode()])
        hostile = set(rng.permutation(CLINICS)[:poisoners].tolist()) if attack else set()
        learner = build_learner(config, self._classes, self._test.inputs.shape[1], CLINICS)
        turned = hostile if attack == "label flip" else set()
        sides = [
            learner.contributor(_flipped(own) if number in turned else own)
            for number, own in enumerate(self._clinics)
        ]
        source = RoundedNoise(fixed_noise(rng).words, guarantee=False, rng=rng)
        at_clinic = Mechanism(clinic_mechanism(config, CLINICS).share, lambda: source)
        central = Mechanism(coordinator_mechanism(config, CLINICS).share, lambda: source)
        combine = combiner(config.federation.strategy, config.privacy.trust)

        def exchange(round_: Round, query: Arrays) -> Exchanged:
            sums = {}
            for number, side in enumerate(sides):
                sent = side.contribute(round_, query, at_clinic, rng)
                sums[f"clinic-{number}"] = _lied(sent, attack) if number in hostile else sent
            return Exchanged(combine(sums, round_, central), CLINICS)

        with np.errstate(all="ignore"):  # a poisoned head may overflow
            arrays = fit(learner, exchange).arrays
            head = LinearHead(**arrays, bias_input=config.training.head.bias_input)
            return np.nan_to_num(head.probabilities(self._test.inputs)[:, 1])


def _dealt(clinics: Mapping[str, Samples]) -> list[Samples]:
    """Divide each site's patients among clinics of its own, ten in all of much the same size."""
    patients = {name: np.unique(own.patients) for name, own in clinics.items()}
    parts = dict.fromkeys(clinics, 1)
    while sum(parts.values()) < CLINICS:
        largest = max(parts, key=lambda name: len(patients[name]) / parts[name])
        parts[largest] += 1
    rng, dealt = np.random.default_rng(1), []
    for name, own in clinics.items():
        for group in np.array_split(rng.permutation(patients[name]), parts[name]):
            dealt.append(own.take(np.isin(own.patients, group)))
    return dealt


def _flipped(samples: Samples) -> Samples:
    return replace(samples, labels=1 - samples.labels)


def _lied(sums: Arrays, attack: str) -> Arrays:
    factor = {"sign flip": -1.0, "flip x10": -10.0}.get(attack, 1.0)
    return {name: factor * v if name == "gradient" else v for name, v in sums.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
