"""Small whole runs through Python: one cohort drawn a session, its caches copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from skinml.config import RunConfig, load_config
from skinml.experiments.run import Finished, run

SMALL = (
    "data.synthetic.num_patients=90",
    "data.synthetic.num_clinics=2",
    "data.synthetic.image_size=64",
    "training.head.rounds=4",
    "fairness.replicates=100",
    "federation.cpus=1",
    "tracking.enabled=false",
)

RunSmall = Callable[..., Finished]


@pytest.fixture(scope="session")
def run_small() -> RunSmall:
    """Run an experiment on the small cohort."""

    def call(place: Path, *overrides: str, experiment: str = "quickstart") -> Finished:
        return run(experiment, (*SMALL, f"work_dir={place}", *overrides))

    return call


@pytest.fixture(scope="session")
def not_private(tmp_path_factory: pytest.TempPathFactory, run_small: RunSmall) -> Finished:
    """A finished run in one place without privacy."""
    place = tmp_path_factory.mktemp("not-private")
    return run_small(place, "federation=centralised", "privacy.trust=none")


@pytest.fixture
def fresh_place(not_private: Finished, tmp_path: Path) -> Path:
    """A working folder that knows the drawn cohort and nothing else."""
    place = tmp_path / "fresh"
    place.mkdir()
    (place / "cohorts").symlink_to((not_private.folder.parents[1] / "cohorts").resolve())
    return place


@pytest.fixture(scope="session")
def warm_place(
    not_private: Finished,
    tmp_path_factory: pytest.TempPathFactory,
    warm_up: Callable[[RunConfig], None],
) -> Path:
    """A working folder in which features were computed and nothing was ever released."""
    place = tmp_path_factory.mktemp("warm")
    (place / "cohorts").symlink_to((not_private.folder.parents[1] / "cohorts").resolve())
    words = (*SMALL, "federation=centralised", f"work_dir={place}")
    warm_up(load_config("quickstart", words))
    return place


@pytest.fixture
def cached_place(warm_place: Path, tmp_path: Path) -> Path:
    """A copy of the warm working folder, the test's own."""
    shutil.copytree(warm_place, tmp_path / "cached", symlinks=True)
    return tmp_path / "cached"
