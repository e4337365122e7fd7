"""The head's ready recipes: what they set, what they ask of a patient, what public images do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from skinml.config import load_config
from skinml.data.settings import ImageLimits
from skinml.errors import ConfigError, DataError
from skinml.models.linear_head import LinearHead, head_inputs
from skinml.models.settings import ModelSettings
from skinml.privacy.accounting import epsilon
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import noise_rule
from skinml.records import Labels, Samples
from skinml.training.fit import Exchanged, fit
from skinml.training.head import HeadLearner
from skinml.training.head_clinic import CLASS_SUMS
from skinml.training.public_images import NO_LABEL, PublicImages, public_images
from skinml.training.recipes import RECIPES, with_recipe
from skinml.training.settings import HeadSettings

CLASSES = Labels(("benign", "malignant"), (False, True))
WIDTH = 24


def drawn(num, seed, classes=2, shift=0.6):
    """Items that differ along few directions, of which the first tell the classes apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, num)
    rows = np.full((num, WIDTH), 0.5)
    rows[:, :4] += 0.4 * rng.normal(size=(num, 4))
    rows[:, 4:] += 0.02 * rng.normal(size=(num, WIDTH - 4))
    rows[np.arange(num), labels] += shift
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def samples(num, seed, prefix="p"):
    rows, labels = drawn(num, seed)
    return Samples(rows, labels, np.array([f"{prefix}{i}" for i in range(num)]))


def known(num=300, seed=99, axes=4, labels=True):
    rows, truth = drawn(num, seed)
    return PublicImages(rows, truth if labels else np.full(num, NO_LABEL), 1, axes)


def learner(recipe, clinics=1, public=None, classes=CLASSES, rounds=10, **privacy):
    ready = RECIPES[recipe]
    head = HeadSettings(**(dict(ready.head) | {"rounds": rounds, "reference_patients": 400}))
    settings = PrivacySettings(**(dict(ready.privacy) | {"recipe": recipe} | privacy))
    opened = None if public is None else lambda: public
    return HeadLearner(head, settings, classes, WIDTH, clinics, opened), settings


def trained(recipe, parts, rng=None, **more):
    """Train over clinics; without a stream without noise."""
    recipe_of, settings = learner(recipe, len(parts), **more)
    rule = noise_rule(settings, len(parts))
    source = fixed_noise(rng) if rng is not None else None
    clinic, central = (
        Mechanism(0.0 if source is None else share, lambda: source or fixed_noise(None))
        for share in (rule.clinic, rule.coordinator)
    )
    sides = [recipe_of.contributor(part) for part in parts]

    def exchange(round_, query):
        replies = [side.contribute(round_, query, clinic, None) for side in sides]
        total = {
            release.name: central.privatize(release, sum(reply[release.name] for reply in replies))
            for release in round_.releases
        }
        return Exchanged(total, len(sides))

    return LinearHead(**fit(recipe_of, exchange).arrays)


def accuracy(head, seed=7):
    rows, labels = drawn(600, seed)
    return np.mean(head.decisions(rows) == labels)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fills_in_only_what_the_config_is_silent_about(name):
    ready = RECIPES[name]
    silent = with_recipe({"privacy": {"recipe": name}, "training": {"head": {}}})
    assert silent["training"]["head"] == dict(ready.head)
    assert silent["privacy"] == dict(ready.privacy) | {"recipe": name}
    said = {
        "privacy": {"recipe": name, "centre_share": 0.3},
        "training": {"head": {"rounds": 7}, "network": {"rounds": 3}},
    }
    filled = with_recipe(said)
    assert filled["training"]["head"] == dict(ready.head) | {"rounds": 7}
    assert filled["training"]["network"] == {"rounds": 3}
    assert filled["privacy"] == dict(ready.privacy) | said["privacy"]


def test_the_config_of_a_recipe_says_what_it_sets():
    config = load_config(
        "quickstart",
        ["privacy.recipe=preconditioned", "training.head.public_images=some/folder"],
    )
    assert config.training.head.rounds == RECIPES["preconditioned"].head["rounds"]
    again = load_config("quickstart", ["training.head.rounds=12"])
    assert (again.privacy.recipe, again.training.head.rounds) == ("centred", 12)


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if r.needs != "nothing"])
def test_a_recipe_without_its_public_images_is_refused(name):
    with pytest.raises(ConfigError, match="public_images"):
        load_config("quickstart", [f"privacy.recipe={name}"])


