"""The head's releases by replay: with and without a patient, before any noise (tier T0)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from skinml.errors import ConfigError
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import UnprotectedEvent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import secret_noise
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import noise_rule
from skinml.records import Labels, Samples
from skinml.training.head import HeadLearner, step_for_mu
from skinml.training.settings import HeadSettings

CLASSES = Labels(("naevus", "melanoma", "keratosis"), (False, True, False))
FEATURES = 6
ROUNDING = 1 + 1e-4
TRUSTS = ("none", "central", "distributed", "local")


BY_CLASS = {"clipping": "by_class", "class_clip_weights": {"melanoma": 3.0, "keratosis": 0.5}}


def learner(trust="distributed", rounds=4, clinics=3, head=None, **changes):
    privacy = PrivacySettings(trust=trust, **changes)
    settings = HeadSettings(rounds=rounds, **(head or {}))
    return HeadLearner(settings, privacy, CLASSES, FEATURES, clinics)


def samples_of(inputs, labels, patients):
    return Samples(np.asarray(inputs, np.float32), np.asarray(labels), np.asarray(patients, str))


def cohort(num_patients=12, seed=0):
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{i}" for i in range(num_patients)], rng.integers(1, 5, num_patients))
    inputs = np.abs(rng.normal(size=(len(patients), FEATURES)))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    return samples_of(inputs, rng.integers(0, 3, len(patients)), patients)


def query(seed=1, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        "weight": (scale * rng.normal(size=(FEATURES + 1, 3))).astype(np.float32),
        "centre": (0.3 * rng.normal(size=FEATURES)).astype(np.float32),
        "offset": rng.normal(size=3),
    }


def released(samples, recipe, arrays, share=0.0):
    """What leaves in both kinds of round, without noise unless a share is given."""
    contributor = recipe.contributor(samples)
    stream = np.random.default_rng(0)
    sums = {}
    with np.errstate(all="ignore"):
        for round_ in recipe.rounds[:2]:
            sent = arrays if round_.number > 1 else {}
            sums |= contributor.contribute(round_, sent, Mechanism(share), stream)
    return sums


def sensitivities(recipe):
    return {r.name: r.sensitivity for round_ in recipe.rounds[:2] for r in round_.releases}


def images_of_one_patient(elements):
    def build(draw_size):
        rows = st.lists(elements, min_size=FEATURES, max_size=FEATURES)
        return st.lists(rows, min_size=draw_size, max_size=draw_size)

    return st.integers(1, 16).flatmap(build)


WILD = st.floats(width=32, allow_nan=True, allow_infinity=True)
TAME = st.floats(0, 1, width=32)


@settings(deadline=None, max_examples=60)
@given(
    images=st.one_of(images_of_one_patient(TAME), images_of_one_patient(WILD)),
    label=st.integers(0, 2),
    trust=st.sampled_from(TRUSTS),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    head=st.sampled_from([{}, {"clipping": "by_class"}, BY_CLASS]),
)
def test_one_patient_moves_each_release_by_at_most_its_sensitivity(
    images, label, trust, scale, head
):
    """P5 and P9: however many images, whatever is in them."""
    recipe, others, sent = learner(trust, head=head), cohort(), query(scale=scale)
    with_one = samples_of(
        np.concatenate([others.inputs, np.asarray(images, np.float32)]),
        np.concatenate([others.labels, [label] * len(images)]),
        np.concatenate([others.patients, ["one"] * len(images)]),
    )
    ours, theirs = (released(part, recipe, sent) for part in (with_one, others))
    for name, bound in sensitivities(recipe).items():
        assert np.linalg.norm(ours[name] - theirs[name]) <= bound * ROUNDING + 1e-5


@pytest.mark.parametrize("trust", TRUSTS)
@pytest.mark.parametrize("head", [{}, BY_CLASS], ids=["flat", "by class"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_patient_at_several_clinics_moves_the_total_by_at_most_the_sensitivity(trust, head, at):
    """unit=patient with K = 3 clinics: the clip and the counts are divided by K."""
    recipe = learner(trust, head=head, unit="patient", max_clinics_per_patient=3)
    sent = query(scale=5.0)
    one = samples_of(np.eye(FEATURES)[:1], [1], ["one"])
    totals = dict.fromkeys(sensitivities(recipe), 0.0)
    for seed in range(3):
        others = cohort(seed=seed)
        joined = samples_of(
            np.concatenate([others.inputs, one.inputs]),
            np.concatenate([others.labels, one.labels]),
            np.concatenate([others.patients, one.patients]),
        )
        ours = released(joined if seed < at else others, recipe, sent)
        theirs = released(others, recipe, sent)
        for name in totals:
            totals[name] = totals[name] + ours[name] - theirs[name]
    for name, bound in sensitivities(recipe).items():
        assert np.linalg.norm(totals[name]) <= bound * at / 3 * ROUNDING
    assert np.linalg.norm(totals["label_counts"]) == pytest.approx(at / 3)


@pytest.mark.parametrize("head", [{}, BY_CLASS], ids=["flat", "by class"])
def test_copies_of_a_patients_images_change_no_release(head):
    """P9."""
    whole = cohort()
    mine = np.flatnonzero(whole.patients == "p3")
    again = whole.take(np.concatenate([np.arange(len(whole)), np.tile(mine, 15)]))
    ours, theirs = (released(part, learner(head=head), query()) for part in (whole, again))
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)


def one_patients_gradient(seed, **settings):
    """What one patient adds, and the gradient before any clip, computed apart."""
    sent, one = query(seed=seed, scale=3.0), cohort(1, seed)
    contributor = learner("none", **settings).contributor(one)
    sum_ = contributor.exact(learner("none").rounds[1], sent)["gradient"]
    direction = one.inputs.mean(axis=0) - sent["centre"]
    feature = np.append(direction / np.linalg.norm(direction), 0.1)
    logits = feature @ sent["weight"] + sent["offset"]
    label = np.bincount(one.labels, weights=1 + 0.5 * (one.labels == 1), minlength=3).argmax()
    error = np.exp(logits - logits.max())
    return sum_, np.outer(feature, error / error.sum() - np.eye(3)[label])


@pytest.mark.parametrize("clip_norm", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("seed", range(6))
def test_each_classs_column_is_shortened_to_its_own_part_of_the_clip(seed, clip_norm):
    sum_, gradient = one_patients_gradient(seed, head=BY_CLASS, clip_norm=clip_norm)
    bounds = clip_norm * np.array([1.0, 3.0, 0.5]) / np.sqrt(1 + 9 + 0.25)
    norms = np.linalg.norm(gradient, axis=0)
    expected = gradient * np.minimum(1.0, bounds / norms)
    np.testing.assert_allclose(sum_, expected, atol=3e-4)
    assert (np.linalg.norm(sum_, axis=0) <= bounds).all()


@pytest.mark.parametrize("head", [{}, BY_CLASS], ids=["flat", "by class"])
@pytest.mark.parametrize("seed", range(3))
def test_of_a_gradient_that_is_not_clipped_each_of_k_clinics_adds_a_kth(seed, head):
    shared = {"unit": "patient", "max_clinics_per_patient": 4, "clip_norm": 20.0}
    sum_, gradient = one_patients_gradient(seed, head=head, **shared)
    np.testing.assert_allclose(4 * sum_, gradient, atol=1e-3)


def test_of_two_classes_equal_bounds_clip_as_one():
    """The errors of two classes are each other's negative, and their columns of one length."""
    two = Labels(("benign", "malignant"), (False, True))
    inputs = cohort(60).inputs
    part = samples_of(inputs, np.arange(len(inputs)) % 2, [f"p{i}" for i in range(len(inputs))])
    sent = {
        name: values[..., :2] if name != "centre" else values for name, values in query().items()
    }
    sums = []
    for clipping in ("flat", "by_class"):
        head = HeadSettings(rounds=2, clipping=clipping)
        recipe = HeadLearner(head, PrivacySettings(trust="none"), two, FEATURES, 1)
        sums.append(recipe.contributor(part).exact(recipe.rounds[1], sent)["gradient"])
    np.testing.assert_allclose(*sums, atol=1e-4 * len(inputs))


