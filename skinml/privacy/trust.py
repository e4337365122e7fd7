"""Who adds how much noise under each trust model."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from skinml.errors import ConfigError, require_in_range
from skinml.privacy.settings import PrivacySettings, Trust

MOST_CLINICS = 100
"""Clinics of one distributed sum; bounds how many shares its noise has."""


@dataclass(frozen=True)
class NoiseRule:
    """How the noise of one sum is shared, in multiples of sensitivity times noise multiplier.

    Attributes:
        trust: The trust model.
        clinic: Standard deviation that each clinic adds.
        coordinator: Standard deviation that the coordinator adds to the sum.
    """

    trust: Trust
    clinic: float
    coordinator: float


def noise_rule(settings: PrivacySettings, num_clinics: int) -> NoiseRule:
    """Share the noise out.

    Under "distributed", each clinic's variance is 1 / (t - c), where t clinics are enough for the
    sum and c of them may collude: the honest ones among t already reach the full variance.

    Args:
        settings: Trust model, dropouts and colluding clinics.
        num_clinics: Clinics in the run, a public number.

    Returns:
        The rule.

    Raises:
        ConfigError: If no honest clinic would be left, or there are more than 100.

    Source:
        Kairouz, Liu and Steinke 2021, arXiv:2102.06387, section 4, for noise shares that sum up.
    """
    match settings.trust:
        case "none":
            return NoiseRule("none", clinic=0.0, coordinator=0.0)
        case "central":
            return NoiseRule("central", clinic=0.0, coordinator=1.0)
        case "local":
            return NoiseRule("local", clinic=1.0, coordinator=0.0)
        case "distributed":
            require_in_range(1, MOST_CLINICS, num_clinics=num_clinics)
            honest = num_clinics - settings.tolerated_dropouts - settings.colluding_clinics
            if honest < 1:
                raise ConfigError(
                    rule="at least one honest clinic among those that must survive",
                    got=f"{num_clinics} clinics, tolerated_dropouts="
                    f"{settings.tolerated_dropouts}, colluding_clinics="
                    f"{settings.colluding_clinics}",
                    do="Lower privacy.tolerated_dropouts or privacy.colluding_clinics.",
                )
            return NoiseRule("distributed", clinic=1 / sqrt(honest), coordinator=0.0)
