"""Real runs, small enough to be shared: one cohort drawn a session, its features computed once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skinml.cli.main import main
from skinml.config import RunConfig, load_config

# Two clinics, 90 patients: enough that each clinic trains on both classes.
SMALL = (
    "data.synthetic.num_patients=90",
    "data.synthetic.num_clinics=2",
    "data.synthetic.image_size=64",
    "training.head.rounds=4",
    "fairness.replicates=100",
    "federation.cpus=1",
    "tracking.enabled=false",
)
# What a shell starts in the background ignores Ctrl-C: these commands shall hear it even there.
_HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
COMMAND = (
    sys.executable,
    "-c",
    f"{_HEARING}; import sys; from skinml.cli.main import main; sys.exit(main())",
)


@dataclass(frozen=True)
class Outcome:
    """What one command did: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on the last line of standard output."""
        found = json.loads(self.out.splitlines()[-1])
        assert isinstance(found, dict)
        return found

    @property
    def told(self) -> str:
        """Everything that was printed."""
        return self.out + self.err


Invoke = Callable[..., Outcome]


def _invoke(*words: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def skinml() -> Invoke:
    """The command line, inside this process."""
    return _invoke


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Overrides that make a run small and leave MLflow out."""
    return SMALL


@pytest.fixture(scope="session")
def centralised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A finished run in one place: its working folder, and what it printed."""
    place = tmp_path_factory.mktemp("centralised")
    words = ("federation=centralised", f"work_dir={place}", "--json")
    outcome = _invoke("run", "quickstart", *SMALL, *words)
    assert outcome.code == 0, outcome.told
    return place, outcome


@pytest.fixture(scope="session")
def run_beside(
    centralised: tuple[Path, Outcome], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, str, list[Path]]]:
    """Run an experiment centralised on the same cohort: its folder, its id, and the images."""

    def run(name: str, experiment: str, *words: str) -> tuple[Path, str, list[Path]]:
        place = tmp_path_factory.mktemp(name)
        (place / "cohorts").symlink_to(centralised[0] / "cohorts")
        here = ("federation=centralised", f"work_dir={place}", "--json")
        done = _invoke("run", experiment, *SMALL, *words, *here)
        assert done.code == 0, done.told
        (cohort,) = (place / "cohorts").iterdir()
        pictures = sorted(p for p in cohort.rglob("*") if p.suffix in (".png", ".jpg"))
        return place, done.json["run"], pictures

    return run


@pytest.fixture(scope="session")
def simulated(
    centralised: tuple[Path, Outcome], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    """A finished run of two clinics over Flower, written to MLflow."""
    place = tmp_path_factory.mktemp("simulated")
    (place / "cohorts").symlink_to(centralised[0] / "cohorts")
    words = (f"work_dir={place}", "tracking.enabled=true", "--json")
    outcome = _invoke("run", "quickstart", *SMALL, *words)
    assert outcome.code == 0, outcome.told
    return place, outcome


@pytest.fixture(scope="session")
def warm_pooled(
    centralised: tuple[Path, Outcome],
    tmp_path_factory: pytest.TempPathFactory,
    warm_up: Callable[[RunConfig], None],
) -> Path:
    """A working folder of a centralised run to come: its features, and nothing released."""
    place = tmp_path_factory.mktemp("warm-pooled")
    warm_up(_with_cohorts(centralised[0], place, "federation=centralised"))
    return place


@pytest.fixture(scope="session")
def warm_clinics(
    centralised: tuple[Path, Outcome],
    tmp_path_factory: pytest.TempPathFactory,
    warm_up: Callable[[RunConfig], None],
) -> Path:
    """A working folder of a simulation to come: its features, and nothing released."""
    place = tmp_path_factory.mktemp("warm-clinics")
    warm_up(_with_cohorts(centralised[0], place))
    return place


@pytest.fixture
def pooled_place(warm_pooled: Path, tmp_path: Path) -> Path:
    """A working folder with caches for a centralised run: no release, no run."""
    return Path(shutil.copytree(warm_pooled, tmp_path / "work", symlinks=True))


@pytest.fixture
def clinics_place(warm_clinics: Path, tmp_path: Path) -> Path:
    """A working folder with caches for a simulation: no release, no run."""
    return Path(shutil.copytree(warm_clinics, tmp_path / "work", symlinks=True))


def _with_cohorts(finished: Path, place: Path, *words: str) -> RunConfig:
    (place / "cohorts").symlink_to((finished / "cohorts").resolve())
    return load_config("quickstart", (*SMALL, f"work_dir={place}", *words))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line as a process group of its own; none of it outlives the test."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*words: object, **environment: str) -> subprocess.Popen[str]:
        begun.append(
            subprocess.Popen(
                [*COMMAND, *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=os.environ | environment,
            )
        )
        return begun[-1]

    yield begin
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.communicate()