def test_a_public_centre_needs_public_images_and_leaves_its_share_to_the_gradients():
    with pytest.raises(ConfigError, match="centring"):
        load_config("quickstart", ["training.head.centring=public"])
    public, part = known(), samples(100, 5)
    made = {}
    for centring in ("paid", "public"):
        head = HeadSettings(rounds=3, centring=centring)
        settings = PrivacySettings(recipe="projected", epsilon=2.0, trust="central")
        made[centring] = HeadLearner(head, settings, CLASSES, WIDTH, 1, lambda: public)
    names = [[r.name for r in recipe.rounds[0].releases] for recipe in made.values()]
    assert names == [["label_counts", "feature_sum"], ["label_counts"]]
    paid, free = (recipe.rounds[1].releases[0].noise_multiplier for recipe in made.values())
    assert free**2 / paid**2 == pytest.approx(0.85 / 0.95, rel=1e-6)
    recipe = made["public"]
    statistics = recipe.rounds[0]
    replies = recipe.contributor(part).contribute(statistics, {}, Mechanism(0.0), None)
    assert set(replies) == {"label_counts"}
    state = recipe.advance(statistics, recipe.start(), replies, 1)
    np.testing.assert_allclose(state["centre"], public.mean, rtol=1e-6)


def test_one_sum_for_each_patients_class_has_no_bounds_of_classes():
    for name in RECIPES:
        overrides = [
            f"privacy.recipe={name}",
            "training.head.clipping=by_class",
            "training.head.class_clip_weights.malignant=2",
            "training.head.public_images=pictures",
        ]
        if name == "prototypes":
            with pytest.raises(ConfigError, match=r"flat where privacy\.recipe is prototypes"):
                load_config("quickstart", overrides)
        else:
            config = load_config("quickstart", overrides)
            assert config.training.head.class_clip_weights == {"malignant": 2.0}


@pytest.mark.parametrize("values", [{}, {"privacy": 3}, {"privacy": {"recipe": "x"}}])
def test_what_is_no_config_is_left_for_the_validation(values):
    assert with_recipe(values) == values


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_each_recipe_costs_at_most_its_epsilon(name, trust):
    recipe, settings = learner(name, trust=trust, epsilon=2.0)
    events = [release.event for round_ in recipe.rounds for release in round_.releases]
    spent = epsilon(events, settings.delta)
    assert 1.99 < spent <= 2.0


@pytest.mark.parametrize("copies", [1, 2, 16])
@pytest.mark.parametrize("clip_norm", [0.25, 0.5, 1.4])
def test_one_patient_moves_the_class_sums_by_at_most_the_clip(copies, clip_norm):
    recipe, _ = learner("prototypes", clip_norm=clip_norm)
    round_, others = recipe.rounds[1], samples(30, 1)
    one, label = drawn(1, 2)
    ours = Samples(
        np.concatenate([others.inputs, np.repeat(one, copies, axis=0)]),
        np.concatenate([others.labels, np.repeat(label, copies)]),
        np.concatenate([others.patients, np.repeat("new", copies)]),
    )
    query = {"centre": np.full(WIDTH, 0.1, np.float32)}
    sums = [recipe.contributor(part).exact(round_, query)[CLASS_SUMS] for part in (ours, others)]
    moved = np.linalg.norm(sums[0] - sums[1])
    assert 0.99 * min(clip_norm, 1.0) < moved <= clip_norm


def test_prototypes_are_the_classes_means_against_the_mean_of_all():
    part = samples(400, 3)
    head = trained("prototypes", [part], trust="none")
    inputs = head_inputs(part.inputs, part.inputs.mean(axis=0))[:, :-1]
    expected = np.stack([inputs[part.labels == k].mean(axis=0) for k in (0, 1)], axis=1)
    expected -= inputs.mean(axis=0)[:, None]
    np.testing.assert_allclose(head.weight[:-1] / 10, expected, atol=2e-3)
    assert accuracy(head) > 0.85


def test_projection_keeps_what_lies_in_the_public_directions_and_nothing_else():
    public = known()
    random = np.random.default_rng(0).normal(size=(WIDTH, 3))
    inside = public.shaped(random)
    np.testing.assert_allclose(public.shaped(inside), inside, atol=1e-10)
    np.testing.assert_allclose(inside.T @ (random - inside), 0, atol=1e-10)
    assert np.linalg.matrix_rank(public.shaped(np.eye(WIDTH)), tol=1e-8) == 4


def test_views_are_projected_one_by_one():
    one, two = known(), replace(known(), num_views=2)
    rows = np.random.default_rng(1).normal(size=(2 * WIDTH, 2))
    expected = np.concatenate([one.shaped(rows[:WIDTH]), one.shaped(rows[WIDTH:])])
    np.testing.assert_allclose(two.shaped(rows), expected, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(two.mean), np.linalg.norm(one.mean))


