"""Canaries planted into one run (audit tiers T1 and T2): what they betray against the ledger.

T1 sees every release of the real recipe's rounds through the real clinics, ledgers, noise and
coordinator; T2 sees the final model alone. All patients are drawn, canaries included, so that no
patient's data are read and nothing is charged.

Symbols in this file: m canaries, d features, k classes, s pixels of an image's side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor, nn

from skinml.config import RunConfig
from skinml.experiments.approval import expected_classes
from skinml.experiments.audit_stage import (
    Stage,
    Tamper,
    named,
    num_clinics,
    without_budget,
)
from skinml.experiments.learners import build_learner, predictor
from skinml.experiments.progress import Progress, Silence
from skinml.privacy.audit.canaries import (
    Evidence,
    add_release,
    canary_scores,
    no_evidence,
    toss_coins,
)
from skinml.privacy.audit.estimators import auc, gaussian_fit, one_run_bound, refined_bound
from skinml.privacy.audit.findings import FLAG_CONFIDENCE, CanaryFinding, NotAudited
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import NoiseSource, fixed_noise, secret_noise
from skinml.privacy.plan import Release
from skinml.records import Arrays, BoolArray, FloatArray, Labels, Samples
from skinml.seeding import Seeds
from skinml.training.learner import Contributor, Learner, Round
from skinml.training.network import WEIGHTS, NetworkLearner

# One step of training is as good as another: what a round adds does not depend on the others.
_ROUNDS = 10
# A short step keeps every canary's gradient at the clip, where it loses most.
_STEP = 0.01
_OTHERS_FEATURES = 64
_OTHERS_PIXELS = 16
# So bright that every canary's gradient is clipped.
_BRIGHTNESS = 20.0
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class CanaryPlan:
    """How much an audit by canaries does.

    Attributes:
        num_canaries: m, about half of which are in training. Half the noise is told from all of it
            from about 150 / mu**2 on, which is 300 at epsilon 3.
        rounds: Training rounds of T1 at most; the noise of each follows from their number.
        seed: Root of the coins and of the drawn patients.
    """

    num_canaries: int = 400
    rounds: int = _ROUNDS
    seed: int = 0


@dataclass(frozen=True, repr=False)
class _Scene:
    """A recipe with drawn patients.

    Attributes:
        config: The config that is run.
        learner: Its recipe.
        canaries: (m,) one item each.
        others: Known patients by clinic.
        alone: From the recipe that the clinics follow to what each canary adds to a release.
        score: (m,) how well a final model knows the canaries' labels.
    """

    config: RunConfig
    learner: Learner
    canaries: Samples
    others: tuple[Samples, ...]
    alone: Callable[[Learner], Callable[[Round, Arrays], Mapping[str, FloatArray]]]
    score: Callable[[Arrays], FloatArray]


def white_box(
    config: RunConfig,
    plan: CanaryPlan | None = None,
    *,
    open_source: Callable[[], NoiseSource] = secret_noise,
    tamper: Tamper | None = None,
    progress: Progress | None = None,
) -> tuple[CanaryFinding | NotAudited, ...]:
    """Plant canaries and read every release (tier T1).

    Args:
        config: The experiment's config; model, privacy and training are read.
        plan: How much is done.
        open_source: Opens the noise of a release; fixed noise makes the finding repeat.
        tamper: Plants a fault in every clinic, for tests.
        progress: Hears how far it is.

    Returns:
        One finding, or why there is none.

    Raises:
        ConfigError: If the sections do not fit together.

    Guarantees:
        A mechanism whose noise is what its ledger says is flagged with a chance of at most 0.1%,
        as far as the scores are Gaussian, which noise of this kind makes them.
    """
    plan = plan or CanaryPlan()
    what = f"recipe {_name(config)}, trust {config.privacy.trust}"
    if not config.privacy.private:
        why = "Nothing is promised under trust none: there is no epsilon to hold it against."
        return (NotAudited("T1", what, why),)
    scene = _scene(without_budget(config), plan, random_labels=False)
    included = toss_coins(plan.num_canaries, Seeds(plan.seed).stream("audit/coins"))
    with tempfile.TemporaryDirectory() as folder:
        stage = _stage(scene, included, Path(folder), open_source, tamper)
        evidence = _watched(scene, stage, plan, progress or Silence())
        epsilon = stage.epsilon
    scores = canary_scores(evidence)
    delta = config.privacy.delta
    fit = gaussian_fit(scores, included, delta, FLAG_CONFIDENCE)
    seen = "one clinic's own releases"
    if config.privacy.trust != "local":
        seen = "the sum over all clinics"
    return (
        CanaryFinding(
            tier="T1",
            recipe=_name(config),
            trust=config.privacy.trust,
            seen=seen,
            num_canaries=plan.num_canaries,
            epsilon=epsilon,
            delta=delta,
            auc=auc(scores, included),
            one_run_bound=one_run_bound(scores, included, delta, _CONFIDENCE),
            refined_bound=refined_bound(scores, included, delta, _CONFIDENCE),
            estimate=fit.estimate,
            lower_limit=fit.lower_limit,
            bound_confidence=_CONFIDENCE,
            confidence=FLAG_CONFIDENCE,
        ),
    )


def black_box(
    config: RunConfig,
    plan: CanaryPlan | None = None,
    *,
    open_source: Callable[[], NoiseSource] = secret_noise,
    tamper: Tamper | None = None,
    progress: Progress | None = None,
) -> tuple[CanaryFinding | NotAudited, ...]:
    """Plant canaries with random labels and ask the final model alone (tier T2).

    Args:
        config: The experiment's config; model, privacy and training are read.
        plan: How much is done; all of the config's rounds are run.
        open_source: Opens the noise of a release; fixed noise makes the finding repeat.
        tamper: Plants a fault in every clinic, for tests.
        progress: Hears how far it is.

    Returns:
        One finding. Without a promise its epsilon is infinite.

    Raises:
        ConfigError: If the sections do not fit together.
    """
    plan = plan or CanaryPlan()
    watcher = progress or Silence()
    scene = _scene(without_budget(config), plan, random_labels=True)
    included = toss_coins(plan.num_canaries, Seeds(plan.seed).stream("audit/coins"))
    with tempfile.TemporaryDirectory() as folder:
        stage = _stage(scene, included, Path(folder), open_source, tamper)
        learner, state = scene.learner, scene.learner.start()
        watcher.begin("training with canaries", len(learner.rounds))
        for round_ in learner.rounds:
            total = stage.run(round_, learner.query(round_, state))
            state = learner.advance(round_, state, total, num_clinics(config))
            watcher.reached(round_.number)
        epsilon = stage.epsilon
    scores = _level(scene.score(learner.model(state)), scene.canaries.labels)
    delta = config.privacy.delta
    return (
        CanaryFinding(
            tier="T2",
            recipe=_name(config),
            trust=config.privacy.trust,
            seen="the final model",
            num_canaries=plan.num_canaries,
            epsilon=epsilon,
            delta=delta,
            auc=auc(scores, included),
            one_run_bound=one_run_bound(scores, included, delta, _CONFIDENCE),
            refined_bound=refined_bound(scores, included, delta, _CONFIDENCE),
            estimate=nan,
            lower_limit=one_run_bound(scores, included, delta, FLAG_CONFIDENCE),
            bound_confidence=_CONFIDENCE,
            confidence=FLAG_CONFIDENCE,
        ),
    )


def _name(config: RunConfig) -> str:
    return (
        config.privacy.recipe if config.model.kind == "linear_head" else str(config.model.network)
    )


def _stage(
    scene: _Scene,
    included: BoolArray,
    folder: Path,
    open_source: Callable[[], NoiseSource],
    tamper: Tamper | None,
) -> Stage:
    present = scene.canaries.take(included)
    return Stage(scene.config, scene.learner, scene.others, present, folder, open_source, tamper)


def _watched(scene: _Scene, stage: Stage, plan: CanaryPlan, progress: Progress) -> Evidence:
    """Run all training rounds and gather what each release tells of the canaries."""
    learner, state = scene.learner, scene.learner.start()
    contributions = scene.alone(stage.recipe)
    evidence = no_evidence(plan.num_canaries)
    progress.begin("watching canaries", len(learner.rounds))
    for round_ in learner.rounds:
        query = learner.query(round_, state)
        total, seen = stage.exchange(round_, query)
        added = contributions(round_, query)
        for release in round_.releases:
            left = seen.sums[release.name] - seen.known[release.name]
            left = left * _units(scene.config, release)
            std = release.sensitivity * release.noise_multiplier
            evidence = add_release(evidence, added[release.name], left, std)
        state = learner.advance(round_, state, total, num_clinics(scene.config))
        progress.reached(round_.number)
    return evidence


def _units(config: RunConfig, release: Release) -> float:
    """Turn weights after one local step into the sum that moved them."""
    network = config.training.network
    if release.name != WEIGHTS:
        return 1.0
    return -release.sampling_prob * network.expected_patients / network.learning_rate


def _level(scores: FloatArray, labels: NDArray[np.integer[Any]]) -> FloatArray:
    """Take each label's mean out: how likely a label is anyway tells nothing of a canary."""
    means = np.array([scores[labels == label].mean() for label in labels])
    return np.asarray(scores - means)


