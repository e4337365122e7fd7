"""Budgets, tampering and broken disks: the exit code, one line, and nothing half-written."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from skinml.clinic.folder import open_folder
from skinml.privacy.ledger import spent

CENTRALISED = ("federation=centralised", "training.head.rounds=2")


def _require_one_error(told: str) -> None:
    first, *details = told.splitlines()
    assert first.startswith("error: expected ")
    assert all(line.startswith("  ") for line in details)


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def test_runs_are_refused_before_any_work_once_the_budget_is_used_up(
    skinml: Callable[..., Any], small: tuple[str, ...], pooled_place: Path
) -> None:
    ledger = pooled_place / "clinics" / "pooled" / "ledger.jsonl"
    features = pooled_place / "clinics" / "pooled" / "features"
    asked = (*CENTRALISED, "privacy.epsilon=1.4", "privacy.budget.epsilon=3", "--json")
    totals: list[float] = []
    for seed in range(1, 7):
        before = ledger.read_bytes() if ledger.exists() else b""
        outcome = skinml("run", "quickstart", *small, *asked, f"seed={seed}", _at(pooled_place))
        if outcome.code != 0:
            break
        privacy = outcome.json["privacy"]
        assert privacy["epsilon"] <= 1.4
        totals.append(privacy["total_epsilon"])
    assert outcome.code == 3
    assert "privacy.budget.epsilon" in outcome.err
    _require_one_error(outcome.err)
    assert len(totals) >= 2
    assert totals == sorted(totals)
    assert totals[-1] <= 3
    assert ledger.read_bytes() == before
    assert spent(open_folder(ledger.parent).ledger.entries(), 1e-5) == pytest.approx(totals[-1])
    # With nothing cached, a refused run must not even begin to compute features.
    shutil.rmtree(features)
    again = skinml("run", "quickstart", *small, *asked, _at(pooled_place))
    assert again.code == 3
    assert not features.exists()
    assert len(list(pooled_place.glob("runs/*"))) == len(totals)


def _at(place: Path) -> str:
    return f"work_dir={place}"


def test_a_changed_ledger_stops_the_run_before_any_release(
    skinml: Callable[..., Any], small: tuple[str, ...], pooled_place: Path
) -> None:
    words = ("run", "quickstart", *small, *CENTRALISED, _at(pooled_place))
    assert skinml(*words).code == 0
    ledger = pooled_place / "clinics" / "pooled" / "ledger.jsonl"
    _flip(ledger, ledger.read_bytes().index(b'"run":"quick') + 9)
    changed = ledger.read_bytes()
    outcome = skinml(*words)
    assert outcome.code == 5
    assert "pooled" in outcome.err
    _require_one_error(outcome.err)
    assert ledger.read_bytes() == changed
    assert len(list(pooled_place.glob("runs/*"))) == 1


@pytest.mark.parametrize("what", ["features/*.store", "inspections.sealed", "keys/key"])
def test_a_changed_file_of_a_clinic_is_noticed(
    skinml: Callable[..., Any], small: tuple[str, ...], pooled_place: Path, what: str
) -> None:
    (path,) = (pooled_place / "clinics" / "pooled").glob(what)
    _flip(path, len(path.read_bytes()) // 2)
    outcome = skinml("run", "quickstart", *small, *CENTRALISED, _at(pooled_place))
    assert outcome.code == 5
    _require_one_error(outcome.err)
    assert not list(pooled_place.glob("runs/*"))
    assert not list(pooled_place.rglob("ledger*"))


@pytest.mark.parametrize("place", ["below a file", "in a kernel's file system"])
def test_a_working_folder_that_cannot_be_made_is_the_environments_fault(
    skinml: Callable[..., Any], small: tuple[str, ...], tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    work = tmp_path / "file" / "work" if place == "below a file" else Path("/proc/skinml")
    outcome = skinml("run", "quickstart", *small, *CENTRALISED, _at(work))
    assert outcome.code == 6
    _require_one_error(outcome.err)
    assert (tmp_path / "file").read_text() == "in the way"


@contextmanager
def _files_up_to(limit: int) -> Iterator[None]:
    """Let no file grow beyond a size: the disk is full for all that is larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("kilobytes", "cached"),
    [(0, True), (1, True), (100, False), (150, True), (300, True)],
)
def test_a_disk_that_fills_up_anywhere_leaves_no_half_run(
    skinml: Callable[..., Any],
    small: tuple[str, ...],
    pooled_place: Path,
    kilobytes: int,
    cached: bool,
) -> None:
    if not cached:
        for part in ("clinics", "anchors"):
            shutil.rmtree(pooled_place / part)
    with _files_up_to(kilobytes * 1024):
        outcome = skinml("run", "quickstart", *small, *CENTRALISED, _at(pooled_place))
    assert outcome.code == 6, outcome.told
    assert outcome.out == ""
    _require_one_error(outcome.err)
    assert not list(pooled_place.glob("runs/*"))
    assert not list(pooled_place.rglob("samples-*"))
    assert not list(pooled_place.rglob(".*.partial"))
    assert not list(pooled_place.rglob(".*.sealed.[0-9]*"))
    ledger = pooled_place / "clinics" / "pooled" / "ledger.jsonl"
    open_folder(ledger.parent).ledger.entries()
    # With space again, the same folder works.
    assert skinml("run", "quickstart", *small, *CENTRALISED, _at(pooled_place)).code == 0


def _in_own_mounts(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount things nobody else sees; skip where that is forbidden."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        pytest.skip("needs Linux and unshare")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a mount namespace")
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


_RUN = (
    f'"{sys.executable}" -c "import sys; from skinml.cli.main import main; sys.exit(main())" '
    'run quickstart work_dir="$1" federation=centralised training.head.rounds=2 '
    "data.synthetic.num_patients=90 data.synthetic.num_clinics=2 data.synthetic.image_size=64 "
    "fairness.replicates=100"
)


def test_a_read_only_working_folder_is_the_environments_fault(pooled_place: Path) -> None:
    done = _in_own_mounts(
        f'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && {_RUN}', str(pooled_place)
    )
    assert done.returncode == 6, done.stderr
    assert done.stdout == ""
    _require_one_error(done.stderr)
    assert not (pooled_place / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [64, 600, 2000])
def test_a_full_disk_is_the_environments_fault(pooled_place: Path, kilobytes: int) -> None:
    cohorts = (pooled_place / "cohorts").resolve()
    # What is on the small disk is seen from inside only: any run, whole or half, is printed.
    script = (
        f'mount -t tmpfs -o size={kilobytes}k none "$1" && ln -s "$2" "$1/cohorts" || exit 99; '
        f'{_RUN}; code=$?; find "$1/runs" -mindepth 1 2>/dev/null; exit $code'
    )
    done = _in_own_mounts(script, str(pooled_place), str(cohorts))
    assert done.returncode == 6, done.stderr
    assert done.stdout == ""
    _require_one_error(done.stderr)
