"""Four clinics with real images as processes of their own, held against the simulation's bits."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from skinml.config import load_config
from skinml.deployment.enrolment import invite
from skinml.deployment.federation_folder import make_federation
from skinml.deployment.joining import join
from skinml.deployment.superlink import free_port
from skinml.models.bundle import load_bundle
from tests.deployment.fixed_noise_clinic import PROGRAM
from tests.deployment.local_federation import NAME, UNBOUNDED, make_clinic, slices
from tests.deployment.real_federation import Federation, Machine, wait_for, words_of
from tests.deployment.reference import simulated

CLINICS = ("milk10k", "rosendahl", "vidir_modern", "vidir_molemax")
PATIENTS = 80
RULE = "approval: {without_asking: [derm_malignancy]}\n"
SETTINGS = (
    "training.head.rounds=10",
    "privacy.trust=distributed",
    "data.groups=[skin_tone]",
    "tracking.enabled=false",
)


@pytest.mark.slow
@pytest.mark.derm
@pytest.mark.timeout(3600)
def test_ten_rounds_under_secure_sums_give_the_simulations_weights(
    tmp_path: Path, derm_root: Path
) -> None:
    data = slices(derm_root, CLINICS, tmp_path, most=PATIENTS)
    with served(tmp_path, data) as net:
        run = str(net.command("submit", "derm_malignancy", *SETTINGS)["run"])
        result = net.finished(run)
        assert (result["complete"], result["evaluation"]["source"]) == (True, "dp_counts")
        assert result["secure_sums"]["clinics"] == len(CLINICS)
        assert all(each["missing"] == {} for each in result["participation"])
        assert (net.folder.runs / run / "report.html").stat().st_size > 10_000
        model = load_bundle(net.folder.runs / run / "model")
    whole = merged(derm_root, data, tmp_path / "whole")
    config = load_config(
        "derm_malignancy",
        [*SETTINGS, f"data.root={whole}", "fairness.evaluation=dp_counts"],
    )
    expected = simulated(config, tmp_path / "simulation").fitted.arrays
    assert model.arrays.keys() == expected.keys()
    for name, array in model.arrays.items():
        np.testing.assert_array_equal(array, expected[name])


@contextmanager
def served(place: Path, data: dict[str, Path]) -> Iterator[Federation]:
    """A served federation of clinics whose noise is fixed."""
    machine, now = Machine(place), datetime.now(UTC)
    folder = make_federation(place / "net", NAME, f"127.0.0.1:{free_port()}", now)
    lines = {**UNBOUNDED, "licences": "[CC-BY-NC]"}  # that of the images
    clinics = {name: make_clinic(place, name, RULE, lines) for name in data}
    net = Federation(machine, folder, clinics)
    try:
        net.serve("net")
        for name, clinic in clinics.items():
            invitation = invite(folder, name, now, purposes=("federated_training",))
            join(clinic, invitation, data=data[name])
        for name, clinic in clinics.items():
            net.serve_with(name, *PROGRAM, str(clinic.path))
        wait_for(lambda: net.online() == set(clinics))
        yield net
    finally:
        left = [" ".join(words_of(each)) for each in machine.end()]
    assert not left, left


def merged(root: Path, data: dict[str, Path], place: Path) -> Path:
    """Make one cohort of the clinics' rows, with the images where they are."""
    rows = []
    for folder in data.values():
        with (folder / "manifest.csv").open(newline="") as file:
            rows += list(csv.DictReader(file))
    (place / "images").mkdir(parents=True)
    for row in rows:
        shutil.copyfile(root / row["image"], place / row["image"])
    with (place / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return place
