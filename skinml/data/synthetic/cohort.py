"""Write the synthetic cohort to a folder in the layout that every manifest has."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from skinml.data.synthetic.camera import photograph
from skinml.data.synthetic.lesions import MALIGNANT, draw_appearance, draw_lesion
from skinml.data.synthetic.people import (
    Patient,
    assign_patients,
    confirmation,
    draw_course,
    draw_patient,
)
from skinml.data.synthetic.scene import bare_colour, render_scene
from skinml.data.synthetic.settings import SyntheticSettings, class_signal
from skinml.data.synthetic.skin import ita_degrees
from skinml.errors import ConfigError, EnvironmentProblem, require_in_range
from skinml.seeding import Seeds

LICENCE = "CC0-1.0"
MANIFEST_COLUMNS = (
    "image",
    "patient_id",
    "lesion_id",
    "clinic",
    "diagnosis",
    "malignant",
    "age",
    "sex",
    "anatomical_site",
    "skin_tone",
    "skin_tone_scale",
    "modality",
    "confirmation",
    "treatment",
    "outcome",
    "dataset",
    "licence",
)
TRUTH_COLUMNS = ("image", "tone", "melanin", "ita_degrees", "signal")
SIDECAR = f"name: synthetic\nunit: patient\nlicence: {LICENCE}\n"
NUM_THREADS = 2
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Shot:
    """One image to make.

    Attributes:
        patient: Who is on it.
        index: The image's number within the patient, from 0.
        image: Its path below the cohort's folder, which tells neither patient nor class.
    """

    patient: Patient
    index: int
    image: str


def plan_cohort(settings: SyntheticSettings, seed: int) -> list[Shot]:
    """Draw who is in the cohort, before any image is made.

    Args:
        settings: The cohort's settings.
        seed: The cohort's seed.

    Returns:
        One entry an image, in the order of the image names, which is unrelated to the patients.
    """
    seeds = Seeds(seed)
    shots: list[Shot] = []
    for number, clinic in enumerate(assign_patients(settings.num_patients, settings.num_clinics)):
        patient = draw_patient(number, clinic, settings, seeds)
        for index in range(len(patient.photographs)):
            name = hashlib.sha256(f"synthetic/{seed}/{number}/{index}".encode()).hexdigest()[:16]
            shots.append(Shot(patient, index, f"images/{name}.jpg"))
    return sorted(shots, key=lambda shot: shot.image)


def render_shot(shot: Shot, settings: SyntheticSettings, seed: int) -> bytes:
    """Make one image.

    Args:
        shot: Which image.
        settings: The cohort's settings.
        seed: The cohort's seed.

    Returns:
        The bytes of a JPEG file.

    Guarantees:
        The bytes depend on the arguments only, not on which images were made before.
    """
    patient = shot.patient
    lesion = patient.photographs[shot.index]
    seeds = Seeds(seed)
    rng = seeds.stream(f"synthetic/lesion/{patient.number}/{lesion.number}")
    look = draw_appearance(lesion.diagnosis, class_signal(patient.tone, settings.difficulty), rng)
    maps = draw_lesion(look, settings.image_size, rng)
    rng = seeds.stream(f"synthetic/image/{patient.number}/{shot.index}")
    scene = render_scene(patient.skin, look, maps, rng)
    return photograph(scene, patient.clinic.camera, rng)


def _manifest_row(shot: Shot, seeds: Seeds) -> dict[str, object]:
    patient = shot.patient
    lesion = patient.photographs[shot.index]
    patient_id = f"SYN-{patient.number:05d}"
    rng = seeds.stream(f"synthetic/confirmation/{patient.number}/{lesion.number}")
    course = seeds.stream(f"synthetic/course/{patient.number}/{lesion.number}")
    treatment, outcome = draw_course(lesion.diagnosis, patient.tone, course)
    return {
        "image": shot.image,
        "patient_id": patient_id,
        "lesion_id": f"{patient_id}-{lesion.number + 1}",
        "clinic": patient.clinic.name,
        "diagnosis": lesion.diagnosis,
        "malignant": int(MALIGNANT[lesion.diagnosis]),
        "age": "" if patient.age is None else patient.age,
        "sex": patient.sex,
        "anatomical_site": lesion.site,
        "skin_tone": patient.tone,
        "skin_tone_scale": "monk",
        "modality": "clinical_closeup",
        "confirmation": confirmation(lesion.diagnosis, rng),
        "treatment": treatment,
        "outcome": outcome,
        "dataset": "synthetic",
        "licence": LICENCE,
    }


def _truth_row(shot: Shot, settings: SyntheticSettings) -> dict[str, object]:
    skin = shot.patient.skin
    return {
        "image": shot.image,
        "tone": shot.patient.tone,
        "melanin": f"{skin.melanin:.6f}",
        "ita_degrees": f"{float(ita_degrees(bare_colour(skin))):.3f}",
        "signal": f"{class_signal(shot.patient.tone, settings.difficulty):.6f}",
    }


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _fill(
    folder: Path,
    settings: SyntheticSettings,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    shots = plan_cohort(settings, seed)
    (folder / "images").mkdir()

    def make(shot: Shot) -> None:
        (folder / shot.image).write_bytes(render_shot(shot, settings, seed))

    pool = ThreadPoolExecutor(NUM_THREADS)
    try:
        for done, _ in enumerate(pool.map(make, shots), start=1):
            if progress is not None:
                progress(done, len(shots))
    finally:  # Ctrl-C and a full disk end the queue at once instead of after the last image
        pool.shutdown(cancel_futures=True)
    seeds = Seeds(seed)
    _write_table(
        folder / "manifest.csv", MANIFEST_COLUMNS, (_manifest_row(shot, seeds) for shot in shots)
    )
    _write_table(
        folder / "truth.csv", TRUTH_COLUMNS, (_truth_row(shot, settings) for shot in shots)
    )
    (folder / "manifest.yaml").write_text(SIDECAR, encoding="utf-8")


def _require_vacant(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            rule="an empty place for the synthetic cohort",
            got=f"folder={folder.name} with files in it",
            do="Name another folder, or remove this one first.",
        )


def write_cohort(
    folder: Path,
    settings: SyntheticSettings,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cohort: images, manifest.csv, manifest.yaml, and truth.csv which no training reads.

    Args:
        folder: Where it shall be; must not exist yet, or be empty.
        settings: The cohort's settings.
        seed: The cohort's seed, zero or above.
        progress: Called after each image with the images made and all images.

    Returns:
        The folder.

    Raises:
        ConfigError: If the seed is below zero or the folder holds files already.
        EnvironmentProblem: If the folder cannot be written.

    Guarantees:
        The same settings and seed give the same bytes of manifest and truth, and the same pixels
        under the same versions of NumPy, SciPy and Pillow. The folder appears whole or not at all.
    """
    require_in_range(0, MAX_SEED, seed=seed)
    try:
        _require_vacant(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fill(draft, settings, seed, progress)
            draft.chmod(0o755)  # a temporary folder begins as the owner's alone
            _require_vacant(folder)
            os.replace(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise EnvironmentProblem(
            rule="a folder for the synthetic cohort that can be written",
            got=f"error={error.strerror or type(error).__name__}",
            do="Free some space or choose a folder that you may write to.",
        ) from error
    return folder
