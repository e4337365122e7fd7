"""A proposed run held against a clinic's policy, term by term, and one policy against another.

A proposal may be stricter than the policy and never looser. What is not known counts as refused,
but for the number of patients, which can only be counted once the run's data are read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf, isinf, nextafter
from typing import Any, Literal

from skinml.errors import BudgetExceededError, PolicyError
from skinml.stewardship.policy import ANYBODY, FieldDays, Policy, PurposeDays

Verdict = Literal["within", "stricter", "refused", "open"]
"""`within`: as far as the policy goes. `stricter`: less than that. `refused`: the policy does not
allow it. `open`: cannot be told before the patients are counted."""

# The terms that only cost budget: a smaller epsilon, or waiting, mends them.
_BUDGET = ("epsilon_per_run", "epsilon_per_year", "epsilon_for_life")

# Which way each of a policy's values is stricter.
_CEILINGS = (
    "max_epsilon_per_run",
    "max_epsilon_per_year",
    "max_epsilon_for_life",
    "max_delta",
    "images_days",
    "originals_days",
    "features_days",
    "predictions_days",
    "refusals",
    "bulk_patients",
    "answer_days",
    *PurposeDays.model_fields,
    *FieldDays.model_fields,
)
_FLOORS = ("least_noise_multiplier", "least_patients", "least_clinics", "within_hours")
_SETS = (
    "purposes",
    "licences",
    "coordinators",
    "experiments",
    "without_asking",
    "trust",
    "units",
    "fields",
    "genetic",
    "financial",
    "steward",
    "clinician",
    "operator",
    "auditor",
)
# Of two words, the one that keeps less.
_STRICTER_WORDS = ("drop",)


@dataclass(frozen=True)
class Proposal:
    """What somebody asks a clinic for.

    Attributes:
        experiment: The experiment's name.
        purpose: What the data shall be used for.
        coordinator: Who asks; "simulation" is this computer itself.
        trust: The trust model.
        unit: Whose data are protected as a whole.
        epsilon: Of the whole run, all its releases together, at `delta`; infinity where nothing
            is promised.
        delta: Delta that every epsilon is read at.
        noise_multiplier: Least noise of a release in the sum that can be read, as a multiple of
            what one unit can change; None where there is no noise or where nobody knows it.
        clinics: Fewest clinics whose contributions are summed.
        patients: Patients of this clinic whose data the run may train on; None before they are
            counted. Secret: it enters no message.
        fields: Columns of the manifest that the run keeps or uses.
        epsilon_year: What the clinic's ledger would reach with this run, this year; inf possible.
        epsilon_life: What it would reach in all; inf possible.
    """

    experiment: str
    purpose: str
    coordinator: str
    trust: str
    unit: str
    epsilon: float
    delta: float
    noise_multiplier: float | None
    clinics: int
    patients: int | None
    fields: tuple[str, ...]
    epsilon_year: float
    epsilon_life: float


@dataclass(frozen=True)
class Term:
    """One line of a comparison.

    Attributes:
        name: What is compared, one word that a log can hold.
        allowed: What the policy allows, in words.
        asked: What is proposed, in words.
        verdict: How the two compare.
    """

    name: str
    allowed: str
    asked: str
    verdict: Verdict


def compare(policy: Policy, proposal: Proposal) -> tuple[Term, ...]:
    """Hold a proposal against a policy.

    Args:
        policy: The clinic's policy.
        proposal: What is asked for.

    Returns:
        One line a term, always the same terms in the same order.

    Guarantees:
        NaN and values out of their range are refused. No line tells how many patients there are.
    """
    limits = policy.privacy
    return (
        _among("experiment", policy.experiments, proposal.experiment),
        _among("purpose", policy.purposes, proposal.purpose),
        _among("coordinator", policy.coordinators, proposal.coordinator),
        _among("trust", policy.trust, proposal.trust),
        _among("unit", policy.units, proposal.unit),
        _at_most("epsilon_per_run", limits.max_epsilon_per_run, proposal.epsilon),
        _at_most("epsilon_per_year", limits.max_epsilon_per_year, proposal.epsilon_year),
        _at_most("epsilon_for_life", limits.max_epsilon_for_life, proposal.epsilon_life),
        _at_most("delta", limits.max_delta, proposal.delta, most=nextafter(1.0, 0.0)),
        _at_least("noise_multiplier", limits.least_noise_multiplier, proposal.noise_multiplier),
        _at_least("clinics", policy.least_clinics, proposal.clinics),
        _patients(policy.least_patients, proposal.patients),
        _fields(policy.fields, proposal.fields),
    )


def require_within(policy: Policy, proposal: Proposal, *, before_counting: bool = False) -> None:
    """Refuse a proposal that the policy does not allow.

    Args:
        policy: The clinic's policy.
        proposal: What is asked for.
        before_counting: Whether the patients need not be counted yet; then this must be called
            again with their number before anything is trained.

    Raises:
        BudgetExceededError: If nothing but ceilings of epsilon are passed.
        PolicyError: If another term is not allowed. The details hold a line a refused term.
    """
    verdicts = ("refused",) if before_counting else ("refused", "open")
    refused = [term for term in compare(policy, proposal) if term.verdict in verdicts]
    if not refused:
        return
    only_budget = all(term.name in _BUDGET for term in refused)
    kind = BudgetExceededError if only_budget else PolicyError
    raise kind(
        rule="a run within the clinic's policy",
        got=f"too much of: {', '.join(term.name for term in refused)}"
        if only_budget
        else f"other terms for: {', '.join(term.name for term in refused)}",
        do="Ask for a smaller privacy.epsilon, or stop here: the clinic's budget is used up."
        if only_budget
        else "Ask for what the policy allows; only the clinic's steward can change it.",
        details=[f"{t.name}: {t.allowed} allowed, {t.asked} asked" for t in refused],
    )


def policy_difference(old: Policy, new: Policy) -> tuple[str, ...]:
    """Say what a new policy changes, and which way.

    Args:
        old: The policy that holds.
        new: The policy that shall hold.

    Returns:
        A line a changed value, such as "max_epsilon_per_run: 3 -> 2 (stricter)"; nothing where
        both say the same.
    """
    before, after = _leaves(old.model_dump()), _leaves(new.model_dump())
    lines = []
    for name, value in before.items():
        direction = _direction(name, value, after[name])
        if direction:
            lines.append(f"{name}: {_shown(value)} -> {_shown(after[name])} ({direction})")
    return tuple(lines)


def policy_lines(policy: Policy) -> tuple[tuple[str, str], ...]:
    """Say a policy in short.

    Args:
        policy: The policy.

    Returns:
        Each value's name and the value in words, in the order of the file.
    """
    return tuple((name, _shown(value)) for name, value in _leaves(policy.model_dump()).items())


def _among(name: str, allowed: Collection[str], asked: str) -> Term:
    fits = asked in allowed or ANYBODY in allowed
    words = "any" if ANYBODY in allowed else _listed(allowed)
    return Term(name, words, _printable(asked), "within" if fits else "refused")


def _at_most(name: str, ceiling: float | None, asked: float, most: float = inf) -> Term:
    words = "any" if ceiling is None else f"at most {_number(ceiling)}"
    bound = most if ceiling is None else ceiling
    fits = 0 <= asked <= bound
    said = _rounded(asked, exact=not fits)
    if not fits:
        return Term(name, words, said, "refused")
    stricter = ceiling is not None and asked < ceiling and said != _rounded(ceiling)
    return Term(name, words, said, "stricter" if stricter else "within")


def _at_least(name: str, floor: float | None, asked: float | None) -> Term:
    words = "any" if floor is None else f"at least {_number(floor)}"
    if asked is None:
        return Term(name, words, "none", "within" if floor is None else "refused")
    fits = asked >= (0 if floor is None else floor)
    said = _rounded(asked, exact=not fits)
    if not fits:
        return Term(name, words, said, "refused")
    stricter = floor is not None and asked > floor and said != _rounded(floor)
    return Term(name, words, said, "stricter" if stricter else "within")


def _patients(floor: int, asked: int | None) -> Term:
    words = f"at least {floor}"
    if asked is None:
        return Term("patients", words, "not counted yet", "open")
    if asked < floor:
        return Term("patients", words, "fewer", "refused")
    return Term("patients", words, "enough", "within")


def _fields(allowed: Collection[str], asked: Collection[str]) -> Term:
    extra = [field for field in asked if field not in allowed]
    if extra:
        return Term("fields", _listed(allowed), f"also {_listed(extra)}", "refused")
    verdict: Verdict = "within" if set(asked) == set(allowed) else "stricter"
    return Term("fields", _listed(allowed), _listed(asked), verdict)


def _leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _leaves(value) if isinstance(value, dict) else {name: value}
    return found


def _direction(name: str, old: Any, new: Any) -> str:
    """Name the way of a change; empty where nothing changed."""
    if name in _SETS:
        gone, come = set(old) - set(new), set(new) - set(old)
        stricter = bool(gone) and ANYBODY not in new
        looser = bool(come) and ANYBODY not in old
        return " and ".join(["stricter"] * stricter + ["looser"] * looser)
    if old == new:
        return ""
    if name in _CEILINGS:
        return "stricter" if _or_else(new, inf) < _or_else(old, inf) else "looser"
    if name in _FLOORS:
        return "stricter" if _or_else(new, 0.0) > _or_else(old, 0.0) else "looser"
    if new in _STRICTER_WORDS or old in _STRICTER_WORDS:
        return "stricter" if new in _STRICTER_WORDS else "looser"
    return "changed"


def _or_else(value: float | None, default: float) -> float:
    return default if value is None else value


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return _listed(value)
    if value is None:
        return "no limit"
    return str(value) if isinstance(value, str) else _number(value)


def _rounded(value: float, *, exact: bool = False) -> str:
    """Write a number with four digits, or with all: a refused one must not read like its limit."""
    if isinf(value) and value > 0:
        return "unbounded"
    return _number(float(value)) if exact else f"{value:.4g}"


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _listed(words: Collection[str]) -> str:
    return ", ".join(_printable(word) for word in words) or "none"


def _printable(word: str) -> str:
    """Keep strangers' words short and on their line."""
    return word if word.isprintable() and 0 < len(word) <= 64 else "a name that cannot be shown"
