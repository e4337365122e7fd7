"""What finished runs have in common in their configs, and by what each arm differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skinml.experiments.compare_plan import NONE
from skinml.experiments.compare_runs import FinishedRun
from skinml.tracking.allowlist import flatten

# Where a run was and what it is called says nothing about what it did.
_NOT_TOLD = ("seed", "work_dir", "tracking", "clinic", "statistics")
_EPSILON, _TRUST = "privacy.epsilon", "privacy.trust"
_LONGEST_NAME = 120

Told = Mapping[str, object]
"""A config by dotted names, without what decides nothing."""


def told_config(run: FinishedRun) -> dict[str, object]:
    """Flatten what a run's config says of what it did.

    Args:
        run: The run.

    Returns:
        Plain values by dotted name. A run without a promise tells no epsilon, for what stands there
        decides nothing.
    """
    config: dict[str, Any] = {k: v for k, v in run.record.config.items() if k not in _NOT_TOLD}
    told = flatten(config)
    if not run.record.guarantee.private:
        told.pop(_EPSILON, None)
    return told


def differing(every: Sequence[Told]) -> tuple[str, ...]:
    """Name the settings in which configs differ.

    Args:
        every: The configs.

    Returns:
        Dotted names, in the order of the alphabet.
    """
    names = {name for told in every for name in told}
    return tuple(sorted(n for n in names if len({repr(told.get(n)) for told in every}) > 1))


def sorted_by_config(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Put runs together whose configs differ in nothing but the seed.

    Args:
        runs: The runs.

    Returns:
        The runs of each arm by its name, in the order of their first runs. Where one config has a
        seed twice, each run is an arm of its own, called by its id.
    """
    told = [told_config(run) for run in runs]
    names = differing(told)
    arms: dict[str, list[FinishedRun]] = {}
    by_config: dict[str, str] = {}
    trusts = {run.record.guarantee.trust for run in runs if run.record.guarantee.private}
    for run, each in zip(runs, told, strict=True):
        config = repr([each.get(name) for name in names])
        if config not in by_config:
            name = _name(run, each, names, tell_trust=len(trusts) > 1)
            twice = sum(known.startswith(name) for known in arms)
            by_config[config] = f"{name} ({twice + 1})" if name in arms else name
        arms.setdefault(by_config[config], []).append(run)
    if any(len({run.record.seed for run in each}) < len(each) for each in arms.values()):
        return {run.record.run: [run] for run in runs}
    return arms


def _name(run: FinishedRun, told: Told, names: Sequence[str], *, tell_trust: bool) -> str:
    private = run.record.guarantee.private
    left_out = {_EPSILON} if private and tell_trust else {_EPSILON, _TRUST}
    own = [f"{name}={told.get(name, 'none')}" for name in names if name not in left_out]
    promise = f"epsilon {told[_EPSILON]:g}" if private else NONE
    return ", ".join([promise, *own])[:_LONGEST_NAME]
