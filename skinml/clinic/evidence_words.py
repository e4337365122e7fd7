"""The words that the evidence's documents take from a clinic's policy and ledger."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, exp, isfinite
from typing import Any

from skinml.clinic.consents import COVERED
from skinml.clinic.facts import Facts
from skinml.stewardship.policy import KeptField, Policy
from skinml.stewardship.purposes import Purpose
from skinml.stewardship.roles import ROLES

OPEN = "**To fill in:**"
"""What stands in front of everything that only people can know."""

_FIELDS: Mapping[KeptField, str] = {
    "lesion_id": "which photographs show the same spot",
    "malignant": "whether it is cancer",
    "age": "your age in years; over 89 all ages are one",
    "sex": "your sex",
    "anatomical_site": "where on the body it is",
    "skin_tone": "your skin tone, to see whether the computer does as well for every skin",
    "modality": "how the photograph was taken",
    "confirmation": "how the diagnosis was confirmed",
}
_PURPOSES: Mapping[Purpose, tuple[str, str]] = {
    "care": ("your care", "your own care here"),
    "research": (
        "research",
        "research: studies at our clinic, or with data that we bring together",
    ),
    "teaching": ("teaching", "teaching: showing students and staff what a condition looks like"),
    "federated_training": (
        "training with other clinics",
        (
            "training a computer to tell skin conditions apart, together with other clinics; from "
            "our clinic only totals over many patients leave"
        ),
    ),
    "publication_of_images": ("publication", "publication: your picture in a journal or a book"),
    "statistics": (
        "counts with other clinics",
        (
            "counting how many patients have which condition, treatment and outcome, together with "
            "other clinics; from our clinic only counts over many patients leave, each changed by "
            "a little chance"
        ),
    ),
}
FIELD_NAMES: Mapping[str, str] = {
    "diagnosis": "diagnosis",
    "lesion_id": "spot",
    "malignant": "cancer",
    "anatomical_site": "where",
    "skin_tone": "skin tone",
    "skin_tone_scale": "scale of skin tone",
    "modality": "kind of picture",
    "confirmation": "confirmed by",
    "taken": "taken",
    "treatment_date": "day of treatment",
    "outcome_date": "day of outcome",
}
"""Short names of a record's fields for patients; others are called as they are."""
STANDS: Mapping[str, str] = {
    COVERED: "yes, you agreed",
    "no consent": "no, you were not asked or did not answer",
    "purpose not covered": "no, you did not agree to this",
    "data not covered": "no, not with pictures and record together",
    "not yet valid": "not yet",
    "expired": "no, your yes has ended",
    "withdrawn": "no, you said no",
    "restricted": "no, you asked us not to use them",
}
"""How a purpose stands, for patients."""
LOOKS: Mapping[str, str] = {
    "consent granted": "wrote down that you agreed",
    "consent withdrawn": "wrote down that you said no",
    "use restricted": "changed whether your data may be used",
    "request received": "wrote down what you asked for",
    "request answered": "answered what you asked for",
    "access": "looked at your record",
    "export": "made a copy for you",
    "export originals": "copied the original files of your pictures for you",
    "correction": "corrected your record",
    "erasure": "deleted your pictures",
}
"""What the log says of one patient, for that patient."""
PURPOSE_NAMES: Mapping[str, str] = {name: words for name, (words, _) in _PURPOSES.items()}
_LOCKS = {
    "passphrase": "locked by a passphrase",
    "key_file": "locked by a file outside the folder",
    "keyring": "locked by this computer's keyring",
    "nothing": "which is not locked",
}


def values_of(facts: Facts) -> dict[str, Any]:
    """Gather what the templates name.

    Args:
        facts: What the clinic's own files say.

    Returns:
        Values by the names that the templates use.
    """
    policy = facts.policy
    ceiling = policy.privacy.max_epsilon_for_life
    kept = policy.retention.by_purpose.model_dump()
    risk, measure, remains = _collusion(policy.trust)
    return {
        "facts": facts,
        "policy": policy,
        "open": OPEN,
        "field_words": _FIELDS,
        "purpose_words": {name: words for name, (_, words) in _PURPOSES.items()},
        "purpose_short": PURPOSE_NAMES,
        "purpose_days": {
            purpose: kept[f"{purpose}_days"]
            for purpose in policy.purposes
            if kept[f"{purpose}_days"] is not None
        },
        "originals_days": _shorter(policy.retention.images_days, policy.retention.originals_days),
        "leftover_words": leftover_words(facts.num_originals),
        "roles": [(role, ", ".join(getattr(policy.roles, role)) or "nobody") for role in ROLES],
        "recipients": sorted(
            {*facts.federations, *(run.coordinator for run in facts.processing if run.coordinator)}
            - {"simulation"}
        ),
        "asking_names": _askers(policy.coordinators),
        "kept_fields": ", ".join(
            [*(field.replace("_", " ") for field in policy.fields), *_always_kept(policy)]
        ),
        "special_words": _special(policy),
        "asks_words": _asking(tuple(c for c in policy.coordinators if c != "simulation")),
        "lock_words": _LOCKS[facts.lock],
        "unbounded": not isfinite(facts.epsilon_life),
        "guess": ceil(50 * (1 + facts.advantage)),
        "guess_at_ceiling": None if ceiling is None else greatest_guess(ceiling, facts.delta),
        "remains_words": _remains(facts.epsilon_life),
        "collusion_risk": risk,
        "collusion_measure": measure,
        "collusion_remains": remains,
        "days": _days,
        "length": lambda days: "until they are erased" if days is None else _days(days),
        "number": _number,
        "said": lambda value: value if isinstance(value, str) else _number(value, "not told"),
    }


