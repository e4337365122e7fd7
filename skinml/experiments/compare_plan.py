"""Which runs a comparison is made of, what they are charged, and whether all may be done."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf, isfinite

from skinml.clinic.virtual import find_virtual_folder
from skinml.config import RunConfig, load_config
from skinml.errors import BudgetExceededError, ConfigError, InputError
from skinml.experiments.approval import drafted, expected_classes
from skinml.experiments.gates import POOLED
from skinml.experiments.plan_limits import Bounds, require_possible
from skinml.experiments.samples import require_one_view
from skinml.experiments.workspace import Workspace
from skinml.privacy.ledger import Entry, spent

NONE = "none"
"""The arm without a promise."""
AS_CONFIGURED = "as configured"
_SPANS = {"year": "within a year", "life": "in all"}
_MOST_ARMS = 100


@dataclass(frozen=True)
class Arm:
    """One way to run an experiment.

    Attributes:
        name: What it is called.
        changes: Its overrides, beside those of the whole comparison.
    """

    name: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class PlannedRun:
    """A run of a comparison.

    Attributes:
        arm: The name of its arm.
        seed: Its seed.
        overrides: All changes to the experiment.
        config: Its config.
    """

    arm: str
    seed: int
    overrides: tuple[str, ...]
    config: RunConfig


def arms_of(epsilons: Sequence[str], changes: Sequence[str] = ()) -> tuple[Arm, ...]:
    """Name the arms: each epsilon by itself, then with each set of changes.

    Args:
        epsilons: Such as "none" or "3"; empty for the experiment's own promise.
        changes: Sets of overrides with spaces between, such as "mitigation.method=reweigh".

    Returns:
        The arms; the first is what the others are held against.

    Raises:
        InputError: If an epsilon is no number above 0, or an arm would be there twice.

    >>> [arm.name for arm in arms_of(["none", "3"], ["training.head.rounds=9"])]
    ['none', 'epsilon 3', 'none, training.head.rounds=9', 'epsilon 3, training.head.rounds=9']
    """
    promises = [_promise(word.strip()) for word in epsilons] or [Arm(AS_CONFIGURED, ())]
    found = list(promises)
    for each in changes:
        words = tuple(shlex.split(each))
        for promise in promises:
            own = promise.name == AS_CONFIGURED
            name = " ".join(words) if own else f"{promise.name}, {' '.join(words)}"
            found.append(Arm(name, (*promise.changes, *words)))
    twice = [name for name, times in Counter(arm.name for arm in found).items() if times > 1]
    if twice or len(found) > _MOST_ARMS:
        raise InputError(
            rule=f"different arms, at most {_MOST_ARMS}",
            got=f"{twice[0]} twice" if twice else f"{len(found)} arms",
            do="Name each epsilon and each set of changes once.",
        )
    return tuple(found)


def _promise(word: str) -> Arm:
    if word == NONE:
        return Arm(NONE, ("privacy.trust=none",))
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not (value > 0 and isfinite(value)):
        raise InputError(
            rule="epsilons above 0, or the word none, with commas between",
            got=f"--epsilon {word}",
            do="Example: --epsilon none,8,3,1,0.5",
        )
    return Arm(f"epsilon {value:g}", (f"privacy.epsilon={value:g}",))


def seeds_of(words: str) -> tuple[int, ...]:
    """Read seeds.

    Args:
        words: Whole numbers with commas between.

    Returns:
        The seeds.

    Raises:
        InputError: If one is none, or there twice.

    >>> seeds_of("0, 1,2")
    (0, 1, 2)
    """
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise InputError(
            rule="different whole numbers from 0 with commas between",
            got=f"--seeds {words}",
            do="Example: --seeds 0,1,2",
        )
    return tuple(int(part) for part in parts)


def usual_attribute(config: RunConfig) -> str:
    """Settle what groups are of where nobody says.

    Args:
        config: A run's config.

    Returns:
        The attribute of its primary comparison, or else the first that it evaluates; empty where
        it evaluates none.
    """
    primary = config.fairness.primary
    return primary.attribute if primary else next(iter(config.fairness.groups), "")


def plan_runs(
    experiment: str, overrides: Sequence[str], arms: Sequence[Arm], seeds: Sequence[int]
) -> tuple[PlannedRun, ...]:
    """Compose every run's config, so that what is wrong with one is told before the first begins.

    Args:
        experiment: The experiment's name.
        overrides: Changes that all arms share.
        arms: The arms.
        seeds: The seeds of each arm's runs.

    Returns:
        The runs, an arm after the other.

    Raises:
        ConfigError: If a config is impossible, or an arm with an epsilon promises nothing.
        InputError: If two arms come to the same config: their runs would be the same twice.
    """
    found: list[PlannedRun] = []
    for arm in arms:
        for seed in seeds:
            words = (*overrides, *arm.changes, f"seed={seed}")
            config = load_config(experiment, words)
            require_one_view(config)
            if arm.name.startswith("epsilon ") and not config.privacy.private:
                raise ConfigError(
                    rule="a trust model that promises something where an epsilon is asked for",
                    got=f"privacy.trust=none in the arm {arm.name}",
                    do="Take privacy.trust=none out, or add privacy.trust=distributed.",
                )
            found.append(PlannedRun(arm.name, seed, words, config))
    for at, one in enumerate(found):
        alike = next((each.arm for each in found[:at] if each.config == one.config), None)
        if alike is not None:
            raise InputError(
                rule="arms that differ in their config",
                got=f"'{one.arm}' beside '{alike}'",
                do="Leave one of the two out.",
            )
    return tuple(found)


@dataclass(frozen=True)
class Charge:
    """What the runs that are still to be done charge to each clinic's ledger.

    Attributes:
        num_runs: How many they are.
        num_unbounded: How many of them promise nothing.
        epsilon: What the others come to together; 0 where there are none.
        delta: Delta that it is read at.
    """

    num_runs: int
    num_unbounded: int
    epsilon: float
    delta: float


def charge_words(charge: Charge, *, reused: int) -> tuple[str, ...]:
    """Say what runs were charged, and how many cost nothing.

    Args:
        charge: What they were charged.
        reused: How many others were there already.

    Returns:
        Sentences.
    """
    words = []
    if charge.num_runs:
        words.append(
            f"{_runs(charge.num_runs)} charged to the ledgers of this simulation's virtual "
            "clinics. At real clinics each of them would cost the patients as much."
        )
        private = charge.num_runs - charge.num_unbounded
        if private:
            words.append(
                f"With a promise: {private}, together epsilon {charge.epsilon:.3f} at delta "
                f"{charge.delta:g} for one patient."
            )
        if charge.num_unbounded:
            words.append(
                f"Without a promise: {charge.num_unbounded}. These ledgers are unbounded from "
                "now on."
            )
    if reused:
        words.append(f"{_runs(reused)} there already and cost nothing more.")
    return tuple(words)


def _runs(number: int) -> str:
    return "1 run was" if number == 1 else f"{number} runs were"


def require_affordable(runs: Sequence[PlannedRun], experiment: str, workspace: Workspace) -> Charge:
    """Refuse a comparison before its first run where a budget or a policy would stop a later one.

    Args:
        runs: The runs that are still to be done.
        experiment: The experiment's name.
        workspace: Where the virtual clinics' ledgers are.

    Returns:
        What the runs are charged.

    Raises:
        BudgetExceededError: If all of them together would pass a ceiling of epsilon.
        IntegrityError: If a clinic's folder was changed.
        PolicyError: If the virtual clinics' policy does not allow one of them.
    """
    now = datetime.now(UTC)
    planned: list[Entry] = []
    private: list[Entry] = []
    by_arm: dict[str, tuple[Entry, ...]] = {}
    for run in runs:
        if run.arm not in by_arm:
            by_arm[run.arm] = _entries(run, experiment, now)
        planned += by_arm[run.arm]
        private += by_arm[run.arm] if run.config.privacy.private else ()
    for run in runs[-1:]:
        _require_room(run.config, planned, len(runs), workspace, now)
    delta = runs[0].config.privacy.delta if runs else 0.0
    unbounded = sum(not run.config.privacy.private for run in runs)
    return Charge(len(runs), unbounded, spent(private, delta) if private else 0.0, delta)


def _entries(run: PlannedRun, experiment: str, now: datetime) -> tuple[Entry, ...]:
    """What one run releases; refused by itself where the policy or the budget says so."""
    config = run.config
    # One clinic's releases are the same for any number of clinics with an honest one among them.
    enough = config.privacy.tolerated_dropouts + config.privacy.colluding_clinics + 1
    enough = max(enough, config.clinic.policy.least_clinics + config.federation.allowed_missing)
    draft = drafted(config, expected_classes(config), num_clinics=enough, run="comparison")
    bounds = Bounds(config.clinic.policy, None, (), now)
    require_possible(draft, bounds, experiment, run.overrides)
    return draft.entries


def _require_room(
    config: RunConfig, planned: Sequence[Entry], count: int, workspace: Workspace, now: datetime
) -> None:
    """Hold all runs together against every ceiling, at each clinic that takes part."""
    policy, delta = config.clinic.policy, config.privacy.delta
    ledgers: list[tuple[str | None, tuple[Entry, ...]]] = [(None, ())]
    if Bounds(policy, None, (), now).limits(config):
        for path in sorted(workspace.clinics.glob("*/clinic.json")):
            pooled = path.parent.name == POOLED
            if pooled == (config.federation.mode == "centralised"):
                folder = find_virtual_folder(workspace.clinics, path.parent.name)
                ledgers += [(folder.name, tuple(folder.ledger.entries()))] if folder else []
    for name, held in ledgers:
        for limit in Bounds(policy, name, held, now).limits(config):
            if limit.span == "run":
                continue  # each run was held against it by itself
            total = spent([*limit.held, *planned], delta)
            if total > limit.ceiling:
                words = "unbounded" if total == inf else f"{total:.3f}"
                where, span = f" at clinic {name}" if name else "", _SPANS[limit.span]
                raise BudgetExceededError(
                    rule=f"epsilon {span} of at most {limit.ceiling:g} ({limit.rule})",
                    got=f"{words}{where} after the {count} runs of this comparison",
                    do="Ask for fewer runs or smaller epsilons; runs without promise fit none.",
                )
