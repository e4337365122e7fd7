"""Membership inference on heads (tier T3): reference heads are trained through the recipe itself.

Heads on cached features train in a tenth of a second, so that an attacker can afford dozens. A head
here sees all clinics' patients in one place, with the noise that the clinics' sum would have; none
of them leaves the audit.

Shapes in this file: m models, n images, p patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite, sqrt

import numpy as np

from skinml.config import RunConfig
from skinml.errors import require_in_range, require_positive
from skinml.experiments.learners import build_learner, predictor
from skinml.experiments.progress import Progress, Silence
from skinml.privacy.accounting import gaussian_mu_for
from skinml.privacy.audit.estimators import refined_bound
from skinml.privacy.audit.findings import FLAG_CONFIDENCE
from skinml.privacy.audit.membership import (
    FALSE_POSITIVE_RATES,
    Attack,
    CaughtAt,
    MembershipFinding,
    lira_scores,
    measure,
    most_area,
    most_found,
    patient_signals,
    rmia_scores,
)
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import noise_rule
from skinml.records import (
    UNKNOWN_GROUP,
    Arrays,
    BoolArray,
    FloatArray,
    IntArray,
    Labels,
    Samples,
    StrArray,
    join_samples,
)
from skinml.seeding import Seeds
from skinml.training.fit import Exchanged, fit
from skinml.training.learner import Learner, Round

GROUPS = "skin_tone"
# The bound looks at whole models until it has so many pairs: more take minutes and gain little.
_MOST_PAIRS = 20_000

Predict = Callable[[Arrays, Samples], FloatArray]
"""From a model's arrays and n images to (n,) probabilities of the images' true classes."""


@dataclass(frozen=True)
class Game:
    """How much the attacker does.

    Attributes:
        references: Models that the attacker trains, each on a random half of the patients.
        targets: Models that it attacks.
    """

    references: int = 64
    targets: int = 16

    def __post_init__(self) -> None:
        require_positive(targets=self.targets)
        require_in_range(2, 10_000, references=self.references)


@dataclass(frozen=True, repr=False)
class Crowd:
    """The training patients of all clinics. Per patient: never log.

    Attributes:
        samples: Their n images; a patient of two clinics counts as two, as the unit has it.
        owners: (n,) each image's patient, numbered from 0.
        tones: (p,) each patient's skin tone; empty where the data do not know any.
    """

    samples: Samples
    owners: IntArray
    tones: StrArray

    @property
    def size(self) -> int:
        """Number of patients p."""
        return int(self.owners.max(initial=-1)) + 1


def crowd(samples: Mapping[str, Samples]) -> Crowd:
    """Put the clinics' training samples together.

    Args:
        samples: Each clinic's training samples.

    Returns:
        The crowd.
    """
    parts = [
        Samples(
            part.inputs,
            part.labels,
            np.array([f"{name} {patient}" for patient in part.patients.tolist()], dtype=str),
            part.groups,
        )
        for name, part in samples.items()
    ]
    joined = join_samples(parts)
    _, first, owners = np.unique(joined.patients, return_index=True, return_inverse=True)
    tones = joined.groups[GROUPS][first] if GROUPS in joined.groups else np.array([], dtype=str)
    return Crowd(joined, owners, tones)


def audit_membership(
    config: RunConfig,
    samples: Mapping[str, Samples],
    classes: Labels,
    epsilon: float,
    *,
    game: Game | None = None,
    progress: Progress | None = None,
) -> tuple[MembershipFinding, ...]:
    """Attack heads trained as the experiment says, and heads trained without privacy beside them.

    Args:
        config: The experiment's config, of a linear head.
        samples: Each clinic's training samples, features of norm at most 1.
        classes: What the head tells apart.
        epsilon: What the experiment charges to a ledger; infinite without a promise.
        game: How much the attacker does.
        progress: Hears how far it is.

    Returns:
        For each kind of training and each attack a finding about everybody, then one for each
        skin tone.

    Guarantees:
        The coins and resamples follow from the config's seed. Nothing is released and nothing is
        charged: the heads are forgotten, and the figures are the clinics' own to see.
    """
    game, everybody = game or Game(), crowd(samples)
    members = draw_members(game, everybody.size, Seeds(config.seed).stream("audit/coins"))
    kinds = [(config.privacy, epsilon)] if config.privacy.private else []
    kinds.append((config.privacy.model_copy(update={"trust": "none"}), inf))
    watcher, done = progress or Silence(), 0
    watcher.begin("training reference heads", len(kinds) * len(members))
    found: list[MembershipFinding] = []
    for privacy, promised in kinds:
        train = _trainer(config, privacy, everybody, classes, len(samples))
        probabilities = []
        for number, mine in enumerate(members):
            probabilities.append(train(mine, number < game.references))
            done += 1
            watcher.reached(done)
        claim = Claim(privacy.trust, promised, privacy.delta)
        rng = Seeds(config.seed).stream(f"audit/resamples/{privacy.trust}")
        found += attack(np.stack(probabilities), members, everybody, claim, game, rng)
    return tuple(found)


def draw_members(game: Game, num_patients: int, rng: np.random.Generator) -> BoolArray:
    """Draw who is in the training of which model.

    Args:
        game: How many models there are.
        num_patients: p.
        rng: A stream.

    Returns:
        (m, p), references first. Each patient is in half of the references, rounded down, so that
        the attacker knows both sides of everybody; for the targets each pair has a fair coin of
        its own, which the bound needs.
    """
    places = rng.random((game.references, num_patients)).argsort(axis=0)
    known = places < game.references // 2
    return np.concatenate([known, rng.random((game.targets, num_patients)) < 0.5])


def _trainer(
    config: RunConfig,
    privacy: PrivacySettings,
    everybody: Crowd,
    classes: Labels,
    num_clinics: int,
) -> Callable[[BoolArray, bool], FloatArray]:
    """Prepare the training of heads of one kind."""
    config = config.model_copy(update={"privacy": privacy})
    num_features = everybody.samples.inputs.shape[1]
    learner = build_learner(config, classes, num_features, num_clinics)
    mechanism = Mechanism(share_of_sum(privacy, num_clinics))
    predict = predictor(config, classes)

    def of_true_class(arrays: Arrays, images: Samples) -> FloatArray:
        made = predict(arrays, images).probabilities
        return np.asarray(made[np.arange(len(images)), images.labels])

    return lambda members, own: train_head(
        learner, mechanism, everybody, members, of_true_class, num_clinics, own=own
    )


def share_of_sum(privacy: PrivacySettings, num_clinics: int) -> float:
    """Compute the noise in the sum of all clinics, as `skinml.privacy.trust.noise_rule` shares it.

    Args:
        privacy: The trust model.
        num_clinics: Clinics in the run.

    Returns:
        Standard deviation in multiples of sensitivity times noise multiplier.
    """
    rule = noise_rule(privacy, num_clinics)
    return sqrt(num_clinics * rule.clinic**2 + rule.coordinator**2)


def train_head(
    learner: Learner,
    mechanism: Mechanism,
    everybody: Crowd,
    members: BoolArray,
    predict: Predict,
    num_clinics: int,
    *,
    own: bool = False,
) -> FloatArray:
    """Train one head on some of the patients and ask it about all.

    Args:
        learner: The recipe.
        mechanism: All noise of the sum.
        everybody: The patients.
        members: (p,) who is in training.
        predict: Scores images.
        num_clinics: Clinics in the run that the head stands for.
        own: Whether it is one of the attacker's own. Those get continuous noise, which is drawn
            faster and has the same spread.

    Returns:
        (n,) the head's probability of each image's true class.
    """
    contributor = learner.contributor(everybody.samples.take(members[everybody.owners]))
    nobody = np.random.default_rng(0)  # heads take all patients: nothing is drawn from it

    def exchange(round_: Round, query: Arrays) -> Exchanged:
        asked = _continuous(round_) if own else round_
        return Exchanged(contributor.contribute(asked, query, mechanism, nobody), num_clinics)

    return predict(fit(learner, exchange).arrays, everybody.samples)


def _continuous(round_: Round) -> Round:
    return replace(round_, releases=tuple(replace(each, grid=0.0) for each in round_.releases))


@dataclass(frozen=True)
class Claim:
    """What is promised of the attacked models.

    Attributes:
        trust: The trust model.
        epsilon: What the ledger is charged; infinite without a promise.
        delta: The delta that it is read at.
    """

    trust: str
    epsilon: float
    delta: float

    @property
    def mu(self) -> float | None:
        """Mu of the Gaussian mechanism of that cost; None without a promise."""
        return gaussian_mu_for(self.epsilon, self.delta) if isfinite(self.epsilon) else None


def attack(
    probabilities: FloatArray,
    members: BoolArray,
    everybody: Crowd,
    claim: Claim,
    game: Game,
    rng: np.random.Generator,
) -> list[MembershipFinding]:
    """Run both attacks on trained models.

    Args:
        probabilities: (m, n) each model's probability of an image's true class, references first.
        members: (m, p) who was in the training of which model.
        everybody: The patients.
        claim: What is promised.
        game: How many of the models are references.
        rng: A stream for resampling.

    Returns:
        For each attack a finding about everybody, then one for each skin tone.
    """
    odds, logs = patient_signals(probabilities, everybody.owners, everybody.size)
    cut = game.references
    truth, known = members[cut:], members[:cut]
    scored: dict[Attack, FloatArray] = {
        "LiRA": lira_scores(odds[cut:], odds[:cut], known),
        "RMIA": rmia_scores(logs[cut:], logs[:cut]),
    }
    found = []
    for name, scores in scored.items():
        bound = _bound(scores, truth, claim.delta)
        found.append(_finding(name, ("overall", "all"), scores, truth, claim, game, rng, bound))
        for tone in _tones(everybody.tones):
            mine = everybody.tones == tone
            about = (GROUPS, tone)
            found.append(
                _finding(name, about, scores[:, mine], truth[:, mine], claim, game, rng, None)
            )
    return found


def _tones(tones: StrArray) -> list[str]:
    """Order the tones that are there, the unknown last."""
    return sorted(set(tones.tolist()), key=lambda tone: (tone == UNKNOWN_GROUP, tone))


def _bound(scores: FloatArray, members: BoolArray, delta: float) -> float:
    """Bound epsilon from below; every pair of target and patient has a fair coin of its own."""
    models = max(1, min(len(scores), _MOST_PAIRS // max(scores.shape[1], 1)))
    return refined_bound(scores[:models].ravel(), members[:models].ravel(), delta, FLAG_CONFIDENCE)


def _finding(
    name: Attack,
    about: tuple[str, str],
    scores: FloatArray,
    members: BoolArray,
    claim: Claim,
    game: Game,
    rng: np.random.Generator,
    bound: float | None,
) -> MembershipFinding:
    measured = measure(scores, members, rng)
    pairs = zip(FALSE_POSITIVE_RATES, measured.found, strict=True)
    return MembershipFinding(
        attack=name,
        trust=claim.trust,
        attribute=about[0],
        group=about[1],
        num_patients=scores.shape[1],
        num_targets=game.targets,
        num_references=game.references,
        epsilon=claim.epsilon,
        delta=claim.delta,
        auc=measured.auc,
        most_auc=most_area(claim.mu),
        caught=tuple(CaughtAt(rate, each, most_found(rate, claim.mu)) for rate, each in pairs),
        roc=() if bound is None else measured.roc,
        most_roc=() if bound is None or claim.mu is None else _most_roc(claim.mu),
        lower_limit=bound or 0.0,
    )


def _most_roc(mu: float) -> tuple[tuple[float, float], ...]:
    rates = np.geomspace(1e-3, 1.0, 60).tolist()
    return tuple((rate, most_found(rate, mu)) for rate in rates)
