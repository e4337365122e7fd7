"""Membership inference through the real recipe: full noise passes, planted faults are caught."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import isinf

import numpy as np
import pytest

from skinml.config import RunConfig, load_config
from skinml.experiments.audit_membership import (
    Claim,
    Crowd,
    Game,
    attack,
    audit_membership,
    crowd,
    draw_members,
    share_of_sum,
    train_head,
)
from skinml.experiments.learners import build_learner, predictor
from skinml.privacy.audit.membership import MembershipFinding
from skinml.privacy.mechanism import Mechanism
from skinml.records import Arrays, Labels, Samples
from skinml.training.learner import Contributor, Learner, Round

CLASSES = Labels(("benign", "malignant"), (False, True))
GAME = Game(references=24, targets=16)
SMALL = ("training.head.rounds=6", "privacy.epsilon=1")


def clinic(name: str, patients: int, seed: int) -> Samples:
    """Features in no relation to the labels: whatever a head knows of them it has by heart."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(patients + 10, 80))
    owners = np.r_[np.arange(patients), np.arange(10)]
    return Samples(
        (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32),
        rng.integers(0, 2, patients + 10),
        np.array([f"{name}{owner}" for owner in owners]),
        {"skin_tone": np.where(owners % 3 == 0, "7-10", "1-3")},
    )


SAMPLES = {"north": clinic("p", 80, 1), "south": clinic("p", 60, 2)}


@cache
def config(*words: str) -> RunConfig:
    return load_config("quickstart", (*SMALL, *words))


@dataclass(frozen=True)
class Mixed:
    """A recipe that plans like one and computes contributions like another."""

    planned: Learner
    computed: Learner

    @property
    def rounds(self) -> tuple[Round, ...]:
        return self.planned.rounds

    def start(self) -> Arrays:
        return self.planned.start()

    def query(self, round_: Round, state: Arrays) -> Arrays:
        return self.planned.query(round_, state)

    def contributor(self, samples: Samples) -> Contributor:
        return self.computed.contributor(samples)

    def advance(self, round_: Round, state: Arrays, total: Arrays, num_clinics: int) -> Arrays:
        return self.planned.advance(round_, state, total, num_clinics)

    def model(self, state: Arrays) -> Arrays:
        return self.planned.model(state)


def played(learner: Learner, share: float, everybody: Crowd) -> list[MembershipFinding]:
    """Attack heads whose noise and clip the test decides on, under a claim of epsilon 1."""
    members = draw_members(GAME, everybody.size, np.random.default_rng(3))
    predict = predictor(config(), CLASSES)

    def of_true_class(arrays: Arrays, images: Samples) -> np.ndarray:
        made = predict(arrays, images).probabilities
        return made[np.arange(len(images)), images.labels]

    heads = np.stack(
        [
            train_head(learner, Mechanism(share), everybody, mine, of_true_class, 2, own=True)
            for mine in members
        ]
    )
    claim = Claim("distributed", 1.0, 1e-5)
    return attack(heads, members, everybody, claim, GAME, np.random.default_rng(4))


def overall(findings: list[MembershipFinding]) -> MembershipFinding:
    return max((f for f in findings if f.attribute == "overall"), key=lambda f: f.auc.value or 0)


def learner(*words: str) -> Learner:
    return build_learner(config(*words), CLASSES, 80, 2)


def test_the_noise_that_was_promised_is_not_flagged() -> None:
    found = overall(played(learner(), 1.0, crowd(SAMPLES)))
    assert not found.flagged
    assert found.auc.low is not None
    assert found.auc.low <= found.most_auc


def test_noise_left_out_is_caught() -> None:
    everybody = crowd(SAMPLES)
    found = overall(played(learner(), 0.0, everybody))
    assert found.flagged, found
    assert found.auc.value is not None
    assert found.auc.value > found.most_auc
    low = found.caught[1].found
    assert low.low is not None
    assert low.low > 5 * found.caught[1].false_positive_rate  # far above what a guess finds
    assert low.low > found.caught[1].most


def test_a_clip_left_out_is_caught() -> None:
    tight, none = learner("privacy.clip_norm=0.02"), learner("privacy.clip_norm=100")
    everybody = crowd(SAMPLES)
    assert not overall(played(tight, 1.0, everybody)).flagged
    found = overall(played(Mixed(tight, none), 1.0, everybody))
    assert found.flagged, found


def test_shuffled_coins_give_a_coins_area() -> None:
    everybody = crowd(SAMPLES)
    members = draw_members(GAME, everybody.size, np.random.default_rng(3))
    signals = np.random.default_rng(5).random((len(members), len(everybody.owners)))
    claim = Claim("none", float("inf"), 1e-5)
    for each in attack(signals, members, everybody, claim, GAME, np.random.default_rng(6)):
        assert each.auc.low is not None
        assert each.auc.high is not None
        assert each.auc.low - 0.03 < 0.5 < each.auc.high + 0.03


def test_the_audit_holds_both_trainings_against_each_other_by_skin_tone() -> None:
    small = Game(references=8, targets=4)
    found = audit_membership(config(), SAMPLES, CLASSES, 1.0, game=small)
    assert {(f.attack, f.trust) for f in found} == {
        (name, trust) for name in ("LiRA", "RMIA") for trust in ("distributed", "none")
    }
    for each in found:
        assert isinf(each.epsilon) == (each.trust == "none")
        assert bool(each.roc) == (each.attribute == "overall")
    sizes = {f.group: f.num_patients for f in found if f.trust == "none"}
    assert sizes["1-3"] + sizes["7-10"] == sizes["all"] == 140
    private = next(f for f in found if f.trust == "distributed")
    bare = next(f for f in found if f.trust == "none")
    assert private.auc.value is not None
    assert bare.auc.value is not None
    assert bare.auc.value > private.auc.value + 0.1


def test_a_patient_of_two_clinics_is_two_units_and_many_images_are_one() -> None:
    everybody = crowd(SAMPLES)
    assert everybody.size == 140  # the ids of the two clinics are the same words
    assert len(everybody.owners) == 160
    bare = {name: replace(part, groups={}) for name, part in SAMPLES.items()}
    assert crowd(bare).tones.size == 0


def test_references_know_everybody_from_both_sides_and_targets_have_fair_coins() -> None:
    members = draw_members(Game(10, 400), 50, np.random.default_rng(0))
    assert (members[:10].sum(axis=0) == 5).all()
    share = members[10:].mean(axis=0)
    assert np.abs(share - 0.5).max() < 4 * 0.5 / np.sqrt(400)
    assert np.corrcoef(members[10:].T)[np.triu_indices(50, 1)].std() < 0.07


@pytest.mark.parametrize(
    ("trust", "share"), [("none", 0.0), ("central", 1.0), ("distributed", 1.0), ("local", 2.0)]
)
def test_the_noise_of_a_sum_is_that_of_its_parts(trust: str, share: float) -> None:
    assert share_of_sum(config(f"privacy.trust={trust}").privacy, 4) == pytest.approx(share)
