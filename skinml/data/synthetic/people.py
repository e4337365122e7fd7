"""Who is in the cohort: patients, their clinics, lesions and photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skinml.data.synthetic.clinics import CLINICS, Clinic
from skinml.data.synthetic.lesions import MALIGNANT
from skinml.data.synthetic.scene import Skin
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.data.synthetic.skin import tone_melanin
from skinml.seeding import Seeds

NUM_IMAGES_PROBS = (0.64, 0.25, 0.08, 0.03)
"""Probability of one to four images; the mean is 1.5."""
SITES = {
    "trunk": 0.36,
    "lower_extremity": 0.20,
    "upper_extremity": 0.18,
    "head_neck_face": 0.18,
    "hand": 0.04,
    "foot": 0.04,
}
# Keratinocyte cancers and benign keratoses come later in life than naevi.
YEARS_LATER = {"nv": -8, "bkl": 8, "df": -4, "vasc": 0, "mel": 4, "bcc": 9, "akiec": 10}

# By malignancy: a lesion's treatments and how often each is chosen.
TREATMENTS = {
    True: {"excision": 0.7, "cryotherapy": 0.1, "imiquimod": 0.1, "radiotherapy": 0.1},
    False: {"observation": 0.7, "excision": 0.15, "cryotherapy": 0.1, "topical steroid": 0.05},
}
# What came of a lesion that was treated, and how often; nobody notes what came of no treatment.
OUTCOMES = {"healed": 0.6, "improved": 0.2, "unchanged": 0.1, "recurred": 0.1}
NOT_NOTED = 0.2
DARKER_TONES_LATER = 0.03
"""By how much less often, a tone up the scale, an outcome is noted as healed."""


@dataclass(frozen=True)
class Lesion:
    """One lesion of a patient.

    Attributes:
        number: Its number within the patient, from 0.
        diagnosis: Its class.
        site: Where it is; empty if the clinic did not note it.
    """

    number: int
    diagnosis: str
    site: str


@dataclass(frozen=True)
class Patient:
    """One patient of the cohort.

    Attributes:
        number: The patient's number in the cohort, from 0.
        clinic: The one clinic that the patient attends.
        tone: Skin tone, 1 to 10.
        skin: What the skin is made of.
        age: Years, in steps of five; None if the clinic did not note it.
        sex: "female", "male", or empty if the clinic did not note it.
        photographs: The lesion on each image.
    """

    number: int
    clinic: Clinic
    tone: int
    skin: Skin
    age: int | None
    sex: str
    photographs: tuple[Lesion, ...]


def _choose(rng: np.random.Generator, words: Sequence[str], weights: Sequence[float]) -> str:
    probs = np.asarray(weights, dtype=float)
    return words[int(rng.choice(len(words), p=probs / probs.sum()))]


def assign_patients(num_patients: int, num_clinics: int) -> list[Clinic]:
    """Give every patient a clinic, by the clinics' shares.

    Args:
        num_patients: How many patients there are.
        num_clinics: How many clinics, largest first, 1 to 6.

    Returns:
        The clinic of each patient. Sizes are within one patient of the shares.
    """
    clinics = CLINICS[:num_clinics]
    ends = np.cumsum([clinic.share for clinic in clinics])
    borders = np.round(ends / ends[-1] * num_patients).astype(int)
    return [clinics[int(np.searchsorted(borders, i, side="right"))] for i in range(num_patients)]


def _draw_lesions(
    clinic: Clinic, missing_rate: float, rng: np.random.Generator
) -> tuple[Lesion, ...]:
    """The lesion on each of a patient's images: further ones show the last again or a new one."""
    count = 1 + int(rng.choice(len(NUM_IMAGES_PROBS), p=NUM_IMAGES_PROBS))
    shown: list[Lesion] = []
    for _ in range(count):
        if shown and rng.random() < 0.5:
            shown.append(shown[-1])
            continue
        diagnosis = _choose(rng, tuple(clinic.diagnoses), tuple(clinic.diagnoses.values()))
        site = _choose(rng, tuple(SITES), tuple(SITES.values()))
        site = "" if rng.random() < missing_rate else site
        number = shown[-1].number + 1 if shown else 0
        shown.append(Lesion(number, diagnosis, site))
    return tuple(shown)


def draw_patient(number: int, clinic: Clinic, settings: SyntheticSettings, seeds: Seeds) -> Patient:
    """Draw one patient.

    Args:
        number: The patient's number in the cohort.
        clinic: The patient's clinic.
        settings: The cohort's settings.
        seeds: The cohort's streams; the patient's own is used.

    Returns:
        The patient with all lesions and photographs.
    """
    rng = seeds.stream(f"synthetic/patient/{number}")
    tone = 1 + int(rng.choice(10, p=np.asarray(clinic.tones) / sum(clinic.tones)))
    skin = Skin(
        melanin=tone_melanin(tone, float(rng.uniform(-0.45, 0.45))),
        blood=float(0.008 * np.exp(0.3 * rng.standard_normal())),
        hair=float(rng.beta(1.2, 2.2)),
        freckles=float(rng.beta(1.1, 3.0)) * max(0.15, 1 - 0.12 * tone),
        relief=float(rng.uniform(0.2, 1)),
    )
    photographs = _draw_lesions(clinic, settings.missing_rate, rng)
    later = np.mean([YEARS_LATER[lesion.diagnosis] for lesion in photographs])
    years = 5 * round(float(np.clip(rng.normal(clinic.mean_age + later, 14), 10, 90)) / 5)
    sex = "female" if rng.random() < 0.5 else "male"
    return Patient(
        number=number,
        clinic=clinic,
        tone=tone,
        skin=skin,
        age=None if rng.random() < settings.missing_rate else years,
        sex="" if rng.random() < settings.missing_rate else sex,
        photographs=photographs,
    )


def confirmation(diagnosis: str, rng: np.random.Generator) -> str:
    """Draw how a diagnosis was confirmed: malignant lesions by histopathology, others mixed.

    Args:
        diagnosis: The lesion's class.
        rng: The source of the draw.

    Returns:
        "histopathology" or "consensus".
    """
    if MALIGNANT[diagnosis] or rng.random() < 0.4:
        return "histopathology"
    return "consensus"


def draw_course(diagnosis: str, tone: int, rng: np.random.Generator) -> tuple[str, str]:
    """Draw what a lesion was treated with, and what came of it.

    Args:
        diagnosis: The lesion's class.
        tone: The patient's skin tone, 1 to 10; the darker, the less often a lesion heals.
        rng: The source of the draw.

    Returns:
        Treatment and outcome, words as a clinic writes them; empty where nobody noted it.
    """
    chosen = TREATMENTS[MALIGNANT[diagnosis]]
    treatment = _choose(rng, tuple(chosen), tuple(chosen.values()))
    later = DARKER_TONES_LATER * (tone - 1)
    shares = OUTCOMES | {
        "healed": OUTCOMES["healed"] - later,
        "recurred": OUTCOMES["recurred"] + later,
    }
    outcome = _choose(rng, tuple(shares), tuple(shares.values()))
    told, came = rng.random() >= NOT_NOTED, rng.random() >= NOT_NOTED
    if not told:
        return "", ""
    return treatment, outcome if came and treatment != "observation" else ""
