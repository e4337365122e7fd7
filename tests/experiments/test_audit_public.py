"""Public images of an audit: drawn where a recipe has none that it can use, and of no patient."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from skinml.config import RunConfig, load_config
from skinml.data.synthetic.cohort import plan_cohort, render_shot
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.errors import ConfigError
from skinml.experiments.audit_public import drawn_public_images, lacks_public_images
from skinml.models.linear_head import head_inputs, softmax
from skinml.privacy.settings import PrivacySettings
from skinml.training.public_images import PublicImages
from skinml.training.recipes import RECIPES

CLASSES = ("first", "second", "third")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config("quickstart", ("data.limits.min_side=16",))


def test_the_images_are_enough_labelled_with_every_class_and_drawn_once(
    config: RunConfig, tmp_path: Path
) -> None:
    listed = drawn_public_images(tmp_path / "public", CLASSES, config.data)
    with listed.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["image"] for row in rows}) == 50
    assert {row["label"] for row in rows} == set(CLASSES)
    # Not the pictures that a synthetic cohort of the same settings and the run's seed would have.
    drawing = SyntheticSettings(num_patients=50, image_size=32)
    seed = config.data.seed
    cohort = {_digest(render_shot(shot, drawing, seed)) for shot in plan_cohort(drawing, seed)}
    public = {_digest((listed.parent / row["image"]).read_bytes()) for row in rows}
    assert len(public) == 50
    assert not public & cohort
    before = listed.stat().st_mtime_ns
    assert drawn_public_images(tmp_path / "public", CLASSES, config.data) == listed
    assert listed.stat().st_mtime_ns == before


def test_a_head_started_on_them_is_not_zero_and_sure_of_nobody(
    config: RunConfig, tmp_path: Path
) -> None:
    listed = drawn_public_images(tmp_path / "public", CLASSES, config.data)
    with listed.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rng = np.random.default_rng(0)
    images = {name: rng.normal(size=200) for name in sorted({row["image"] for row in rows})}
    features = np.array([images[row["image"]] for row in rows])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = np.array([CLASSES.index(row["label"]) for row in rows])
    known = PublicImages(features, labels, 1, 100)
    weight = known.start(known.mean, 0.1, len(CLASSES))
    chances = softmax(head_inputs(features, known.mean, 0.1) @ weight)
    assert 0.01 < np.abs(chances - 1 / 3).max() < 1 / 3


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_images_larger_than_the_generator_draws_are_refused(
    config: RunConfig, tmp_path: Path
) -> None:
    limits = config.data.limits.model_copy(update={"min_side": 2000})
    with pytest.raises(ConfigError, match="min_side"):
        drawn_public_images(
            tmp_path / "public", CLASSES, config.data.model_copy(update={"limits": limits})
        )


@pytest.mark.parametrize(
    ("own", "images", "lacking"),
    [
        ("centred", None, {"projected", "started", "preconditioned"}),
        # Images without labels do for two of them.
        ("projected", Path("some/folder"), {"started"}),
        ("started", Path("some/list.csv"), set()),
    ],
)
def test_images_are_drawn_only_for_recipes_that_have_none(
    config: RunConfig, own: str, images: Path | None, lacking: set[str]
) -> None:
    head = config.training.head.model_copy(update={"public_images": images})
    config = config.model_copy(
        update={
            "training": config.training.model_copy(update={"head": head}),
            "privacy": PrivacySettings.model_validate(
                config.privacy.model_dump() | {"recipe": own}
            ),
        }
    )
    assert {name for name in RECIPES if lacks_public_images(config, name)} == lacking


def test_a_network_needs_no_public_images() -> None:
    config = load_config("quickstart_end_to_end")
    assert not lacks_public_images(config, str(config.model.network))
