"""A clinic with pictures that wait for a person, for tests of the review page."""

from __future__ import annotations

import csv
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.importing import ImportRequest, import_pictures
from skinml.data.deidentify import Finders
from skinml.stewardship.deidentification import Box, Sighting
from tests.clinic.hostile_pictures import jpeg, skin
from tests.clinic.rights import NOW, make

FACE = Box(6, 4, 40, 30, "face")
PATIENT, FILE = "Plantedova-{}", "zyxwina-{}.jpg"


def make_waiting(place: Path, count: int, **lines: str) -> ClinicFolder:
    """Import pictures of as many patients, in each of which there may be a face."""
    source = place / "camera"
    source.mkdir(parents=True)
    with (place / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "image", "diagnosis"])
        for number in range(count):
            (source / FILE.format(number)).write_bytes(jpeg(skin(number)))
            writer.writerow([PATIENT.format(number), FILE.format(number), "nevus"])
    folder = make(place, **lines)
    finders = Finders(lambda pixels: [Sighting(FACE, 0.25)], lambda pixels: [])
    import_pictures(folder, ImportRequest(source, place / "list.csv"), now=NOW, finders=finders)
    return folder
