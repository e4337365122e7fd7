"""skinml as pip installs it, far from its checkout: from a wheel, and from a source package.

The environment is a new one that has nothing but skinml; what skinml needs is looked up in the
environment of these tests, so that nothing is downloaded.
"""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = (
    "data.synthetic.num_patients=80",
    "data.synthetic.num_clinics=2",
    "data.synthetic.image_size=64",
    "training.head.rounds=3",
    "fairness.replicates=100",
    "federation=centralised",
    "tracking.enabled=false",
)


def call(*command: str | Path, cwd: Path) -> str:
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=plain, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    call(sys.executable, "-m", "hatchling", "build", "-t", request.param, "-d", folder, cwd=ROOT)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def bin_folder(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the package."""
    place = tmp_path_factory.mktemp("environment") / "new"
    venv.create(place, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(place)}))
    # A folder that a .pth file names has its own .pth files left unread: no checkout is seen.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = place / "bin" / "python"
    words = ("--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", "--quiet")
    call(python, "-m", "pip", "install", *words, package, cwd=place)
    where = call(python, "-c", "import skinml; print(skinml.__file__)", cwd=place)
    assert Path(where.strip()).is_relative_to(place)
    return place / "bin"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_installed_package_runs_far_from_its_checkout(bin_folder: Path, tmp_path: Path) -> None:
    skinml = bin_folder / "skinml"
    assert call(skinml, "--version", cwd=tmp_path).startswith("skinml ")
    found = json.loads(call(skinml, "doctor", "--json", cwd=tmp_path))["findings"]
    assert all(each["ok"] for each in found)
    told = call(skinml, "run", "quickstart", *SMALL, "--json", cwd=tmp_path)
    result = json.loads(told.splitlines()[-1])
    assert result["complete"] is True
    assert (tmp_path / result["artifacts"]["report"]).stat().st_size > 10_000
    call(skinml, "report", "verify", result["run"], cwd=tmp_path)


def test_a_wheel_names_its_extras_and_all_holds_what_users_may_want(tmp_path: Path) -> None:
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    with zipfile.ZipFile(next(tmp_path.iterdir())) as wheel:
        name = next(each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(wheel.read(name))
    extras = set(told.get_all("Provides-Extra") or ())
    assert {"all", "dev", "docs", "import", "pretrained"} <= extras
    needed = [line for line in told.get_all("Requires-Dist") or () if "extra ==" in line]
    for extra in extras - {"all", "dev", "docs"}:
        of_extra = {line.split(";")[0] for line in needed if f"extra == '{extra}'" in line}
        of_all = {line.split(";")[0] for line in needed if "extra == 'all'" in line}
        assert of_extra <= of_all, extra
