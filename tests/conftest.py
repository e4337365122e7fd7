"""Fixtures that every room's tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from skinml.config import RunConfig
from skinml.experiments.cohorts import gather
from skinml.experiments.progress import Silence
from skinml.experiments.samples import prepare_samples
from skinml.experiments.workspace import Workspace

LEFT_OUT = pytest.StashKey[int]()
DERM = Path(__file__).resolve().parents[2] / "shared" / "derm"


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the tests that a choice such as -m "not slow" leaves out."""
    if items:
        stash = items[0].config.stash
        stash[LEFT_OUT] = stash.get(LEFT_OUT, 0) + len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the count to the process that shows the summary: pytest-xdist does not."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear the count of a worker; all collect the same tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say with pytest-xdist too how many tests were left out, so that none is in silence."""
    if config.pluginmanager.hasplugin("dsession") and config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"tests left out by the choice: {config.stash[LEFT_OUT]}")


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