def _scene(config: RunConfig, plan: CanaryPlan, *, random_labels: bool) -> _Scene:
    classes = expected_classes(config)
    rng = Seeds(plan.seed).stream("audit/patients")
    last = len(classes.names) - 1
    drawn = rng.integers(0, last + 1, plan.num_canaries)
    labels = drawn if random_labels else np.full(plan.num_canaries, last)
    if config.model.kind == "linear_head":
        return _head_scene(config, plan, classes, labels, rng, short=not random_labels)
    return _network_scene(config, plan, classes, labels, rng, short=not random_labels)


def _shares(total: int, parts: int) -> list[slice]:
    edges = np.linspace(0, total, parts + 1).astype(int)
    return [slice(start, end) for start, end in pairwise(edges.tolist())]


def _head_scene(
    config: RunConfig,
    plan: CanaryPlan,
    classes: Labels,
    labels: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    short: bool,
) -> _Scene:
    """Canaries with a feature each; the others share features that no canary has."""
    if short:
        head = config.training.head
        changes = {"rounds": min(plan.rounds, head.rounds), "learning_rate": _STEP}
        training = config.training.model_copy(update={"head": head.model_copy(update=changes)})
        config = config.model_copy(update={"training": training})
    count, num_others = plan.num_canaries, 4 * plan.num_canaries
    size = count + _OTHERS_FEATURES
    canaries = named("canary", np.eye(count, size, dtype=np.float32), labels)
    inputs = np.zeros((num_others, size), dtype=np.float32)
    inputs[:, count:] = rng.standard_normal((num_others, _OTHERS_FEATURES))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    # None of the canaries' class, so that the model does not expect it and errs by much.
    others = named("other", inputs, rng.integers(0, max(len(classes.names) - 1, 1), num_others))
    parts = num_clinics(config)
    learner = build_learner(config, classes, size, parts)

    def alone(recipe: Learner) -> Callable[[Round, Arrays], Mapping[str, FloatArray]]:
        each = [recipe.contributor(canaries.take(np.array([at]))) for at in range(count)]
        return lambda round_, query: _each_alone(each, round_, query)

    def score(model: Arrays) -> FloatArray:
        found = predictor(config, classes)(model, canaries).probabilities
        return np.asarray(np.log(np.maximum(found[np.arange(count), labels], 1e-300)))

    known = tuple(others.take(np.arange(num_others)[part]) for part in _shares(num_others, parts))
    return _Scene(config, learner, canaries, known, alone, score)


