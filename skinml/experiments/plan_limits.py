"""Whether a planned run keeps a clinic's policy and its own budget, and what would if it does not.

The terms are those of `skinml.stewardship.policy_terms`, so that a plan and the gate agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isinf

from skinml.config import RunConfig, load_config
from skinml.errors import BudgetExceededError, ConfigError, PolicyError
from skinml.experiments.approval import Draft, drafted, expected_classes, terms_of
from skinml.privacy.headroom import Limit, epsilon_for_noise, most_epsilon, rounded_down
from skinml.privacy.ledger import Entry, entries_of_year, spent
from skinml.stewardship.policy import Policy
from skinml.stewardship.policy_terms import compare

_YEAR = timedelta(days=365)
# What a plan can change; the gate also asks who wants the run, and what for.
_TERMS = ("trust", "unit", "delta", "noise_multiplier", "clinics")
_TRIES = 5
# Trust models that promise something, the recipe's own first, a mere claim last.
_PREFERRED = ("distributed", "local", "central")


@dataclass(frozen=True)
class Bounds:
    """What holds for a run at one clinic.

    Attributes:
        policy: The clinic's policy.
        clinic: Its name; None where the policy is that of new virtual clinics.
        held: What its ledger holds.
        now: The time, with its zone.
    """

    policy: Policy
    clinic: str | None
    held: tuple[Entry, ...]
    now: datetime

    def limits(self, config: RunConfig) -> tuple[Limit, ...]:
        """List the ceilings of epsilon that hold for a run: the policy's, then its own."""
        year = tuple(entries_of_year(self.held, self.now))
        own = config.privacy.budget
        named = f"the policy of {self.clinic}" if self.clinic else "clinic.policy"
        privacy = self.policy.privacy
        every = (
            Limit("run", privacy.max_epsilon_per_run or 0.0, named, ()),
            Limit("year", privacy.max_epsilon_per_year or 0.0, named, year),
            Limit("life", privacy.max_epsilon_for_life or 0.0, named, self.held),
            Limit("year", own.epsilon_per_year or 0.0, "privacy.budget.epsilon_per_year", year),
            Limit("life", own.epsilon or 0.0, "privacy.budget.epsilon", self.held),
        )
        return tuple(limit for limit in every if limit.ceiling > 0)


def draft_of(config: RunConfig, num_clinics: int) -> Draft:
    """Plan a run from its config alone, without its data.

    Args:
        config: The run's config.
        num_clinics: Clinics in the run.

    Returns:
        The draft: what the run itself would do.

    Raises:
        ConfigError: If no honest clinic would be left, or the sections do not fit together.
    """
    return drafted(config, expected_classes(config), num_clinics=num_clinics, run="plan")


def require_possible(
    draft: Draft, bounds: Bounds, experiment: str, overrides: Sequence[str]
) -> None:
    """Refuse a run that the policy or the budget does not allow, and name the nearest that they do.

    Args:
        draft: The run.
        bounds: What holds for it.
        experiment: The experiment's name.
        overrides: The changes to its config.

    Raises:
        BudgetExceededError: If only ceilings of epsilon are passed.
        PolicyError: If another term of the policy is not kept.
    """
    terms, ceilings = dict(_refused_terms(draft, bounds)), tuple(_passed(draft, bounds))
    if not terms and not ceilings:
        return
    kind = PolicyError if terms else BudgetExceededError
    raise kind(
        rule="a run within the ceilings of epsilon"
        if not terms
        else "a run within the clinic's policy",
        got="; ".join([*terms.values(), *ceilings]),
        do=_nearest(draft, bounds, experiment, overrides, tuple(terms)),
    )


def _refused_terms(draft: Draft, bounds: Bounds) -> Iterator[tuple[str, str]]:
    """Ask the gate's own comparison, but for epsilon, which `_passed` tells more of."""
    proposal = terms_of(draft.config, draft.releases, num_clinics=draft.num_clinics)
    for term in compare(bounds.policy, proposal):
        if term.name in _TERMS and term.verdict == "refused":
            noise = proposal.noise_multiplier
            asked = term.asked if term.name != "noise_multiplier" else _short(noise)
            yield term.name, f"{term.name} {asked} where {term.allowed} is allowed"


def _passed(draft: Draft, bounds: Bounds) -> Iterator[str]:
    delta = draft.config.privacy.delta
    for limit in bounds.limits(draft.config):
        total = spent([*limit.held, *draft.entries], delta)
        if total > limit.ceiling:
            words = "unbounded" if isinf(total) else f"{total:.3f}"
            yield f"epsilon {words} {_SPANS[limit.span]}, at most {limit.ceiling:g} ({limit.rule})"


_SPANS = {"run": "by this run", "year": "within a year", "life": "in all"}


def _short(noise: float | None) -> str:
    return "none" if noise is None else f"{noise:.6g}"


