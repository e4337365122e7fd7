"""Part of `scripts/bench`: a round of the linear head on cached features.

Three peers. The same recipe in plain NumPy and single precision, as one would write it without
privacy: no clip, no grid, no noise. The same round at the same clinic with trust none, journals and
all. And Opacus' `make_private` on a Linear over the same features, in each of its modes.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_rows import TURNS, Row, Size, in_turn, require_same, row
from numpy.typing import NDArray
from opacus import PrivacyEngine
from torch import nn

from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.clinic.releases import ReleaseRecord
from skinml.config import load_config
from skinml.experiments.sealed_book import SealedBook
from skinml.federated.clinic import Clinic, ClinicSetup
from skinml.federated.messages import Request
from skinml.federated.secure_clinic import secure_clinic
from skinml.federated.secure_session import Session
from skinml.models.linear_head import head_inputs
from skinml.privacy.ledger import Ceilings
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release, gaussian_releases
from skinml.privacy.quantise import GRID
from skinml.privacy.settings import PrivacySettings, Trust
from skinml.privacy.trust import noise_rule
from skinml.records import Arrays, Labels, Predictions, Samples
from skinml.stewardship.encryption import derive_key
from skinml.training.head import HeadLearner
from skinml.training.head_clinic import GRADIENT
from skinml.training.learner import Learner
from skinml.training.settings import HeadSettings

MODES = ("hooks", "functorch", "ew", "ghost")
EPSILON, CLIP_NORM, RUN = 3.0, 0.5, "bench"
# Factors are cut down to multiples of 2**-14, which shows where many patients' gradients cancel.
_SAME: dict[str, float] = {"smoke": 2e-3, "full": 2e-2}


@dataclass(frozen=True)
class Cohort:
    """Drawn patients with one vector each.

    Attributes:
        samples: Their features, labels and ids.
        classes: The classes.
    """

    samples: Samples
    classes: Labels

    @property
    def num_features(self) -> int:
        """Numbers of a vector."""
        return int(self.samples.inputs.shape[1])

    def learner(self, trust: Trust, rounds: int) -> HeadLearner:
        """Build the recipe for one clinic."""
        privacy = PrivacySettings(trust=trust, epsilon=EPSILON, clip_norm=CLIP_NORM)
        settings = HeadSettings(rounds=rounds, learning_rate=1.0)
        return HeadLearner(settings, privacy, self.classes, self.num_features, 1)


def drawn(num_patients: int, num_features: int, num_classes: int) -> Cohort:
    """Draw patients whose features tell a little about their class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(num_classes, size=num_patients)
    means = rng.normal(size=(num_classes, num_features))
    inputs = np.abs(rng.normal(size=(num_patients, num_features)) + 0.1 * means[labels])
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    names = tuple(f"class-{place}" for place in range(num_classes))
    patients = np.array([f"patient-{number:07d}" for number in range(num_patients)])
    malignant = (True, *[False] * (num_classes - 1))
    return Cohort(Samples(inputs.astype(np.float32), labels, patients), Labels(names, malignant))


def rows(size: Size) -> list[Row]:
    """Measure rounds of gradients.

    Args:
        size: "smoke" or "full".

    Returns:
        The rows.
    """
    torch.set_num_threads(1)
    turns = TURNS[size]
    full = size == "full"
    cohort = drawn(5000, 1280, 7) if full else drawn(60, 32, 7)
    found = [against_plain(cohort, turns, size, goal="at most 1.2")]
    found += at_a_clinic(cohort, turns, size)
    found += against_opacus(cohort, turns, size)
    if full:
        for patients, classes in ((500, 7), (50_000, 7), (5000, 2), (5000, 30)):
            found.append(against_plain(drawn(patients, 1280, classes), turns, size))
    return found


def against_plain(cohort: Cohort, turns: int, size: Size, goal: str | None = None) -> Row:
    """Time what a clinic computes in a round beside the same without privacy."""
    learner, state = second_round(cohort, "local")
    contributor, round_ = learner.contributor(cohort.samples), learner.rounds[1]
    query, mechanism = learner.query(round_, state), Mechanism(1.0)
    unused = np.random.default_rng(0)
    plain = Plain(cohort, query, learner)
    mine, other = in_turn(
        lambda: contributor.contribute(round_, query, mechanism, unused),
        lambda: plain.gradient(query["weight"]),
        turns * (4 if len(cohort.samples.labels) < 20_000 else 1),
        clock=time.process_time,
    )
    require_same(
        "norms of patients' gradients, clip included",
        contributor.exact(round_, query)[GRADIENT],
        plain.clipped(query["weight"]),
        _SAME[size],
    )
    count, classes = len(cohort.samples.labels), len(cohort.classes.names)
    name = f"head: a clinic's gradient of {count:,} patients, {classes} classes"
    note = "ours clips each patient, adds up on the grid and draws discrete noise; peer: NumPy"
    return row(
        name,
        [1e3 * each for each in mine],
        [1e3 * each for each in other],
        goal=goal,
        size=size,
        unit="ms of CPU",
        note=f"{note}, single precision, no privacy",
    )