def test_a_clip_by_class_changes_neither_releases_nor_noise():
    for trust in TRUSTS:
        assert learner(trust).rounds == learner(trust, head=BY_CLASS).rounds


@pytest.mark.parametrize("way", ["adaptive", "quantile", 0.5, None, ["flat"]])
def test_p11_an_adaptive_clip_is_refused_for_nobody_charges_it(way):
    with pytest.raises(ConfigError, match="no event of the ledger"):
        HeadSettings(clipping=way)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 1e4])
def test_a_weight_that_is_no_weight_is_refused(weight):
    with pytest.raises(ValidationError, match="class_clip_weights"):
        HeadSettings(clipping="by_class", class_clip_weights={"melanoma": weight})


def test_weights_of_no_class_or_of_no_use_are_refused():
    with pytest.raises(ConfigError, match="only where clipping is by_class"):
        HeadSettings(class_clip_weights={"melanoma": 2.0})
    with pytest.raises(ConfigError, match=r"among naevus, melanoma, keratosis; got .*mole"):
        learner(head={"clipping": "by_class", "class_clip_weights": {"mole": 2.0}})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", ["weight", "centre", "offset"])
@pytest.mark.parametrize("head", [{}, BY_CLASS], ids=["flat", "by class"])
def test_a_hostile_query_cannot_tell_whether_a_patient_is_there(name, value, head):
    """An empty clinic and one of one patient must both answer within the bound."""
    recipe, sent = learner(head=head), query()
    sent[name] = np.full_like(sent[name], value)
    sums = released(cohort(1), recipe, sent)
    assert np.isfinite(sums["gradient"]).all()
    assert np.linalg.norm(sums["gradient"]) <= recipe.rounds[1].releases[0].sensitivity * ROUNDING


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("head", [{}, BY_CLASS], ids=["flat", "by class"])
def test_patients_without_finite_features_change_no_sum_and_are_counted(value, head):
    """P5: not even their label counts, and zeros are not taken for their features."""
    whole, recipe = cohort(), learner(head=head)
    inputs = whole.inputs.copy()
    for patient in ("p3", "p5"):
        inputs[np.flatnonzero(whole.patients == patient)[-1], 0] = value
    side = recipe.contributor(samples_of(inputs, whole.labels, whole.patients))
    others = recipe.contributor(whole.take(~np.isin(whole.patients, ["p3", "p5"])))
    for round_ in recipe.rounds[:2]:
        ours, theirs = side.exact(round_, query()), others.exact(round_, query())
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
        assert (side.not_finite, others.not_finite) == (2, 0)


