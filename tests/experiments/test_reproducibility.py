"""What repeats with the seed, what must never repeat, and what the wire does not change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.identity import Identity
from skinml.config import load_config
from skinml.experiments.learners import build_learner, clinic_mechanism
from skinml.experiments.run import Finished
from skinml.experiments.sites import sampling_root
from skinml.models.bundle import load_bundle
from skinml.records import Labels

RunSmall = Callable[..., Finished]
CENTRALISED = "federation=centralised"
TINY_NETWORK = (
    "model=small_cnn",
    "model.image_size=32",
    "training.network.rounds=2",
    "training.network.steps_per_round=2",
    "training.network.expected_patients=50",
)


def _figures(finished: Finished) -> dict[str, Any]:
    kept = ("metrics", "overall", "groups", "yardsticks", "threshold")
    return {name: finished.result[name] for name in kept}


def test_the_same_seed_without_noise_gives_the_same_metrics_to_the_last_digit(
    run_small: RunSmall, not_private: Finished, fresh_place: Path
) -> None:
    again = run_small(fresh_place, CENTRALISED, "privacy.trust=none")
    assert again.result["run"] != not_private.result["run"]
    assert _figures(again) == _figures(not_private)


def test_another_seed_gives_other_intervals(
    run_small: RunSmall, not_private: Finished, cached_place: Path
) -> None:
    other = run_small(cached_place, CENTRALISED, "privacy.trust=none", "seed=1")
    assert _figures(other) != _figures(not_private)


@pytest.mark.parametrize(
    "mode", [CENTRALISED, pytest.param("federation=simulation", marks=pytest.mark.slow)]
)
def test_end_to_end_training_without_noise_repeats_to_the_last_digit(
    run_small: RunSmall, fresh_place: Path, tmp_path: Path, mode: str
) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "cohorts").symlink_to((fresh_place / "cohorts").resolve())
    words = (*TINY_NETWORK, "privacy.trust=none", mode)
    first = run_small(fresh_place, *words)
    assert _figures(run_small(second, *words)) == _figures(first)


@pytest.fixture(scope="module")
def over_flower(
    not_private: Finished, run_small: RunSmall, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """The run without privacy, with each clinic at a Flower node."""
    place = tmp_path_factory.mktemp("over-flower")
    (place / "cohorts").symlink_to((not_private.folder.parents[1] / "cohorts").resolve())
    return run_small(place, "privacy.trust=none")


def test_clinics_over_flower_learn_what_one_place_learns(
    over_flower: Finished, not_private: Finished
) -> None:
    assert len(over_flower.record.guarantee.clinics) == 2
    ours = load_bundle(over_flower.folder / "model").arrays
    theirs = load_bundle(not_private.folder / "model").arrays
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-3, atol=1e-5)
    for name in ("auroc", "balanced_accuracy", "ece"):
        assert over_flower.result["metrics"][name] == pytest.approx(
            not_private.result["metrics"][name], abs=1e-4
        )
    # The yardsticks of all patients together are the same fit on the same items.
    pooled = next(iter(not_private.result["yardsticks"]))
    assert over_flower.result["yardsticks"][pooled]["auroc"]["value"] == pytest.approx(
        not_private.result["yardsticks"][pooled]["auroc"]["value"], abs=1e-4
    )


@pytest.mark.slow
def test_rounds_over_flower_repeat_to_the_last_digit(
    run_small: RunSmall, over_flower: Finished, fresh_place: Path
) -> None:
    again = run_small(fresh_place, "privacy.trust=none")
    assert _figures(again) == _figures(over_flower)


def test_noise_does_not_repeat_with_the_seed(
    run_small: RunSmall, cached_place: Path, tmp_path: Path
) -> None:
    import shutil

    second = tmp_path / "second"
    shutil.copytree(cached_place, second, symlinks=True)
    models = [
        load_bundle(run_small(place, CENTRALISED, "seed=7").folder / "model").arrays
        for place in (cached_place, second)
    ]
    for name in ("centre", "weight", "offset"):
        assert not np.array_equal(models[0][name], models[1][name])


def clinic(name: str, key: int = 1) -> ClinicFolder:
    digits = "0" * 64
    identity = Identity(
        name=name, id="0" * 32, public_key=digits, key_check=digits, anchor="nowhere"
    )
    return ClinicFolder(Path(), identity, bytes([key]) * 32)


def test_initial_weights_and_sampling_repeat_with_the_seed_and_change_with_it() -> None:
    classes = Labels(("benign", "malignant"), (False, True))

    def weights_and_sampling(seed: int) -> tuple[Any, int]:
        config = load_config("quickstart_end_to_end", [f"seed={seed}"])
        start = build_learner(config, classes, 0, 2).start()
        return start, sampling_root(config, clinic("alderbrook"))

    first, again, other = (weights_and_sampling(seed) for seed in (7, 7, 8))
    assert first[1] == again[1]
    assert first[1] != other[1]
    for name, values in first[0].items():
        np.testing.assert_array_equal(values, again[0][name])
    assert any(not np.array_equal(values, other[0][name]) for name, values in first[0].items())


def test_two_clinics_never_share_a_sampling_stream() -> None:
    config = load_config("quickstart")
    names = ("alderbrook", "birchmoor", "pooled")
    assert len({sampling_root(config, clinic(name)) for name in names}) == 3


def test_a_clinic_with_real_images_samples_by_its_secret_key_and_not_by_the_seed() -> None:
    def root(seed: int, key: int, *changes: str) -> int:
        changes = ("data.source=manifest", "data.root=.", f"seed={seed}", *changes)
        config = load_config("quickstart_end_to_end", changes)
        return sampling_root(config, clinic("alderbrook", key))

    assert root(7, key=1) == root(8, key=1)
    assert root(7, key=1) != root(7, key=2)
    assert root(7, 1, "privacy.trust=none") == root(7, 2, "privacy.trust=none")


def test_a_clinics_noise_comes_from_the_operating_system_and_not_from_the_seed() -> None:
    config = load_config("quickstart", ["seed=7"])
    mechanisms = [clinic_mechanism(config, 2) for _ in range(2)]
    draws = [mechanism.open_source().normal((4,), 1.0) for mechanism in mechanisms]
    assert not np.array_equal(*draws)
