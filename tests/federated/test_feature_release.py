"""A mean of public features leaves with the validation scores: one charge, one sensitivity."""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt
from threading import Event

import numpy as np
import pytest

from skinml.config import load_config
from skinml.errors import ConfigError, DataError
from skinml.experiments.guarantee import COVERED
from skinml.experiments.learners import validation_release
from skinml.experiments.likeness import centre_arrays
from skinml.fairness.label_sets import SetsLayout
from skinml.federated.clinic import Clinic, schedule
from skinml.federated.coordinator import exchange_with, grid_asker
from skinml.federated.validation_scores import (
    FeaturePart,
    FeatureRows,
    feature_table,
    mean_of_features,
    score_table,
)
from skinml.models.likeness import CENTRE, NUM_FEATURES, likeness
from skinml.privacy.accounting import epsilon
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.quantise import GRID
from tests.fairness.conftest import binary_predictions
from tests.federated.conftest import NAMES
from tests.federated.test_counted_evaluation import request, with_groups

SHARE, WIDTH = 0.2, 128
LAYOUT = SetsLayout("skin_tone", ("light", "dark", "unknown"), apart=True, share=0.5)


def units(rng, count, width=WIDTH, spread=1.0):
    """Rows of norm 1 about one direction."""
    rows = 1 + spread * rng.normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def hostile(rng, count):
    """Features that no backbone gives: far too long, NaN, infinite, or nothing."""
    rows = units(rng, count)
    rows[0] *= 1e6
    rows[3], rows[5, 7], rows[8, 1:3] = np.nan, np.inf, (np.inf, -np.inf)
    rows[11] = 0
    rows[12] *= 1 + 1e-7  # as single precision rounds
    return rows


@pytest.mark.parametrize("layout", [None, LAYOUT])
@pytest.mark.parametrize(("share", "most"), [(0.2, 1), (0.01, 1), (0.3, 3), (0.4, 7)])
def test_one_patient_moves_scores_sets_and_features_together_by_at_most_the_sensitivity(
    layout, share, most
):
    rng = np.random.default_rng(1)
    count = 60
    patients = rng.choice([f"p{number}" for number in range(20)], count)
    tones = rng.choice(["light", "dark", "else"], count)
    rows = hostile(rng, count)
    scores, truth = rng.random(count), rng.random(count) < 0.4

    def table(kept):
        said = binary_predictions(
            scores[kept], truth[kept], patients[kept], groups={"skin_tone": tones[kept]}
        )
        sums = feature_table(rows[kept], patients[kept], share, most)
        return score_table(said, layout, most, FeatureRows(share, sums))

    full = table(np.ones(count, bool))
    assert np.isfinite(full).all()
    assert np.array_equal(full / GRID, np.rint(full / GRID))
    for patient in np.unique(patients):
        # In Python's own whole numbers: a sensitivity of 1 / most, squared, in units of the grid.
        moved = [int(x) for x in np.rint((full - table(patients != patient)) / GRID).ravel()]
        assert sum(x * x for x in moved) * most**2 <= 2**56


def test_the_worst_patient_uses_nearly_all_of_the_sensitivity():
    rng = np.random.default_rng(2)
    said = binary_predictions([0.0], [True], ["p"], groups={"skin_tone": ["light"]})
    rows = FeatureRows(SHARE, feature_table(units(rng, 1), np.array(["p"]), SHARE, 1))
    assert 0.999 < np.linalg.norm(score_table(said, None, 1, rows)) <= 1
    assert 0.999 < np.linalg.norm(score_table(said, LAYOUT, 1, rows)) <= 1


def test_a_patient_of_features_that_are_no_numbers_is_not_even_counted():
    rng = np.random.default_rng(3)
    rows, patients = units(rng, 3), np.array(["a", "b", "c"])
    rows[1, 5] = np.nan
    found = feature_table(rows, patients, SHARE, 1)
    assert np.array_equal(found, feature_table(rows[[0, 2]], patients[[0, 2]], SHARE, 1))
    assert not feature_table(np.zeros((0, WIDTH)), np.zeros(0, str), SHARE, 1).any()
    with pytest.raises(DataError, match="multiple of 64"):
        feature_table(np.zeros((1, 100)), np.array(["a"]), SHARE, 1)


@pytest.mark.parametrize("most", [1, 3])
def test_without_noise_it_is_the_mean_of_the_patients_means(most):
    rng = np.random.default_rng(4)
    patients, rows = rng.choice(list("abcdefgh"), 30), units(rng, 30)
    expected = np.mean([rows[patients == p].mean(axis=0) for p in np.unique(patients)], axis=0)
    total = sum(
        feature_table(rows[part], patients[part], SHARE, most)
        for part in (patients < "d", patients >= "d")
    )
    found = mean_of_features(total, SHARE, most, 0.0)
    assert np.allclose(found, expected, atol=1e-6)


def test_noise_shortens_the_mean_so_that_usual_images_stay_usual_and_drowns_it_at_last():
    rng = np.random.default_rng(5)
    width, count = 1280, 300
    patients = np.array([f"p{number}" for number in range(count)])
    table = feature_table(units(rng, count, width), patients, SHARE, 1)
    usual, other = units(rng, 200, width), rng.normal(size=(200, width))
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    said = {}
    for std in (0.0, 1.0, 2.0):
        draws = [
            mean_of_features(table + rng.normal(0, std, table.shape), SHARE, 1, std)
            for _ in range(20)
        ]
        assert all(each is not None for each in draws)
        said[std] = [
            (likeness(each, usual).mean(), np.abs(likeness(each, other)).max()) for each in draws
        ]
        # One deviation is 4% at the most.
        assert abs(np.mean([near for near, _ in said[std]]) - 1) < 0.04
        assert all(0.8 < near < 1.2 for near, _ in said[std])
        assert all(far < 0.4 for _, far in said[std])
    assert mean_of_features(table + rng.normal(0, 9.0, table.shape), SHARE, 1, 9.0) is None
    assert mean_of_features(0 * table, SHARE, 1, 0.0) is None
    assert mean_of_features(-table, SHARE, 1, 0.0) is None


