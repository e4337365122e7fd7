"""Which strategy fits which trust model; known from the config alone, without Flower.

A robust rule looks at single clinics. So it needs a coordinator that sees them: under secure sums
there is none, and under central trust the rule itself must have a bounded sensitivity. A strategy
that losses drive has none under any trust model, and so is for runs that promise nothing.
"""

from __future__ import annotations

from skinml.errors import ConfigError
from skinml.federated.settings import FederationSettings, StrategySettings

ADAPTIVE = ("fedadam", "fedyogi")
LOSS_DRIVEN = "qfedavg"
ROBUST = ("trimmed_mean", "median", "krum")
_UNDER_SUMS = ("fedavg", *ADAPTIVE)
_AMONG = f"federation.strategy.name among {', '.join(_UNDER_SUMS)}"
_LEAST_FOR_MEDIAN = 3


def require_allowed(
    federation: FederationSettings,
    *,
    trust: str,
    kind: str,
    recipe: str,
    steps_per_round: int,
) -> None:
    """Refuse a strategy that the run's trust model, model or federation does not allow.

    Args:
        federation: The federation's section.
        trust: The trust model.
        kind: The model's kind, "linear_head" or "network".
        recipe: How a linear head spends the budget.
        steps_per_round: Local steps of end-to-end training.

    Raises:
        ConfigError: If it does not.
    """
    name = federation.strategy.name
    head = kind == "linear_head"
    problem = (
        _against_losses(name, trust)
        or _against_mode(name, federation.mode)
        or _against_trust(name, trust, head=head)
        or _against_model(name, recipe, steps_per_round, head=head)
    )
    if problem:
        rule, do = problem
        given = f"federation.strategy.name={name}, privacy.trust={trust}, model.kind={kind}"
        raise ConfigError(rule=rule, got=given, do=do)
    _require_bound_allowed(federation, trust)


def require_enough_clinics(strategy: StrategySettings, num_clinics: int) -> None:
    """Refuse a robust strategy that cannot keep anybody out among so few clinics.

    Args:
        strategy: The strategy.
        num_clinics: Clinics of the run, or of a round; a public number.

    Raises:
        ConfigError: If so.
    """
    name = strategy.name
    if name == "trimmed_mean" and not int(strategy.trim_fraction * num_clinics):
        raise ConfigError(
            rule="a federation.strategy.trim_fraction that cuts off a clinic at each end",
            got=f"trim_fraction={strategy.trim_fraction:g} of {num_clinics} clinics",
            do="Raise it, staying below 0.5; of fewer than 3 clinics none can be cut off.",
        )
    least = {"median": _LEAST_FOR_MEDIAN, "krum": 2 * strategy.malicious_clinics + 3}.get(name, 1)
    if num_clinics < least:
        raise ConfigError(
            rule=f"at least {least} clinics in every round for federation.strategy.name={name}",
            got=f"{num_clinics} clinics, malicious_clinics={strategy.malicious_clinics}",
            do="Take more clinics, allow fewer to be missing, or choose fedavg.",
        )
    honest = num_clinics - strategy.malicious_clinics
    if name == "krum" and strategy.krum_selects > honest:
        raise ConfigError(
            rule=f"federation.strategy.krum_selects of at most the {honest} honest clinics",
            got=f"krum_selects={strategy.krum_selects}",
            do="Lower it.",
        )


def _against_losses(name: str, trust: str) -> tuple[str, str] | None:
    if name != LOSS_DRIVEN or trust == "none":
        return None
    rule = f"a strategy that is not driven by the clinics' losses under privacy.trust={trust}"
    do = (
        "Choose another strategy, or privacy.trust=none: q-FedAvg multiplies all that a clinic "
        "sends by a power of its loss, a figure of its patients that nothing clips and pays for."
    )
    return rule, do


def _against_mode(name: str, mode: str) -> tuple[str, str] | None:
    if mode != "centralised" or name in _UNDER_SUMS:
        return None
    do = (
        "Choose one of them: with all patients at one clinic there is no second to compare with "
        "and none to drift away from."
    )
    return f"{_AMONG} where federation.mode=centralised", do


def _against_trust(name: str, trust: str, *, head: bool) -> tuple[str, str] | None:
    rule = f"{_AMONG} under privacy.trust={trust}"
    if trust == "distributed" and name not in _UNDER_SUMS:
        do = (
            "Choose one of them, or privacy.trust=local: a secure sum hides single updates, so "
            "that no rule can look at them."
        )
        return rule, do
    if trust == "central" and name == "krum":
        do = (
            "Choose trimmed_mean or median, or privacy.trust=local: one patient can change which "
            "clinics Krum takes and so the whole sum; no noise of a useful size covers that."
        )
        return f"{_AMONG}, trimmed_mean, median under privacy.trust=central", do
    if trust == "central" and name in ROBUST and not head:
        do = (
            "Choose one of them: epsilon for a patient at several clinics, each of which draws "
            "its own sample, is known for a sum and not for sorted values."
        )
        return f"{rule} for end-to-end training", do
    return None


def _against_model(
    name: str, recipe: str, steps_per_round: int, *, head: bool
) -> tuple[str, str] | None:
    if name in (*ADAPTIVE, LOSS_DRIVEN) and head and recipe == "prototypes":
        do = "Choose another privacy.recipe: prototypes are made in one round, without a step."
        return f"a recipe with gradients where federation.strategy.name={name}", do
    if name == "fedprox" and (head or steps_per_round == 1):
        rule = (
            "local steps where federation.strategy.name=fedprox: model.kind=network and "
            "training.network.steps_per_round above 1 under privacy.trust=local or none"
        )
        do = (
            "Choose fedavg, which is the same here: a clinic that takes one step has not yet "
            "moved away from where it began."
        )
        return rule, do
    return None


def _require_bound_allowed(federation: FederationSettings, trust: str) -> None:
    bound = federation.max_update_norm
    if bound is None or trust in ("none", "local"):
        return
    reason = (
        "a secure sum hides how long each clinic's part is"
        if trust == "distributed"
        else "whether a clinic's exact sum passes would itself tell about its patients"
    )
    raise ConfigError(
        rule=f"no federation.max_update_norm under privacy.trust={trust}",
        got=f"max_update_norm={bound:g}",
        do=f"Leave it out: {reason}.",
    )
