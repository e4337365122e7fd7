"""The audit as a whole: what it reads, what it may show, what it leaves behind."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path

import pandas as pd
import pytest

from skinml.clinic.folder import open_folder
from skinml.config import load_config
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.errors import ConfigError, PolicyError
from skinml.experiments.audit import audit, charged
from skinml.privacy.audit.inversion import Effort

TODAY = datetime.now(UTC).date()
WORDS = (
    "data.source=manifest",
    "model.image_size=32",
    "privacy.trust=none",
    "training.network.rounds=1",
    "training.network.steps_per_round=1",
    "training.network.sampling_prob=1",
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn patients of two clinics, under the licence of the drawings."""
    root = tmp_path_factory.mktemp("drawn") / "data"
    drawn = SyntheticSettings(num_patients=40, num_clinics=2, image_size=32)
    write_cohort(root, drawn, 0, lambda *_: None)
    return root


def take_licence_away(root: Path, rows: int) -> None:
    """Make some rows a clinic's own patients, who all consented."""
    (root / "manifest.yaml").unlink(missing_ok=True)
    manifest = pd.read_csv(root / "manifest.csv", dtype=str)
    manifest.loc[manifest.index[:rows], "licence"] = ""
    manifest.to_csv(root / "manifest.csv", index=False)
    table = pd.DataFrame({"patient_id": sorted(manifest["patient_id"].unique())}).assign(
        purposes="care;federated_training",
        valid_from=str(TODAY - timedelta(days=30)),
        valid_until="",
        form_version="v2",
        how="electronic",
        given_by="patient",
        withdrawn="",
    )
    table.to_csv(root / "consents.csv", index=False)


@pytest.mark.parametrize("licensed", [pytest.param(True, marks=pytest.mark.slow), False])
def test_one_row_without_a_licence_keeps_every_picture_from_the_page(
    cohort: Path, tmp_path: Path, licensed: bool
) -> None:
    root, more = tmp_path / "data", []
    shutil.copytree(cohort, root)
    if not licensed:
        take_licence_away(root, 1)
        more = ["data.consents=consents.csv"]
    done = audit(
        "quickstart_end_to_end",
        [*WORDS, f"data.root={root}", f"work_dir={tmp_path / 'work'}", *more],
        tiers=["inversion"],
        effort=Effort(steps=2),
    )
    page = done.files.html.read_text()
    assert page.count("data:image/png") == len(done.record.pictures)
    assert bool(done.record.pictures) == licensed
    assert ("Pictures are not shown" in page) == (not licensed)
    folders = (tmp_path / "work" / "clinics").glob("*/clinic.json")
    for folder in (open_folder(path.parent) for path in folders):
        assert not folder.ledger.entries()
        assert "admission" in " ".join(entry.event for entry in folder.audit.entries())


def test_whose_data_may_not_be_used_is_not_audited(cohort: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(cohort, root)
    take_licence_away(root, 10_000)
    words = [*WORDS, f"data.root={root}", f"work_dir={tmp_path / 'work'}"]
    with pytest.raises(PolicyError):
        audit("quickstart_end_to_end", words, tiers=["inversion"])


def test_what_is_charged_is_the_runs_own_epsilon_whatever_the_clinics() -> None:
    config = load_config("quickstart", ["privacy.epsilon=1.5"])
    assert charged(config) == pytest.approx(1.5, abs=1e-4)
    assert charged(config) <= 1.5
    more = load_config("quickstart", ["privacy.epsilon=1.5", "privacy.colluding_clinics=3"])
    assert charged(more) == charged(config)
    assert charged(load_config("quickstart", ["privacy.trust=none"])) == inf


def test_an_unknown_tier_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tier"):
        audit("quickstart", [f"work_dir={tmp_path / 'work'}"], tiers=["T0", "T7"])
    assert not (tmp_path / "work").exists()
