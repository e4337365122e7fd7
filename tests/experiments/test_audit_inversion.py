"""Inversion through the real contributors: what a raw update gives away, and noise does not."""

from __future__ import annotations

import numpy as np
import pytest

from skinml.config import load_config
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.errors import DataError
from skinml.experiments.audit_inversion import invert_heads, invert_pictures, views
from skinml.privacy.audit.inversion import Effort
from skinml.records import Labels, Samples

CLASSES = Labels(("benign", "malignant"), (False, True))


def heads(num_clinics: int = 3, patients: int = 20) -> dict[str, Samples]:
    rng = np.random.default_rng(0)
    made = {}
    for number in range(num_clinics):
        features = rng.normal(size=(patients, 60))
        made[f"clinic-{number}"] = Samples(
            (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32),
            rng.integers(0, 2, patients),
            np.array([f"c{number}-p{patient}" for patient in range(patients)]),
        )
    return made


def pictures(patients: int, side: int = 32) -> dict[str, Samples]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (patients, side, side, 3), dtype=np.uint8)
    labels = rng.integers(0, 2, patients)
    return {"north": Samples(images, labels, np.array([f"p{n}" for n in range(patients)]))}


def test_a_raw_update_of_a_head_is_the_patients_features_and_full_noise_hides_them() -> None:
    config = load_config("quickstart", ["training.head.rounds=6", "privacy.epsilon=1"])
    raw, part, noisy = invert_heads(config, heads(), CLASSES).findings
    assert raw.place == 1
    assert raw.likeness["cosine"] == pytest.approx(1, abs=1e-3)
    assert (raw.noise, raw.num_updates, noisy.num_updates) == (0, 1, 6)
    assert 0 < part.noise < noisy.noise
    for each in (part, noisy):
        assert abs(each.likeness["cosine"]) < 0.2
        # Mean place of twenty: uniform on 60 it lies within three of its standard errors, 3.9.
        assert each.place > 30.5 - 16
    assert (noisy.num_attacked, noisy.num_candidates) == (20, 60)


def test_views_tell_who_sees_what_under_every_trust_model() -> None:
    config = load_config("quickstart", ["privacy.colluding_clinics=1"])
    seen = views(config, 5)
    assert [round(view.share, 3) for view in seen] == [0, 0.5, 1]
    words = " ".join(place for view in seen for place in view.under)
    assert all(trust in words for trust in ("none", "central", "distributed", "local"))
    assert len(views(load_config("quickstart"), 1)) == 2  # alone, its part is all of it


@pytest.mark.parametrize("shown", [True, False])
def test_pictures_leave_only_where_the_data_may_be_shown(shown: bool) -> None:
    recipe = [f"training.network.{each}" for each in ("rounds=1", "steps_per_round=1")]
    words = ["training.network.sampling_prob=1", "privacy.trust=none", "model.image_size=32"]
    config = load_config("quickstart_end_to_end", [*recipe, *words])
    made = invert_pictures(
        config, pictures(3), CLASSES, may_be_shown=shown, num_attacked=1, effort=Effort(steps=2)
    )
    assert ("Pictures are not shown" in made.note) == (not shown)
    titles = [each.title for each in made.pictures]
    if shown:
        assert titles[0] == "the patient's picture"
        assert titles[-1] == "no update: the average"
        assert len(titles) == 2 + len(made.findings)
        assert {each.pixels.shape for each in made.pictures} == {(32, 32, 3)}
    else:
        assert titles == []
    assert [each.what for each in made.findings] == ["picture"] * 2
    assert all(set(each.likeness) == {"psnr", "ssim"} for each in made.findings)


@pytest.mark.parametrize("number", [0, 1])
def test_nobody_can_be_told_from_nobody(number: int) -> None:
    with pytest.raises(DataError, match="at least two"):
        invert_heads(load_config("quickstart"), heads(1, number), CLASSES)


@pytest.mark.slow
def test_a_drawing_comes_back_from_raw_updates_and_not_from_noisy_ones(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from PIL import Image

    place = tmp_path_factory.mktemp("drawn") / "cohort"
    write_cohort(place, SyntheticSettings(num_patients=30, image_size=32), 0, lambda *_: None)
    files = sorted((place / "images").iterdir())[:30]
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    patients = np.array([f"p{number}" for number in range(len(images))])
    labels = np.arange(len(images)) % 2
    samples = {
        name: Samples(images[mine], labels[mine], patients[mine])
        for name, mine in (("a", slice(0, 10)), ("b", slice(10, 20)), ("c", slice(20, 30)))
    }
    config = load_config("quickstart_end_to_end", ["model.image_size=32"])
    raw, part, noisy = invert_pictures(config, samples, CLASSES, may_be_shown=True).findings
    assert raw.likeness["ssim"] > raw.unrelated["ssim"]
    assert raw.likeness["psnr"] > raw.unrelated["psnr"]
    for each in (part, noisy):
        assert each.likeness["ssim"] < 0.5 * raw.likeness["ssim"]
        assert each.likeness["psnr"] < each.unrelated["psnr"]