def test_a_noisy_centre_is_drawn_to_the_public_mean_as_its_noise_grows():
    public, rng = known(), np.random.default_rng(2)
    true = public.mean + public.shaped(0.05 * rng.normal(size=(WIDTH, 1)))[:, 0]
    np.testing.assert_allclose(public.centre(true, 0.0), true, atol=1e-9)
    np.testing.assert_allclose(public.centre(true, 1e6), public.mean, atol=1e-6)
    noisy = true + 0.2 * rng.normal(size=WIDTH)
    assert np.linalg.norm(public.centre(noisy, 0.2) - true) < np.linalg.norm(noisy - true) / 2


def test_a_public_start_knows_the_classes_and_refuses_to_start_from_one_class():
    public = known()
    weight = public.start(public.mean, 0.1, 2)
    head = LinearHead(public.mean, weight, np.zeros(2))
    assert accuracy(head) > 0.85
    for labels in (np.zeros(300, int), np.full(300, NO_LABEL)):
        with pytest.raises(DataError, match="at least two"):
            replace(public, labels=labels).start(public.mean, 0.1, 2)


def test_public_directions_help_where_noise_dominates():
    """Few patients at a small epsilon; the means of ten noise seeds each."""
    found = []
    for name, public in (("centred", None), ("projected", known())):
        streams = [np.random.default_rng(seed) for seed in range(10)]
        more = {"public": public, "epsilon": 0.3, "trust": "central"}
        found.append(
            np.mean([accuracy(trained(name, [samples(120, 5)], rng, **more)) for rng in streams])
        )
    assert found[1] > found[0] + 0.02


def test_a_started_run_asks_its_first_gradient_at_the_public_head():
    public = known()
    recipe, _ = learner("started", public=public, trust="none")
    statistics, gradient = recipe.rounds[:2]
    sums = recipe.contributor(samples(100, 5)).exact(statistics, {})
    state = recipe.advance(statistics, recipe.start(), sums, 1)
    sent = recipe.query(gradient, state)
    np.testing.assert_array_equal(sent["weight"], public.start(sent["centre"], 0.1, 2))
    assert accuracy(LinearHead(sent["centre"], sent["weight"], sent["offset"])) > 0.85


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_clinics_and_one_pool_give_the_same_distribution_unless_each_clinic_adds_all_noise(trust):
    """Two samples of 40 trained heads, compared along a fixed direction and in length."""
    parts = [samples(60, seed, prefix=f"c{seed}-") for seed in range(3)]
    pool = Samples(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("inputs", "labels", "patients")
        )
    )
    direction = np.random.default_rng(0).normal(size=(WIDTH + 1, 2))

    def figures(clinics, first_seed):
        # The local step depends on the number of clinics: a fixed one compares noise alone.
        heads = [
            trained(
                "centred", clinics, np.random.default_rng(first_seed + n), trust=trust, rounds=4
            ).weight
            for n in range(40)
        ]
        return [(float((w * direction).sum()), float(np.linalg.norm(w))) for w in heads]

    apart, together = np.array(figures(parts, 1000)), np.array(figures([pool], 5000))
    chances = [ks_2samp(apart[:, at], together[:, at]).pvalue for at in (0, 1)]
    if trust == "local":
        assert min(chances) < 1e-4
    else:
        assert min(chances) > 0.01


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public")
    rng = np.random.default_rng(0)
    for number in range(50):
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def opened(path, cache, classes=CLASSES.names):
    model = ModelSettings(image_size=32)
    return public_images(
        path, classes, model, ImageLimits(), cache, num_axes=10, num_features=2 * 1280
    )


def test_public_images_are_read_from_a_folder_or_a_list_and_kept(pictures, tmp_path):
    folder = opened(pictures, tmp_path / "cache")
    assert folder.features.shape == (50, 1280)
    assert (folder.num_views, len(folder.variances)) == (2, 10)
    assert set(folder.labels) == {NO_LABEL}
    words = ["benign", "malignant", "", "something else"]
    lines = [f"{number:02}.png,{words[number % 4]}" for number in range(50)]
    listed = pictures / "list.csv"
    listed.write_text("\n".join(["image,label", *lines]))
    kept = next((tmp_path / "cache").iterdir())
    np.save(kept, np.load(kept) + 1)  # seen again only if the cache is read
    again = opened(listed, tmp_path / "cache")
    assert again.labels[:4].tolist() == [0, 1, NO_LABEL, NO_LABEL]
    assert not np.allclose(again.features, folder.features)
    kept.write_bytes(b"torn")
    np.testing.assert_array_equal(opened(listed, tmp_path / "cache").features, folder.features)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path\na.png\n", "column image"),
        ("image\n00.png\n", "at least 50"),
        ("image\n" + "gone.png\n" * 50, "can be read"),
        (None, "can be read"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_with_words(text, words, pictures, tmp_path):
    listed = pictures / "bad.csv"
    if text is None:
        listed = tmp_path / "absent.csv"
    else:
        listed.write_text(text)
    with pytest.raises(DataError, match=words):
        opened(listed, tmp_path / "cache")