def _each_alone(
    contributors: Sequence[Contributor], round_: Round, query: Arrays
) -> Mapping[str, FloatArray]:
    """Ask what each canary adds, without noise: (m, size of the release)."""
    silence = Mechanism(0.0, lambda: fixed_noise(np.random.default_rng(0)))
    rng = np.random.default_rng(0)
    answers = [each.contribute(round_, query, silence, rng) for each in contributors]
    return {
        release.name: np.stack([answer[release.name].ravel() for answer in answers])
        for release in round_.releases
    }


class _Pixels(nn.Module):
    """One weight a pixel and class: canaries that light one pixel each have gradients apart."""

    def __init__(self, num_pixels: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Linear(num_pixels, num_classes, bias=False)
        nn.init.zeros_(self.weight.weight)

    def forward(self, images: Tensor) -> Tensor:
        lit = (images.flatten(1) + 1) / 2 * _BRIGHTNESS
        scores: Tensor = self.weight(lit)
        return scores


def _network_scene(
    config: RunConfig,
    plan: CanaryPlan,
    classes: Labels,
    labels: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    short: bool,
) -> _Scene:
    """Canaries with a pixel each, for the steps of end-to-end training."""
    settings = config.training.network
    changes: dict[str, object] = {"augmentations": 0, "steps_per_round": 1}
    steps = settings.rounds * settings.steps_per_round
    changes |= {"rounds": min(plan.rounds, steps) if short else steps}
    if short:
        # Everybody in every sample, with the same divisor: where samples are secret, most of what
        # is lost cannot be seen in one run. That samples are fair is for T0 and their own tests.
        divisor = settings.sampling_prob * settings.expected_patients
        changes |= {"learning_rate": _STEP, "sampling_prob": 1.0, "expected_patients": divisor}
    settings = settings.model_copy(update=changes)
    training = config.training.model_copy(update={"network": settings})
    config = config.model_copy(update={"training": training})
    count = plan.num_canaries
    side = ceil(sqrt((count + _OTHERS_PIXELS) / 3))

    def build() -> nn.Module:
        return _Pixels(3 * side * side, len(classes.names))

    canaries = named("canary", _lit(np.arange(count), side), labels)
    places = rng.integers(count, 3 * side * side, count // 4)
    others = named("other", _lit(places, side), rng.integers(0, len(classes.names), len(places)))
    learner = NetworkLearner(settings, config.privacy, build)

    def alone(recipe: Learner) -> Callable[[Round, Arrays], Mapping[str, FloatArray]]:
        whole = recipe.contributor(canaries)
        return lambda round_, query: _by_pixel(whole, config, round_, query, count)

    def score(model: Arrays) -> FloatArray:
        (weights,) = model.values()
        logits = weights.astype(np.float64)[:, :count].T * _BRIGHTNESS
        return np.asarray(log_softmax(logits, axis=1)[np.arange(count), labels])

    parts = num_clinics(config)
    known = tuple(others.take(np.arange(len(places))[part]) for part in _shares(len(places), parts))
    return _Scene(config, learner, canaries, known, alone, score)


def _lit(pixels: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
    """Draw an image for each pixel in which only that pixel, in the network's order, is lit."""
    flat = np.zeros((len(pixels), 3, side * side), dtype=np.uint8)
    channel, place = np.divmod(pixels, side * side)
    flat[np.arange(len(pixels)), channel, place] = 255
    return np.ascontiguousarray(flat.reshape(-1, 3, side, side).transpose(0, 2, 3, 1))


def _by_pixel(
    whole: Contributor, config: RunConfig, round_: Round, query: Arrays, count: int
) -> Mapping[str, FloatArray]:
    """Read what each canary adds from the sum of all: no two share a weight."""
    (release,) = round_.releases
    silence = Mechanism(0.0, lambda: fixed_noise(np.random.default_rng(0)))
    (sums,) = whole.contribute(round_, query, silence, np.random.default_rng(0)).values()
    (before,) = query.values()
    if release.name == WEIGHTS:
        sums = (sums - before.ravel()) * _units(config, release)
    columns = np.asarray(sums).reshape(before.shape)[:, :count]
    added = np.zeros((count, *before.shape))
    added[np.arange(count), :, np.arange(count)] = columns.T
    return {release.name: added.reshape(count, -1)}
