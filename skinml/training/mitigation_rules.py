"""Which mitigation fits which model and trust model; known from the config alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skinml.errors import ConfigError
from skinml.training.settings import MitigationSettings

GROUP_METHODS = ("reweigh", "balanced_sampling", "group_dro")
"""Methods that tell a run's patients apart by their group."""
BY_STRATEGY = "qfedavg"
# A clinic is no attribute of a patient, and a diagnosis is what is to be found.
_NO_GROUPS = ("clinic", "diagnosis")


def with_mitigation(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Fill in the strategy that a mitigation is made by, where the config names none.

    Args:
        values: A config's nested values, not validated yet: what cannot be read is left alone.

    Returns:
        The values, completed.

    Example:
        >>> filled = with_mitigation({"mitigation": {"method": "qfedavg"}, "federation": {}})
        >>> filled["federation"]["strategy"]["name"]
        'qfedavg'
    """
    chosen, federation = values.get("mitigation"), values.get("federation")
    if not isinstance(chosen, dict) or not isinstance(federation, dict):
        return dict(values)
    strategy = federation.get("strategy") or {}
    if chosen.get("method") != BY_STRATEGY or not isinstance(strategy, dict):
        return dict(values)
    named = {"name": BY_STRATEGY} | strategy
    return dict(values) | {"federation": federation | {"strategy": named}}


def require_fitting_mitigation(
    settings: MitigationSettings,
    *,
    kind: str,
    trust: str,
    recipe: str,
    strategy: str,
    groups: Sequence[str],
) -> None:
    """Refuse a mitigation that the run's model, trust model, strategy or data do not allow.

    Args:
        settings: The section.
        kind: The model's kind, "linear_head" or "network".
        trust: The trust model.
        recipe: How a linear head spends the budget.
        strategy: The strategy's name.
        groups: The attributes in data.groups.

    Raises:
        ConfigError: If they do not.
    """
    method = settings.method
    if method == BY_STRATEGY:
        problem = _against_losses_of_clinics(trust, strategy)
    elif method in GROUP_METHODS:
        problem = (
            _against_group(settings.group, groups)
            or _against_model(method, kind, recipe)
            or _against_second(strategy)
        )
    else:
        problem = None
    problem = problem or _against_weights(settings)
    if problem:
        rule, got, do = problem
        raise ConfigError(rule=rule, got=f"mitigation.method={method}, {got}", do=do)


_Problem = tuple[str, str, str] | None


def _against_losses_of_clinics(trust: str, strategy: str) -> _Problem:
    if trust != "none":
        do = (
            "Choose reweigh or group_dro: nothing bounds what one patient changes in the loss of a "
            "clinic that weighs all of its part."
        )
        rule = "privacy.trust=none where mitigation.method=qfedavg"
        return rule, f"privacy.trust={trust}", do
    if strategy != BY_STRATEGY:
        rule = "federation.strategy.name=qfedavg, or none, where mitigation.method=qfedavg"
        return rule, f"federation.strategy.name={strategy}", "Leave federation.strategy.name out."
    return None


def _against_group(group: str, groups: Sequence[str]) -> _Problem:
    known = [name for name in groups if name not in _NO_GROUPS]
    if group in known:
        return None
    do = (
        "Choose one of these, or add the attribute to data.groups; clinics are weighed by "
        "mitigation.method=qfedavg."
    )
    rule = f"mitigation.group among {', '.join(known) or 'the attributes in data.groups'}"
    return rule, f"mitigation.group={group}", do


def _against_model(method: str, kind: str, recipe: str) -> _Problem:
    wanted = "network" if method == "balanced_sampling" else "linear_head"
    if kind != wanted:
        other = "balanced_sampling" if kind == "network" else "reweigh or group_dro"
        do = (
            f"Choose mitigation.method={other}: a linear head takes all patients in each round, a "
            "network draws them."
        )
        return f"model.kind={wanted} where mitigation.method={method}", f"model.kind={kind}", do
    if method == "group_dro" and recipe == "prototypes":
        do = "Choose another privacy.recipe, or mitigation.method=reweigh."
        rule = "a recipe with gradients where mitigation.method=group_dro"
        return rule, f"privacy.recipe={recipe}", do
    return None


def _against_second(strategy: str) -> _Problem:
    if strategy != BY_STRATEGY:
        return None
    do = "Choose another strategy, or mitigation.method=qfedavg alone."
    return "one mitigation in a run", f"federation.strategy.name={strategy}", do


def _against_weights(settings: MitigationSettings) -> _Problem:
    """Public weights where they are needed, and nowhere else."""
    if settings.method == "balanced_sampling" and not settings.weights:
        do = (
            "Give public weights: rates that follow from how many patients a group has would tell "
            "of them, and are charged nowhere."
        )
        rule = "mitigation.weights where mitigation.method=balanced_sampling"
        return rule, "mitigation.weights of no group", do
    if settings.weights and settings.method not in ("reweigh", "balanced_sampling"):
        rule = "mitigation.weights only where mitigation.method is reweigh or balanced_sampling"
        got = f"mitigation.weights of {len(settings.weights)} groups"
        return rule, got, "Leave mitigation.weights out."
    return None