def leftover_words(num_originals: int) -> str:
    """Say how many original files a policy that drops them has not removed yet.

    Args:
        num_originals: How many lie there.

    Returns:
        A part of a sentence.

    >>> leftover_words(1)
    '1 from earlier remains until skinml clinic retention --apply'
    """
    remain = "remains" if num_originals == 1 else "remain"
    return f"{num_originals:,} from earlier {remain} until skinml clinic retention --apply"


def greatest_guess(epsilon: float, delta: float) -> int:
    """Bound how often of 100 a guess at whether one patient took part is right.

    Args:
        epsilon: Of all that was released.
        delta: Its delta.

    Returns:
        From 50, a coin, to 100; holds whatever the mechanism was.

    Source:
        Kairouz, Oh and Viswanath 2015, arXiv:1311.0776, Theorem 2.1: the distance of the two
        outcomes is at most (e^epsilon - 1 + 2 delta) / (e^epsilon + 1).

    >>> greatest_guess(0.0, 0.0), greatest_guess(1.0, 1e-5), greatest_guess(10.0, 1e-5)
    (50, 74, 100)
    """
    less = exp(-epsilon)  # so that a great epsilon does not overflow
    distance = (1 - less + 2 * delta * less) / (1 + less)
    return min(100, ceil(50 * (1 + distance)))


def _collusion(trust: tuple[str, ...]) -> tuple[str, str, str]:
    if set(trust) <= {"local", "distributed"}:
        return (
            "the coordinator reads what one clinic sent",
            "sums under masks, or the whole noise added here",
            "more clinics that help the coordinator than the run reckons with",
        )
    return (
        "the coordinator reads what one clinic sent",
        "runs in which it can are allowed by the policy: nothing but the approval of each run",
        "whatever such a coordinator does with it",
    )


def _askers(coordinators: tuple[str, ...]) -> str:
    if coordinators == ("simulation",):
        return "only this computer itself"
    named = ("this computer itself" if each == "simulation" else each for each in coordinators)
    return ", ".join(named) or "nobody"


def _always_kept(policy: Policy) -> list[str]:
    """Name what an import keeps where a list has it, whatever the policy's `fields`."""
    special = [name for name in ("genetic", "financial") if getattr(policy.special_fields, name)]
    days = "day of the photograph, treatment and outcome with their days (days are moved or cut)"
    return [days, "series", *(f"{name} data" for name in special)]


def _special(policy: Policy) -> str:
    names = {"genetic": "findings in your genes", "financial": "who pays, and what it costs"}
    kept = [words for name, words in names.items() if getattr(policy.special_fields, name)]
    return "; ".join(kept)


def _asking(coordinators: tuple[str, ...]) -> str:
    if not coordinators:
        return ""
    return f"Those who may ask us for such training: {', '.join(coordinators)}."


def _remains(epsilon: float) -> str:
    if not isfinite(epsilon):
        return "something left without noise: nothing bounds what it can tell"
    if epsilon == 0:
        return "nothing has left so far"
    return f"epsilon {epsilon:.4g} of all that has left so far"


def _shorter(days: int | None, other: int | None) -> int | None:
    known = [each for each in (days, other) if each is not None]
    return min(known) if known else None


def _days(days: int) -> str:
    if days % 365 == 0:
        years = days // 365
        return "1 year" if years == 1 else f"{years} years"
    return "1 day" if days == 1 else f"{days} days"


def _number(value: float | None, missing: str = "no limit") -> str:
    if value is None:
        return missing
    return f"{value:.4g}" if isfinite(value) else "without bound"