class Plain:
    """The gradient as one writes it without privacy.

    Args:
        cohort: The patients.
        query: Weights, centre and offset.
        learner: The recipe.
    """

    def __init__(self, cohort: Cohort, query: Arrays, learner: HeadLearner) -> None:
        self._inputs = head_inputs(cohort.samples.inputs, query["centre"])
        classes = len(cohort.classes.names)
        self._targets = np.eye(classes, dtype=np.float32)[cohort.samples.labels]
        self._offset = query["offset"].astype(np.float32)

    def gradient(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add up the patients' gradients."""
        return self._inputs.T @ self._errors(weight)

    def clipped(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add them up clipped: one gradient after the other, each written out."""
        total = np.zeros((self._inputs.shape[1], self._targets.shape[1]), np.float64)
        for vector, error in zip(self._inputs, self._errors(weight), strict=True):
            gradient = np.outer(vector, error)
            total += gradient * min(1.0, CLIP_NORM / float(np.linalg.norm(gradient)))
        return total.astype(np.float32)

    def _errors(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = self._inputs @ weight
        scores += self._offset
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        scores -= self._targets
        return scores


def second_round(cohort: Cohort, trust: Trust, rounds: int = 100) -> tuple[HeadLearner, Arrays]:
    """Play the round of statistics and one of gradients, so that weights are not zero."""
    learner = cohort.learner(trust, rounds)
    contributor, state, rng = (
        learner.contributor(cohort.samples),
        learner.start(),
        np.random.default_rng(0),
    )
    for round_ in learner.rounds[:2]:
        query = learner.query(round_, state)
        state = learner.advance(
            round_, state, contributor.contribute(round_, query, Mechanism(0.0), rng), 1
        )
    return learner, state


def at_a_clinic(cohort: Cohort, turns: int, size: Size) -> list[Row]:
    """Time whole answers of a clinic with journals, record and book, private and not."""
    each, found = 3 * turns, []
    for clock, unit in ((time.process_time, "ms of CPU"), (time.perf_counter, "ms")):
        with tempfile.TemporaryDirectory(prefix="bench-") as place:
            private, other = (
                Side(Path(place), cohort, trust, each + 4) for trust in ("local", "none")
            )
            mine, theirs = in_turn(private.answer, other.answer, each, clock=clock)
        waits = "" if unit != "ms" else ", the disk waited for"
        found.append(
            row(
                f"head: a clinic's whole round, {len(cohort.samples.labels):,} patients{waits}",
                [1e3 * one for one in mine],
                [1e3 * one for one in theirs],
                goal="at most 1.2",
                size=size,
                unit=unit,
                note=f"epsilon {EPSILON:g} beside trust none: ledger, record, log and book synced "
                "in both",
            )
        )
    return found


class Side:
    """A clinic in a folder of its own, that is asked round after round.

    Args:
        place: An empty folder.
        cohort: Its patients.
        trust: The trust model.
        rounds: Gradient rounds of the run.
    """

    def __init__(self, place: Path, cohort: Cohort, trust: Trust, rounds: int) -> None:
        self._learner = cohort.learner(trust, rounds)
        make_bench_folder(place / trust)
        privacy = PrivacySettings(trust=trust, epsilon=EPSILON)
        self._names = (trust,)
        self.clinic = open_bench_clinic(
            place / trust, cohort.samples, self._learner, privacy, self._names
        )
        self._state, self._number = self._learner.start(), 0
        self.answer()

    def answer(self) -> None:
        """Ask the next round, and take its step."""
        round_ = self._learner.rounds[self._number]
        self._number += 1
        query = self._learner.query(round_, self._state)
        request = Request(RUN, round_.number, 1, self._names, query)
        total = self.clinic.answer(request)
        self._state = self._learner.advance(round_, self._state, total, 1)


def make_bench_folder(place: Path) -> ClinicFolder:
    """Make a clinic's folder."""
    policy = load_config("quickstart").clinic.policy.model_copy(update={"clinic": place.name})
    place.mkdir()
    (place / "anchors").mkdir()
    return create_folder(
        place / "clinic", name=place.name, policy=policy, anchors=place / "anchors"
    )


def open_bench_clinic(
    place: Path,
    held: Samples,
    learner: Learner,
    privacy: PrivacySettings,
    names: tuple[str, ...],
    session: Session | None = None,
) -> Clinic:
    """Open a folder that `make_bench_folder` made for a run.

    Args:
        place: Where it is; its name is the clinic's.
        held: Its training samples.
        learner: The recipe.
        privacy: The promise.
        names: All clinics of the run.
        session: Terms of secure sums; None: sums leave as they are.

    Returns:
        The clinic.
    """
    folder = open_folder(place / "clinic")
    folder.vault.remember(held.patients.tolist())
    folder.run(RUN).mkdir(parents=True, exist_ok=True)
    record = ReleaseRecord(folder, RUN, "bench")
    everybody = np.ones(len(held.labels), dtype=bool)
    scores = Release("validation_scores", "validation", "validation", 1.0, 0.0, (2, 64), grid=GRID)
    book, secure = SealedBook(folder, RUN, plain=session is None), None
    if session is not None:
        secret = derive_key(folder.key, f"secure sums of run {RUN}")
        secure = secure_clinic(session, folder.name, secret, folder.signing_key, book)
    return Clinic(
        ClinicSetup(
            name=folder.name,
            run=RUN,
            participants=names,
            learner=learner,
            validation=gaussian_releases(privacy, [(scores, 1.0)])[0],
            samples={"train": held, "validation": held, "test": held},
            predict=_predict,
            keep=lambda split, made: None,
            admitted=lambda split: everybody,
            note=lambda entries, masks: record.note(
                entries, {split: held.patients[mask].tolist() for split, mask in masks.items()}
            ),
            ledger=folder.ledger,
            ceilings=Ceilings,
            least_patients=2,
            mechanism=Mechanism(noise_rule(privacy, len(names)).clinic),
            privacy=privacy,
            split_key_id="k",
            sampling_root=1,
            simulated=True,
            secure=secure,
            book=None if secure else book,
            not_finite=record.note_not_finite,
        )
    )


def _predict(model: object, samples: Samples) -> Predictions:
    raise NotImplementedError("no round of the benchmark predicts")


def against_opacus(cohort: Cohort, turns: int, size: Size) -> list[Row]:
    """Time a step beside Opacus' on the same inputs, and keep the row of its fastest mode."""
    learner, state = second_round(cohort, "local")
    contributor, round_ = learner.contributor(cohort.samples), learner.rounds[1]
    query, mechanism = learner.query(round_, state), Mechanism(1.0)
    exact = contributor.exact(round_, query)[GRADIENT]
    unused = np.random.default_rng(0)

    def ours() -> None:
        total = contributor.contribute(round_, query, mechanism, unused)
        learner.advance(round_, state, total, 1)

    found: dict[str, tuple[list[float], list[float]]] = {}
    for mode in MODES:
        quiet = OpacusStep(cohort, query, mode, noise_multiplier=0.0)
        before = quiet.weight()
        quiet.step()
        # A step of size 1 along the mean of clipped gradients.
        moved = (before - quiet.weight()) * len(cohort.samples.labels)
        require_same(f"clipped sum beside Opacus' {mode}", exact, moved.T, _SAME[size])
        peer = OpacusStep(cohort, query, mode, noise_multiplier=1.0)
        found[mode] = in_turn(ours, peer.step, turns, clock=time.process_time)
    middles = {mode: float(np.median(other)) for mode, (_, other) in found.items()}
    best = min(middles, key=middles.__getitem__)
    mine, other = found[best]
    each = ", ".join(f"{mode} {1e3 * seconds:.0f} ms" for mode, seconds in middles.items())
    return [
        row(
            f"head: a step of {len(cohort.samples.labels):,} patients beside Opacus ({best})",
            [1e3 * one for one in mine],
            [1e3 * one for one in other],
            goal="at least 2.5",
            size=size,
            unit="ms of CPU",
            note=f"make_private on a Linear, its whole step without the loader: {each}; its noise "
            "is torch's seeded generator, ours cryptographic and on the grid",
        )
    ]


class OpacusStep:
    """A step of Opacus on the features, all patients in one batch.

    Args:
        cohort: The patients.
        query: Weights, centre and offset.
        mode: Its gradient mode.
        noise_multiplier: Its noise.
    """

    def __init__(self, cohort: Cohort, query: Arrays, mode: str, noise_multiplier: float) -> None:
        inputs = torch.from_numpy(head_inputs(cohort.samples.inputs, query["centre"]))
        self._inputs, self._offset = inputs, torch.from_numpy(query["offset"]).float()
        self._labels = torch.from_numpy(cohort.samples.labels.astype(np.int64))
        layer = nn.Linear(inputs.shape[1], len(cohort.classes.names), bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(query["weight"].T.copy()))
        held = torch.utils.data.TensorDataset(inputs, self._labels)
        criterion = nn.CrossEntropyLoss()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its noise is not secure, and hooks
            made = PrivacyEngine().make_private(
                module=layer,
                optimizer=torch.optim.SGD(layer.parameters(), lr=1.0),
                data_loader=torch.utils.data.DataLoader(held, batch_size=len(inputs)),
                noise_multiplier=noise_multiplier,
                max_grad_norm=CLIP_NORM,
                poisson_sampling=False,
                grad_sample_mode=mode,
                criterion=criterion,
            )
        self._module, self._optimiser = made[0], made[1]
        self._criterion = made[2] if mode == "ghost" else criterion

    def weight(self) -> NDArray[np.float64]:
        """Read the layer's weight."""
        (parameter,) = self._module.parameters()
        return parameter.detach().numpy().astype(np.float64)

    def step(self) -> None:
        """Take one step."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._optimiser.zero_grad()
            loss = self._criterion(self._module(self._inputs) + self._offset, self._labels)
            loss.backward()
            self._optimiser.step()
