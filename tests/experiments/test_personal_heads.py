"""Heads of the clinics' own: sealed where they were made, shown by a simulation alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skinml.clinic.folder import open_folder
from skinml.config import load_config
from skinml.errors import ConfigError, IntegrityError
from skinml.experiments.samples import PERSONAL_TEST, read_personal_head, read_predictions
from skinml.models.bundle import load_bundle
from skinml.reports.document import record_from_json, record_to_json

KEEP = "training.personal_head.keep=true"


@pytest.mark.parametrize(
    "overrides", [["federation=centralised"], ["model=small_cnn", "privacy=local"]]
)
def test_there_must_be_a_head_and_another_clinic(overrides):
    with pytest.raises(ConfigError, match="personal_head"):
        load_config("quickstart", [KEEP, *overrides])


@pytest.mark.slow
def test_a_run_keeps_a_sealed_head_at_each_clinic_and_shows_both(
    run_small: Callable[..., object], fresh_place: Path
) -> None:
    finished = run_small(fresh_place, KEEP, "privacy.trust=local")
    record = finished.record
    clinics = sorted(path.name for path in (fresh_place / "clinics").iterdir() if path.is_dir())
    assert [each.clinic for each in record.personal_heads] == clinics
    model = load_bundle(finished.folder / "model").arrays
    for name in clinics:
        folder = open_folder(fresh_place / "clinics" / name)
        own = read_personal_head(folder, record.run)
        np.testing.assert_array_equal(own["centre"], model["centre"])
        assert np.abs(own["weight"] - model["weight"]).max() > 0
        shared = read_predictions(folder, record.run, "test", record.classes)
        personal = read_predictions(folder, record.run, PERSONAL_TEST, record.classes)
        assert shared.patients.tolist() == personal.patients.tolist()
        assert {entry.name for entry in folder.ledger.entries()} == {
            "label_counts",
            "feature_sum",
            "gradient",
            "validation_scores",
        }
        path = folder.run(record.run) / "personal-head.sealed"
        assert own["weight"].tobytes() not in path.read_bytes()
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(IntegrityError):
            read_personal_head(folder, record.run)
    page = (finished.folder / "report.html").read_text()
    assert "the guarantee does not cover it" in " ".join(page.split())
    assert record_from_json(record_to_json(record)).personal_heads == record.personal_heads
    everything = b"".join(p.read_bytes() for p in finished.folder.rglob("*") if p.is_file())
    assert b"personal-head" not in everything
