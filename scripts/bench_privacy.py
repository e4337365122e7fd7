"""What privacy costs in AUROC: the head's recipes against the best head without privacy.

From the project's folder:

    python scripts/bench_privacy.py --work DIR [--data ../shared/derm] [--json FILE]
        [--experiments derm_diagnosis ...] [--epsilons 1 3 8] [--seeds 5] [--beside-seeds 2]

The shipped experiments' cohorts, splits and settings, the real learners, contributors and noise
shares, in one process. Noise is drawn as rounded normals, which on so fine a grid nobody can tell
from the discrete noise of a real run; it comes from seeds, so that a table can be made again: no
guarantee holds for such a run. Settings were chosen on folds of training and validation patients;
each setting meets the test patients once. The reference is a logistic regression on the same
features, its C chosen on the validation patients. Differences are means over the noise seeds, with
95% intervals from resampled patients, paired. Features are kept in DIR in the clear: the data are
public. With public images a recipe knows the other data set, without patients of the cohort's own.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skinml.config import RunConfig, load_config
from skinml.data.cohort import Cohort, build_cohort
from skinml.data.images import decode_image, resize_square
from skinml.experiments.cohorts import open_manifest
from skinml.experiments.learners import build_learner, clinic_mechanism, coordinator_mechanism
from skinml.experiments.progress import Silence
from skinml.experiments.workspace import Workspace
from skinml.models.backbones import load_backbone
from skinml.models.linear_head import LinearHead, item_features
from skinml.privacy.clipping import mean_by_patient, modal_labels
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import NoiseSource, fixed_noise
from skinml.records import Arrays, Labels, Samples, join_samples
from skinml.seeding import Seeds
from skinml.training.fit import Exchanged, fit
from skinml.training.learner import Round

EXPERIMENTS = ("derm_malignancy", "derm_tone", "derm_diagnosis")
# Which rows of the manifest are public to an experiment; patients of its own are left out.
PUBLIC = {"derm_diagnosis": "MILK10k", "derm_tone": "HAM10000"}
RECIPES = ("centred", "projected", "started", "preconditioned", "prototypes")
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
RESAMPLES = 1000

Clinics = Mapping[str, Mapping[str, Samples]]


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        experiment: Its name.
        setting: Recipe, or what else was changed.
        epsilon: Epsilon of a run at delta 1e-5.
        auroc: Mean over the noise seeds (and clinics, where each is alone).
        seed_sd: Standard deviation over the seeds; None for one.
        loss: Reference minus auroc.
        low: Lower end of the loss' 95% interval.
        high: Upper end.
    """

    experiment: str
    setting: str
    epsilon: float
    auroc: float
    seed_sd: float | None
    loss: float
    low: float
    high: float


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark.

    Args:
        arguments: The command line's words.

    Returns:
        The exit code, 0.
    """
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(asked.threads)
    lines: list[Line] = []
    for experiment in asked.experiments:
        bench = Bench(experiment, asked.data, asked.work)
        _say(f"{experiment}: reference {bench.reference_auroc:.4f}, {bench.words}")
        for setting, epsilon, overrides, seeds, alone in _settings(asked, experiment):
            line = bench.line(setting, epsilon, overrides, seeds, alone=alone)
            lines.append(line)
            _say(
                f"{experiment:16} {setting:18} {epsilon:4g} {line.auroc:.4f} "
                f"loss {line.loss:.4f} [{line.low:.4f}, {line.high:.4f}] sd {line.seed_sd}"
            )
            if asked.json:
                asked.json.write_text(json.dumps([asdict(each) for each in lines], indent=1))
    return 0


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, required=True, help="where features are kept")
    parser.add_argument("--data", type=Path, default=Path("../shared/derm"))
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=RECIPES[:3])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1, 3, 8])
    parser.add_argument("--seeds", type=int, default=5, help="noise seeds of the recipes")
    parser.add_argument("--beside-seeds", type=int, default=2, help="of the settings beside them")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def _settings(
    asked: argparse.Namespace, experiment: str
) -> list[tuple[str, float, list[str], int, bool]]:
    """List name, epsilon, overrides, seeds, and whether clinics are alone."""
    settings = []
    public = experiment in PUBLIC
    for recipe in asked.recipes:
        needs_public = recipe in ("projected", "started", "preconditioned")
        if public or not needs_public:
            for epsilon in asked.epsilons:
                settings.append((recipe, epsilon, [f"privacy.recipe={recipe}"], asked.seeds, False))
    if not asked.beside_seeds:
        return settings
    for name, overrides, alone in (
        ("local noise", ["privacy.trust=local"], False),
        ("one clinic alone", ["privacy.trust=central"], True),
        ("one may collude", ["privacy.colluding_clinics=1"], False),
    ):
        for epsilon in asked.epsilons:
            settings.append((name, epsilon, overrides, asked.beside_seeds, alone))
    return settings


@dataclass(frozen=True)
class RoundedNoise(NoiseSource):
    """Draws noise for the benchmark only: seeded, and rounded to the grid.

    Attributes:
        rng: The stream.
    """

    rng: np.random.Generator

    def on_grid(self, shape: Sequence[int], std: float, grid: float) -> NDArray[np.float64]:
        """Draw noise as `NoiseSource.on_grid` does."""
        return np.asarray(np.round(self.rng.normal(0, std, tuple(shape)) / grid) * grid)


class Bench:
    """One experiment: its clinics' features, its reference, its test patients.

    Args:
        experiment: The name.
        data: Folder of the data.
        work: Folder for features.
        split_key: Another way of splitting than the experiment's own.
    """

    def __init__(
        self, experiment: str, data: Path, work: Path, split_key: str | None = None
    ) -> None:
        self.experiment = experiment
        self._overrides = [f"data.root={data}", f"work_dir={work}"]
        if split_key is not None:
            self._overrides.append(f"data.split_key={split_key}")
        config = load_config(experiment, self._overrides)
        manifest = open_manifest(config.data, Workspace(work), Silence())
        cohort = build_cohort(
            manifest,
            config.data,
            Seeds(config.data.seed),
            purpose=config.purpose,
            day=datetime.datetime.now(tz=datetime.UTC).date(),
        )
        self.classes: Labels = cohort.labels
        self.clinics = clinics_of(cohort, config, work)
        if experiment in PUBLIC:
            listed = _list_public(manifest.frame, cohort, PUBLIC[experiment], data, work)
            self._overrides.append(f"training.head.public_images={listed}")
        parts = {
            split: join_samples([own[split] for own in self.clinics.values()])
            for split in ("train", "validation", "test")
        }
        self._test = parts["test"]
        self._reference, penalty = _reference(parts, self.classes)
        self.reference_auroc = _auroc(self._test.labels, self._reference)
        patients = {split: len(set(part.patients.tolist())) for split, part in parts.items()}
        self.words = f"C={penalty:g}, {len(self.clinics)} clinics, patients {patients}"

    def line(
        self, setting: str, epsilon: float, overrides: Sequence[str], seeds: int, *, alone: bool
    ) -> Line:
        """Train at every seed and compare with the reference.

        Args:
            setting: The name in the table.
            epsilon: Epsilon of a run.
            overrides: What the setting changes in the shipped config.
            seeds: Noise seeds.
            alone: Whether each clinic trains a head of its own.

        Returns:
            The row.
        """
        own = [*self._overrides, f"privacy.epsilon={epsilon:g}", *overrides]
        config = load_config(self.experiment, own)
        groups: list[Clinics] = [self.clinics]
        if alone:
            groups = [{name: clinic} for name, clinic in self.clinics.items()]
        scores = [[self._trained(config, group, seed) for group in groups] for seed in range(seeds)]
        aurocs = [
            float(np.mean([_auroc(self._test.labels, one) for one in each])) for each in scores
        ]
        low, high = self._interval([one for each in scores for one in each])
        mean = float(np.mean(aurocs))
        spread = float(np.std(aurocs, ddof=1)) if seeds > 1 else None
        return Line(
            self.experiment,
            setting,
            epsilon,
            mean,
            spread,
            self.reference_auroc - mean,
            low,
            high,
        )

    def _trained(self, config: RunConfig, clinics: Clinics, seed: int) -> NDArray[np.float64]:
        """Train one head by the shipped recipe; score everyone's test items."""
        num_features = self._test.inputs.shape[1]
        learner = build_learner(config, self.classes, num_features, len(clinics))
        sides = {name: learner.contributor(own["train"]) for name, own in clinics.items()}
        rng = np.random.default_rng([seed, *self.experiment.encode()])
        source = RoundedNoise(fixed_noise(rng).words, guarantee=False, rng=rng)
        noise = clinic_mechanism(config, len(clinics)).share
        at_clinic = Mechanism(noise, lambda: source)
        central = Mechanism(
            coordinator_mechanism(config, len(clinics)).share, at_clinic.open_source
        )
        sampling = np.random.default_rng(0)  # no head samples patients

        def exchange(round_: Round, query: Arrays) -> Exchanged:
            replies = [
                side.contribute(round_, query, at_clinic, sampling) for side in sides.values()
            ]
            total = {
                release.name: central.privatize(
                    release, np.sum([reply[release.name] for reply in replies], axis=0)
                )
                for release in round_.releases
            }
            return Exchanged(total, len(sides))

        head = LinearHead(
            **fit(learner, exchange).arrays, bias_input=config.training.head.bias_input
        )
        return head.probabilities(self._test.inputs)

    def _interval(self, scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
        """Resample test patients; compare reference and mean of the runs on each resample."""
        rng = np.random.default_rng(20_250_701)
        _, position = np.unique(self._test.patients, return_inverse=True)
        num_patients = int(position.max()) + 1
        reference = _ranked(self._test.labels, self._reference)
        runs = [_ranked(self._test.labels, each) for each in scores]
        losses = []
        for _ in range(RESAMPLES):
            drawn = rng.integers(num_patients, size=num_patients)
            weights = np.bincount(drawn, minlength=num_patients)[position].astype(np.float64)
            found = [_area(each, weights) for each in runs]
            losses.append(_area(reference, weights) - float(np.mean(found)))
        low, high = np.percentile(losses, [2.5, 97.5])
        return float(low), float(high)


def clinics_of(cohort: Cohort, config: RunConfig, work: Path) -> dict[str, dict[str, Samples]]:
    """Give each clinic its items' features by split, kept in a folder."""
    names = cohort.images["image"].to_numpy(dtype=str)
    found = _features(sorted(set(names.tolist())), cohort.root, config, work)
    by_image = np.stack([found[name] for name in names])
    inputs = item_features(by_image[cohort.views])
    items = cohort.items
    clinic, split = items["clinic"].to_numpy(str), items["split"].to_numpy(str)
    labels, patients = items["label"].to_numpy(np.int64), items["patient_id"].to_numpy(str)

    def part(mask: NDArray[np.bool_]) -> Samples:
        return Samples(inputs[mask], labels[mask], patients[mask])

    return {
        name: {each: part((clinic == name) & (split == each)) for each in set(split.tolist())}
        for name in sorted(set(clinic.tolist()))
    }


def _features(
    names: Sequence[str], root: Path, config: RunConfig, work: Path
) -> dict[str, NDArray[np.float32]]:
    """Compute the features of images that the cache lacks."""
    backbone = load_backbone(config.model)
    place = work / f"{backbone.version.replace('/', '_')}.npz"
    known: dict[str, NDArray[np.float32]] = {}
    if place.is_file():
        with np.load(place, allow_pickle=False) as kept:
            known = dict(zip(kept["names"].tolist(), kept["features"], strict=True))
    missing = [name for name in names if name not in known]
    for at in range(0, len(missing), 16):
        batch = [decode_image(root / name, config.data.limits) for name in missing[at : at + 16]]
        squares = torch.stack([resize_square(image, backbone.image_size) for image in batch])
        known |= dict(zip(missing[at : at + 16], backbone.extract(squares), strict=True))
    if missing:
        np.savez(place, names=np.array(list(known)), features=np.stack(list(known.values())))
    return known


def _list_public(frame: Any, cohort: Cohort, dataset: str, data: Path, work: Path) -> Path:
    """List the other data set's dermoscopic images, without any patient of the cohort."""
    own = set(cohort.items["patient_id"])
    rows = frame[(frame["dataset"] == dataset) & (frame["modality"] == "dermoscopic")]
    rows = rows[~rows["patient_id"].isin(own)]
    binary = cohort.labels.names == ("benign", "malignant")
    place = work / f"public-{dataset}.csv"
    with place.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label"])
        for row in rows.itertuples():
            label = cohort.labels.names[int(row.malignant)] if binary else row.diagnosis
            writer.writerow([str((data / row.image).resolve()), label])
    return place


def _reference(parts: Mapping[str, Samples], classes: Labels) -> tuple[NDArray[np.float64], float]:
    """Fit logistic regressions without privacy; choose C on the validation patients."""
    from sklearn.linear_model import LogisticRegression

    rows, position = mean_by_patient(parts["train"].inputs, parts["train"].patients)
    malignant = np.asarray(classes.malignant, dtype=bool)
    labels = modal_labels(parts["train"].labels, position, malignant)
    fitted = []
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=2000).fit(rows, labels)
        found = _auroc(parts["validation"].labels, model.predict_proba(parts["validation"].inputs))
        fitted.append((found, penalty, model.predict_proba(parts["test"].inputs)))
    _, chosen, scores = max(fitted, key=lambda each: each[0])
    return scores, chosen


def _auroc(labels: NDArray[Any], scores: NDArray[np.float64]) -> float:
    """Compute the area under the ROC curve, of each class against the rest on average."""
    return _area(_ranked(labels, scores), np.ones(len(labels)))


def _ranked(
    labels: NDArray[Any], scores: NDArray[np.float64]
) -> list[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """Rank the items once for each curve: who is positive, and at which place of the scores."""
    columns = range(scores.shape[1]) if scores.shape[1] > 2 else (1,)
    return [
        (labels == column, np.unique(scores[:, column], return_inverse=True)[1])
        for column in columns
    ]


def _area(
    ranked: Sequence[tuple[NDArray[np.bool_], NDArray[np.intp]]], weights: NDArray[np.float64]
) -> float:
    found = []
    for positive, position in ranked:
        ups = np.bincount(position, weights * positive)
        downs = np.bincount(position, weights * ~positive)
        pairs = ups.sum() * downs.sum()
        if pairs > 0:
            found.append(float(ups @ (np.cumsum(downs) - downs / 2) / pairs))
    return float(np.mean(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
