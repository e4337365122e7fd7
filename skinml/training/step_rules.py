"""Which steps end-to-end training may take under which trust model; known from the config alone."""

from __future__ import annotations

from skinml.errors import ConfigError
from skinml.training.settings import NetworkSettings, PersonalHeadSettings

ONE_STEP = ("central", "distributed")
"""Trust models under which a round is one global step on the sum of the clinics' gradients."""


def require_fitting_steps(settings: NetworkSettings, trust: str) -> None:
    """Refuse local steps where the noise is shared by the clinics or added by the coordinator.

    Args:
        settings: The recipe.
        trust: The trust model.

    Raises:
        ConfigError: If the recipe has several steps a round under a trust model that allows one;
            or, there, a gradient mode in which patients share their rounding.
    """
    if trust not in ONE_STEP:
        return
    if settings.steps_per_round != 1:
        raise ConfigError(
            rule=f"training.network.steps_per_round=1 for end-to-end training under "
            f"privacy.trust={trust}",
            got=f"steps_per_round={settings.steps_per_round}",
            do="Set it to 1 and raise training.network.rounds: only sums can share their noise. "
            "Or set privacy=local: each clinic adds its own noise at every local step.",
        )
    if settings.gradient_mode not in ("auto", "alone"):
        raise ConfigError(
            rule=f"training.network.gradient_mode=auto or alone under privacy.trust={trust}",
            got=f"gradient_mode={settings.gradient_mode}",
            do="Leave it at auto: exact sums take one patient at a time, so that nobody is in "
            "another patient's rounding.",
        )


def require_fitting_personal_head(settings: PersonalHeadSettings, kind: str, mode: str) -> None:
    """Refuse heads of the clinics' own where there is no head, or no other clinic.

    Args:
        settings: The section.
        kind: The model's kind.
        mode: The federation's mode.

    Raises:
        ConfigError: If so.
    """
    if settings.keep and (kind != "linear_head" or mode == "centralised"):
        raise ConfigError(
            rule="model.kind=linear_head and a federation of clinics where "
            "training.personal_head.keep is true",
            got=f"model.kind={kind}, federation.mode={mode}",
            do="Leave training.personal_head.keep out.",
        )
