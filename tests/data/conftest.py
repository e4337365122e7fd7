"""A small clinic on disk: real image files and a manifest that tests may break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image


@dataclass(frozen=True)
class Folder:
    """A data folder with its rows as written."""

    root: Path
    rows: pd.DataFrame

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.csv"

    def write(self, rows: pd.DataFrame) -> Path:
        rows.to_csv(self.manifest, index=False)
        return self.manifest


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Folder]:
    """Make a folder of patients with one noisy image each, every second one malignant."""

    def make(num_patients: int = 12, clinics: tuple[str, ...] = ("north", "south")) -> Folder:
        root = tmp_path / "clinic"
        (root / "images").mkdir(parents=True)
        random = np.random.default_rng(0)
        rows = []
        for patient in range(num_patients):
            name = f"images/{patient}.png"
            pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name)
            rows.append(
                {
                    "image": name,
                    "patient_id": f"P{patient}",
                    "lesion_id": f"L{patient}",
                    "clinic": clinics[(patient // 2) % len(clinics)],
                    "diagnosis": "mel" if patient % 2 else "nv",
                    "age": str(20 + patient),
                    "sex": "female" if patient % 3 else "unknown",
                    "anatomical_site": "back",
                    "skin_tone": str(patient % 6),
                    "skin_tone_scale": "milk",
                    "modality": "dermoscopic",
                    "licence": "CC BY 4.0",
                }
            )
        folder = Folder(root, pd.DataFrame(rows))
        folder.write(folder.rows)
        return folder

    return make


@pytest.fixture
def folder(make_folder: Callable[..., Folder]) -> Folder:
    return make_folder()
