"""The six invented clinics: how large, which lesions, which skin tones, which camera."""

from __future__ import annotations

from dataclasses import dataclass

from skinml.data.synthetic.camera import Camera


@dataclass(frozen=True)
class Clinic:
    """One clinic of the cohort.

    Attributes:
        name: An invented place.
        share: Its patients relative to the other clinics'.
        diagnoses: Relative frequency of each class.
        tones: Relative frequency of the skin tones 1 to 10.
        mean_age: Mean age of its patients in years.
        camera: Its camera.
    """

    name: str
    share: float
    diagnoses: dict[str, float]
    tones: tuple[float, ...]
    mean_age: float
    camera: Camera


def _mix(
    nv: float, bkl: float, df: float, vasc: float, mel: float, bcc: float, akiec: float
) -> dict[str, float]:
    return {
        "nv": nv,
        "bkl": bkl,
        "df": df,
        "vasc": vasc,
        "mel": mel,
        "bcc": bcc,
        "akiec": akiec,
    }


CLINICS = (
    Clinic(
        "alderbrook",
        0.27,
        _mix(nv=38, bkl=16, df=4, vasc=4, mel=16, bcc=14, akiec=8),
        (10, 16, 18, 16, 12, 9, 7, 5, 4, 3),
        54,
        Camera((1.00, 1.00, 1.00), 0.00, 0.25, 0.45, 0.010, 92),
    ),
    Clinic(
        "birchmoor",
        0.21,
        _mix(nv=24, bkl=20, df=3, vasc=3, mel=12, bcc=24, akiec=14),
        (16, 22, 20, 15, 10, 6, 4, 3, 2, 2),
        66,
        Camera((1.07, 1.00, 0.92), 0.10, 0.40, 0.55, 0.012, 85),
    ),
    Clinic(
        "coldwell",
        0.18,
        _mix(nv=46, bkl=14, df=6, vasc=6, mel=14, bcc=8, akiec=6),
        (3, 5, 8, 10, 12, 14, 14, 13, 12, 9),
        43,
        Camera((0.96, 1.00, 1.05), -0.10, 0.20, 0.40, 0.009, 95),
    ),
    Clinic(
        "dunmere",
        0.15,
        _mix(nv=34, bkl=22, df=8, vasc=6, mel=10, bcc=12, akiec=8),
        (2, 3, 4, 6, 9, 12, 15, 18, 17, 14),
        49,
        Camera((1.03, 1.00, 0.95), 0.05, 0.35, 0.65, 0.016, 78),
    ),
    Clinic(
        "elmsway",
        0.11,
        _mix(nv=30, bkl=14, df=4, vasc=4, mel=26, bcc=12, akiec=10),
        (8, 12, 14, 14, 13, 12, 10, 8, 5, 4),
        58,
        Camera((0.98, 1.01, 0.98), 0.15, 0.55, 0.50, 0.010, 88),
    ),
    Clinic(
        "fernlow",
        0.08,
        _mix(nv=42, bkl=18, df=6, vasc=6, mel=8, bcc=12, akiec=8),
        (5, 8, 11, 13, 14, 14, 12, 10, 8, 5),
        47,
        Camera((1.05, 0.99, 0.97), -0.15, 0.30, 0.75, 0.020, 70),
    ),
)
"""Largest first. The shares of malignant lesions run from 28% to 50%."""