def _nearest(
    draft: Draft,
    bounds: Bounds,
    experiment: str,
    overrides: Sequence[str],
    terms: Sequence[str],
) -> str:
    """Say which changes would make the run possible, tried through the same checks."""
    missing = draft.num_clinics - _summed(draft)
    clinics = max(draft.num_clinics, bounds.policy.least_clinics + missing)
    more = f"a run of {clinics} clinics" if clinics > draft.num_clinics else ""
    # Where nothing is promised no epsilon is low enough: another trust model is.
    wrong = terms if draft.config.privacy.private else {*terms, "trust"} - {"noise_multiplier"}
    changes = _allowed_terms(experiment, overrides, sorted(wrong), bounds.policy)
    if changes is None:
        return "No run of this experiment fits: its recipe needs what the policy does not allow."
    new = draft_of(load_config(experiment, [*overrides, *changes]), clinics)
    lower = _lower_epsilon(new, bounds, experiment, [*overrides, *changes])
    wait = "" if changes else _first_day(new, bounds)
    if lower is None:
        return _nothing_left(bounds, wait)
    asked = " ".join([*changes, *([lower] if lower else [])])
    words = ", ".join(part for part in (asked, more) if part)
    return f"The nearest possible: {words}. {wait}".rstrip()


def _summed(draft: Draft) -> int:
    config = draft.config
    missing = max(config.federation.allowed_missing, config.privacy.tolerated_dropouts)
    return max(draft.num_clinics - missing, 1)


def _allowed_terms(
    experiment: str, overrides: Sequence[str], terms: Sequence[str], policy: Policy
) -> list[str] | None:
    """Find settings of trust, unit and delta that policy and recipe both allow."""
    tries: dict[str, list[list[str]]] = {
        "trust": [[f"privacy.trust={word}"] for word in _PREFERRED if word in policy.trust],
        "unit": [
            [f"privacy.unit={word}", *more]
            for word in policy.units
            for more in ([], ["privacy.max_clinics_per_patient=1"])
        ],
        "delta": [[f"privacy.delta={policy.privacy.max_delta}"]],
    }
    found: list[str] = []
    for name in terms:
        fitting = (
            each for each in tries.get(name, [[]]) if _composes(experiment, [*overrides, *each])
        )
        chosen = next(fitting, None)
        if chosen is None:
            return None
        found += chosen
    return found


def _composes(experiment: str, overrides: Sequence[str]) -> bool:
    try:
        load_config(experiment, overrides)
    except ConfigError:
        return False
    return True


def _lower_epsilon(
    draft: Draft, bounds: Bounds, experiment: str, overrides: Sequence[str]
) -> str | None:
    """Find the greatest epsilon that is kept; "" where the present one is, None where none is."""
    if not (
        list(_passed(draft, bounds)) or "noise_multiplier" in dict(_refused_terms(draft, bounds))
    ):
        return ""
    delta = draft.config.privacy.delta
    most = [most_epsilon(limit, draft.entries, delta) for limit in bounds.limits(draft.config)]
    floor = bounds.policy.privacy.least_noise_multiplier or 0.0
    most.append(epsilon_for_noise(draft.entries, floor, delta))
    wanted = rounded_down(min(*most, draft.config.privacy.epsilon))
    for _ in range(_TRIES):
        if wanted <= 0:
            return None
        change = f"privacy.epsilon={wanted:g}"
        new = draft_of(load_config(experiment, [*overrides, change]), draft.num_clinics)
        if not list(_passed(new, bounds)) and not dict(_refused_terms(new, bounds)):
            return change
        # Scaled noise and noise that was planned anew may differ by the search's tolerance.
        wanted = rounded_down(0.995 * wanted)
    return None


def _first_day(draft: Draft, bounds: Bounds) -> str:
    """Tell when the year's ceiling would let the run pass, where only the year is in its way."""
    delta, others = draft.config.privacy.delta, bounds.limits(draft.config)
    yearly = [limit for limit in others if limit.span == "year"]
    passed = [
        limit for limit in others if spent([*limit.held, *draft.entries], delta) > limit.ceiling
    ]
    if not passed or any(limit.span != "year" for limit in passed):
        return ""
    ceiling = min(limit.ceiling for limit in yearly)
    times = sorted({datetime.fromisoformat(e.time) + _YEAR for e in yearly[0].held})
    for time in times:
        # A second later the entries of that time have left the window.
        held = entries_of_year(bounds.held, time + timedelta(seconds=1))
        if spent([*held, *draft.entries], delta) <= ceiling:
            return f"The run as asked is possible from {(time + timedelta(days=1)).date()} on."
    return ""


def _nothing_left(bounds: Bounds, wait: str) -> str:
    if wait:
        return f"Nothing is left of this year's budget. {wait}"
    whose = f"clinic {bounds.clinic}" if bounds.clinic else "this budget"
    return f"No epsilon is small enough: nothing is left at {whose}."
