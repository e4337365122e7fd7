"""Small whole runs through Python: one cohort drawn a session, its caches copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.fixture
def cached_place(not_private: Finished, fresh_place: Path) -> Path:
    """A working folder with caches for centralised runs: no ledger, no run."""
    keep_out = shutil.ignore_patterns("ledger*", "runs")
    source = not_private.folder.parents[1] / "clinics"
    shutil.copytree(source, fresh_place / "clinics", ignore=keep_out)
    return fresh_place
