"""A clinic that imported its pictures, in a federation of real processes beside one with a list."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skinml.clinic.consents import add_consent, withdraw_consent
from skinml.clinic.contributions import contributions_of
from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.deployment.federation_folder import make_federation
from skinml.deployment.superlink import free_port
from skinml.stewardship.pictures import ORIGINAL
from skinml.stewardship.policy import parse_policy
from tests.deployment.real_federation import (
    COORDINATOR,
    LOCAL,
    Federation,
    Machine,
    make_clinic,
    wait_for,
    words_of,
)
from tests.policy_text import policy_text

PATIENTS = 40
WITHOUT = 3  # patients of the importing clinic who signed nothing
NOW = datetime.now(UTC)
FORM = {
    "purposes": ("federated_training",),
    "form_version": "v1",
    "how": "paper",
    "given_by": "patient",
    "valid_from": (NOW.date() - timedelta(days=9)).isoformat(),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_imported_pictures_train_sealed_and_by_consent_and_originals_are_never_opened(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    folder = make_federation(tmp_path / "net", COORDINATOR, address, datetime.now(UTC))
    clinics = {
        "north": importing_clinic(machine),
        "south": make_clinic(tmp_path, "south", 1, PATIENTS),
    }
    net = Federation(machine, folder, clinics)
    try:
        pictures = clinics["north"].pictures.pictures().values()
        patients = sorted({each.patient for each in pictures if each.usable})
        agreed = patients[WITHOUT:]
        for patient in agreed:
            add_consent(clinics["north"], patient, FORM, now=NOW)
        withdraw_consent(clinics["north"], agreed[0], now=NOW)
        spoil_originals(clinics["north"])
        net.serve("net")
        for name, data in (("north", "north"), ("south", "pictures-of-south")):
            machine.say("federation", "enrol", name, "--folder", "net", "--out", f"{name}.json")
            words = ("--invitation", f"{name}.json", "--folder", name, "--data", data)
            machine.say("clinic", "join", *words)
        net.serve("north", "south")
        wait_for(lambda: net.online() == set(clinics), poll_s=1.0)
        run = net.submit(*LOCAL)
        result = net.finished(run)
    finally:
        left = [" ".join(words_of(each)) for each in machine.end()]
    assert not left, left
    assert result["complete"]
    assert all(each["missing"] == {} for each in result["participation"])
    north = open_folder(clinics["north"].path)
    read = {patient for patient in patients if contributions_of(north, patient).runs}
    assert read == set(agreed[1:])
    for path in (tmp_path / "net").rglob("*"):
        assert not path.is_file() or b"PATIENT-NORTH" not in path.read_bytes(), path
    for path in north.path.rglob("*"):
        assert not path.is_file() or not path.read_bytes().startswith((b"\x89PNG", b"\xff\xd8"))


def importing_clinic(machine: Machine) -> ClinicFolder:
    """A clinic whose drawn pictures are imported by the command, their files kept."""
    drawn = SyntheticSettings(num_patients=PATIENTS, num_clinics=1, image_size=64)
    camera = write_cohort(machine.place / "camera", drawn, seed=0)
    manifest = camera / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("SYN-", "PATIENT-NORTH-"))
    with manifest.open(newline="") as file:
        num_images = len(list(csv.DictReader(file)))
    policy = policy_text(
        clinic="north",
        licences="[]",  # what the list says of itself opens nothing
        originals="keep",
        coordinators=f"[{COORDINATOR}]",
        least_patients="10",
        max_epsilon_per_run="100.0",
        max_epsilon_per_year="1000.0",
        max_epsilon_for_life="1000.0",
    )
    policy += "approval: {without_asking: [quickstart]}\n"
    place = machine.place / "north"
    create_folder(
        place,
        name="north",
        policy=parse_policy(policy.encode()),
        anchors=machine.place / "anchors-north",
        virtual=True,
    )
    words = ("camera", "--records", "camera/manifest.csv", "--folder", "north")
    report = machine.say("clinic", "import", *words)
    assert report["originals"] == sum(report["states"].values()) == num_images
    assert report["states"]["accepted"] > 0.8 * num_images
    return open_folder(place)


def spoil_originals(folder: ClinicFolder) -> None:
    """Change the bytes of each original on the disk: whoever opens one, stops."""
    names = folder.vault.listed([ORIGINAL])
    assert names
    for name in names:
        path = folder.path / "vault" / "objects" / name[:2] / name
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
