"""The settings of the synthetic cohort."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict, Field

from skinml.errors import require_in_range

RENDERER_VERSION = 1
"""Part of the digest: raised whenever the same settings and seed would give other pixels."""


class SyntheticSettings(BaseModel):
    """How many patients are drawn, how large, and how hard. The seed is given beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_patients: int = Field(
        600, ge=1, le=1_000_000, description="Patients over all clinics; about 1.5 images each."
    )
    image_size: int = Field(
        128, ge=32, le=1024, description="Height and width of an image in pixels."
    )
    num_clinics: int = Field(
        6, ge=1, le=6, description="How many of the six named clinics there are, largest first."
    )
    difficulty: float = Field(
        0.35,
        ge=0.0,
        le=1.0,
        description=(
            "Share of the difference between classes that the darkest skin tone loses; the loss "
            "grows linearly from none at tone 1. 0 switches it off."
        ),
    )
    missing_rate: float = Field(
        0.04, ge=0.0, le=1.0, description="Probability that age, sex or site is left empty."
    )


def class_signal(tone: int, difficulty: float) -> float:
    """Share of the difference between classes that is left on a skin tone.

    Args:
        tone: Monk-like skin tone, 1 (lightest) to 10 (darkest).
        difficulty: Share that tone 10 loses, 0 to 1.

    Returns:
        1 - difficulty * (tone - 1) / 9.

    Raises:
        ConfigError: If the tone or the difficulty lies outside its range.

    Example:
        >>> class_signal(10, 0.35)
        0.65
    """
    require_in_range(1, 10, tone=tone)
    require_in_range(0.0, 1.0, difficulty=difficulty)
    return 1.0 - difficulty * (tone - 1) / 9


def settings_digest(settings: SyntheticSettings, seed: int) -> str:
    """Name a cohort by what it is made from, for the folder that caches it.

    Args:
        settings: The cohort's settings.
        seed: The cohort's seed.

    Returns:
        Twelve hexadecimal digits that change with any setting, the seed or the renderer's version.
    """
    made_from = {"renderer": RENDERER_VERSION, "seed": seed, **settings.model_dump()}
    text = json.dumps(made_from, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
