"""Fixtures that every room's tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from skinml.config import RunConfig
from skinml.experiments.cohorts import gather
from skinml.experiments.progress import Silence
from skinml.experiments.samples import prepare_samples
from skinml.experiments.workspace import Workspace

DERM = Path(__file__).resolve().parents[2] / "shared" / "derm"


@pytest.fixture(scope="session")
def derm_root() -> Path:
    """The folder of development images; tests that need it skip where it is missing."""
    if not (DERM / "manifest.csv").is_file():
        pytest.skip(f"the development images are not at {DERM}")
    return DERM


@pytest.fixture(scope="session")
def warm_up() -> Callable[[RunConfig], None]:
    """Do what a run does up to its features, and stop before anything is released."""

    def call(config: RunConfig) -> None:
        gathered = gather(config, Workspace(config.work_dir), "warm-up", Silence())
        prepare_samples(config, gathered, Silence())

    return call