WORDS = ("privacy.likeness_share=0.2",)


def test_the_plan_charges_all_of_it_as_one_release_within_epsilon():
    sets = ("fairness.label_sets.share=0.5",)
    config = load_config("quickstart_end_to_end", (*WORDS, *sets))
    release, bare = validation_release(config), validation_release(load_config(config.name, sets))
    assert release.name == bare.name + "_and_features"
    assert release.name in COVERED
    assert release.sensitivity == 1
    assert release.shape == (bare.shape[0] + 1 + NUM_FEATURES // 64, 64)
    assert release.event.dimension == prod(release.shape)
    assert epsilon([release.event], config.privacy.delta) <= config.privacy.epsilon
    assert release.noise_multiplier == pytest.approx(bare.noise_multiplier, rel=1e-4)


def test_the_saved_mean_is_read_with_the_noise_of_the_clinics_that_were_there():
    config = load_config("quickstart_end_to_end", WORDS)
    rng, std = np.random.default_rng(6), validation_release(config).noise_std
    patients = np.array([f"p{number}" for number in range(240)])
    exact = feature_table(units(rng, 240, NUM_FEATURES), patients, SHARE, 1)
    for clinics, kept in ((3, True), (60, False)):
        scores = np.concatenate([np.zeros((2, 64)), exact])
        noisy = scores + rng.normal(0, std * sqrt(clinics), scores.shape)
        found = centre_arrays(config, noisy, num_clinics=clinics, num_present=clinics)
        assert (CENTRE in found) == kept
    assert centre_arrays(load_config(config.name), scores, num_clinics=3, num_present=3) == {}


@pytest.mark.parametrize(
    ("experiment", "words", "told"),
    [
        ("quickstart", WORDS, "but for networks trained end to end"),
        ("quickstart_end_to_end", ("privacy.likeness_share=0.001",), "0.01 or more"),
        ("quickstart_end_to_end", (*WORDS, "fairness.label_sets.share=0.8"), "at most 0.9"),
    ],
)
def test_a_share_that_does_not_fit_is_refused_before_anything_is_read(experiment, words, told):
    with pytest.raises(ConfigError, match=told):
        load_config(experiment, words)


@pytest.fixture
def looking(make):
    """A world whose clinics add up features of validation patients, the inputs written wide."""

    def look(samples):
        rows = np.zeros((len(samples.inputs), WIDTH))
        rows[:, : samples.inputs.shape[1]] = samples.inputs
        return rows

    def build(trust):
        world = make(trust)
        release = replace(
            world.validation,
            name="validation_scores_by_group_and_features",
            shape=(2 + LAYOUT.rows + 1 + WIDTH // 64, 64),
        )
        for place, name in enumerate(NAMES):
            setup, rng = world.setups[name], np.random.default_rng(place)
            parts = {
                split: replace(
                    part, groups={"skin_tone": rng.choice(["light", "dark"], len(part.labels))}
                )
                for split, part in setup.samples.items()
            }
            world.change(
                name,
                validation=release,
                label_sets=LAYOUT,
                features=FeaturePart(SHARE, look),
                samples=parts,
                predict=with_groups(setup.predict),
            )
        return replace(world, validation=release), look

    return build


def exact(world, look):
    """What the clinics hold together, computed beside them."""
    found = 0
    for name in NAMES:
        setup = world.setups[name]
        held = setup.samples["validation"]
        said = setup.predict(request(world).query, held)
        sums = feature_table(look(held), held.patients, SHARE, 1)
        found = found + score_table(said, LAYOUT, 1, FeatureRows(SHARE, sums))
    return found


def test_every_number_of_the_sum_has_the_charged_noise_and_the_ledger_one_entry(looking):
    world, look = looking("local")
    ask = grid_asker(world.grid(), world.terms(), Event())
    last = schedule(world.learner, world.validation)[-1]
    made = exchange_with(ask, world.terms(), world.record, last, request(world).query).total
    assert list(made) == [world.validation.name]
    noise = made[world.validation.name] - exact(world, look)
    std = world.validation.noise_multiplier * sqrt(len(NAMES))
    # 704 numbers: the deviation of their deviation is 2.7%, of their mean 3.8%.
    assert noise.std() == pytest.approx(std, rel=0.2)
    assert noise[-3:].std() == pytest.approx(std, rel=0.35)
    assert abs(noise.mean()) < 0.25 * std
    (entry,) = world.ledger("north")
    assert (entry.name, entry.split) == (world.validation.name, "validation")
    assert entry.event == world.validation.event


def test_they_go_through_secure_sums_too(looking):
    world, look = looking("distributed")
    _, total = world.run()
    assert total.shape == world.validation.shape
    assert np.array_equal(total / GRID, np.rint(total / GRID))
    off = np.abs(total - exact(world, look))[-3:]
    assert 0 < off.max() < 7 * world.validation.noise_multiplier * 1.01


def test_without_noise_a_clinic_sends_exactly_the_table_of_its_patients(looking):
    world, look = looking("local")
    rng, sent = np.random.default_rng(0), 0
    for name in NAMES:
        world.change(name, mechanism=Mechanism(0.0, lambda: fixed_noise(rng)), book=None)
        sent = sent + Clinic(world.setups[name]).answer(request(world))[world.validation.name]
    assert np.array_equal(sent, exact(world, look))