@pytest.mark.parametrize("head", [{}, BY_CLASS], ids=["flat", "by class"])
def test_a_clinic_without_patients_answers_zeros(head):
    sums = released(cohort().take(np.zeros(0, int)), learner(head=head), query())
    assert all(not values.any() for values in sums.values())


@pytest.mark.parametrize("trust", TRUSTS)
def test_neighbouring_cohorts_run_one_schedule(trust):
    """P3 and P13: no cohort is an argument of the schedule, whose length is the config's."""
    recipe = learner(trust, rounds=7)
    assert [r.number for r in recipe.rounds] == list(range(1, 9))
    whole = cohort()
    before = recipe.rounds
    recipe.contributor(whole)
    recipe.contributor(whole.take(whole.patients != "p0"))
    assert recipe.rounds == before == learner(trust, rounds=7).rounds


@pytest.mark.parametrize("eps", [0.5, 3.0])
@pytest.mark.parametrize("rounds", [2, 100])
def test_the_whole_schedule_costs_at_most_the_budget(eps, rounds):
    recipe = learner("local", rounds=rounds, epsilon=eps)
    events = [r.event for round_ in recipe.rounds for r in round_.releases]
    assert 0.995 * eps < epsilon(events, 1e-5) <= eps
    assert len(events) == rounds + 2


def test_without_privacy_the_schedule_says_so():
    recipe = learner("none")
    assert {r.event for x in recipe.rounds for r in x.releases} == {UnprotectedEvent()}


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_each_release_leaves_with_this_clinics_noise(trust):
    recipe = learner(trust)
    share = noise_rule(PrivacySettings(trust=trust), 3).clinic
    exact, noisy = (released(cohort(), recipe, query(), s) for s in (0.0, share))
    for name in exact:
        assert np.array_equal(exact[name], noisy[name]) == (trust == "central")


def test_noise_has_the_releases_own_size():
    """3,000 draws of each release at a clinic without patients; level 1e-6 or so."""
    recipe, empty = learner("local"), cohort().take(np.zeros(0, int))
    drawn = {}
    for _ in range(150):
        for name, values in released(empty, recipe, query(), 1.0).items():
            drawn.setdefault(name, []).append(values.ravel())
    for release in (r for x in recipe.rounds[:2] for r in x.releases):
        values = np.concatenate(drawn[release.name])
        expected = release.sensitivity * release.noise_multiplier
        assert values.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * values.size))


def test_a_step_follows_the_recipe_by_hand():
    """One statistics round and two gradient rounds on exact sums, computed apart."""
    recipe = learner("none", rounds=2)
    contributor, state = recipe.contributor(cohort()), recipe.start()
    for round_ in recipe.rounds:
        sent = recipe.query(round_, state)
        total = contributor.contribute(
            round_, sent, Mechanism(0.0, secret_noise), np.random.default_rng(0)
        )
        if round_.number == 1:
            counts = np.maximum(total["label_counts"], 15)
            centre = total["feature_sum"] / counts.sum()
            weight = velocity = np.zeros((FEATURES + 1, 3))
        else:
            step = total["gradient"] / (0.5 * counts.sum())
            velocity = 0.9 * velocity + step
            weight = weight - 24.0 * 30 / 2 * velocity  # the last step of the settings
        state = recipe.advance(round_, state, total, 1)
    model = recipe.model(state)
    np.testing.assert_allclose(model["centre"], centre, rtol=1e-5)
    np.testing.assert_allclose(model["offset"], np.log(counts / counts.mean()), rtol=1e-5)
    np.testing.assert_allclose(model["weight"], weight, rtol=1e-4, atol=1e-6)


def test_counts_are_floored_and_the_clip_over_clinics_is_undone():
    recipe = learner("none", unit="patient", max_clinics_per_patient=2)
    total = {"label_counts": np.array([-3.0, 10.0, 50.0]), "feature_sum": np.ones(FEATURES)}
    state = recipe.advance(recipe.rounds[0], recipe.start(), total, 1)
    assert state["patients"].tolist() == [15 + 20 + 100]
    np.testing.assert_allclose(state["centre"], 2 / 135, rtol=1e-6)


@pytest.mark.parametrize(
    ("mu", "step"), [(0.05, 1.0), (0.1, 2.0), (1.0, 20.0), (5.0, 20.0), (10**-0.5, 2 * 10**0.5)]
)
def test_a_step_is_read_on_straight_lines_of_logarithms(mu, step):
    assert step_for_mu([(0.1, 2.0), (1.0, 20.0)], mu) == pytest.approx(step)
