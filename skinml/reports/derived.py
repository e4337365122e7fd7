"""What the report works out from a record: stamps, alarms in 100 images, missing clinics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp
from typing import Any

from skinml.fairness.acceptance import Judged
from skinml.privacy.accounting import gaussian_mu_for
from skinml.records import Estimate, GroupResult, Participation, RunRecord, last_attempts
from skinml.reports.attendance import Stretch, SumNoise, stretches, sum_noise
from skinml.reports.clauses import Clause, clauses
from skinml.reports.heterogeneity import Heterogeneity, heterogeneity
from skinml.reports.kept import expected_groups, judged
from skinml.reports.measurement import NoiseShare, Unknown, noise_shares, unknown_groups
from skinml.reports.wording import PREDICTIONS

# Below this many malignant, or not malignant, items a group shows its interval and no finding.
# Used where the config has no `fairness.min_events`.
DEFAULT_MIN_EVENTS = 30

# What an estimate's method says where few patients stand behind it, however many images do.
FEW_EVENTS = "few events"

# The attribute of the first page, in this order of preference.
HEADLINE_ATTRIBUTES = ("skin_tone", "sex", "age_band", "clinic")


@dataclass(frozen=True)
class Stamp:
    """A warning that the report carries at its top.

    Attributes:
        title: The stamp itself, in capitals.
        text: What it means, a sentence for a reader without background.
    """

    title: str
    text: str


@dataclass(frozen=True)
class Alarms:
    """A group's alarms in 100 images, the way the first page tells them.

    Attributes:
        attribute: What the group is of; "overall" for everybody.
        group: The group's name.
        num_patients: Its patients.
        num_positives: Its malignant items.
        num_negatives: Its items that are not malignant.
        found: Alarms among 100 malignant items.
        missed: Malignant items without an alarm, among 100.
        false_alarms: Alarms among 100 items that are not malignant.
        few: Whether malignant or other items are too few for a finding.
        count_std: Standard deviation of the noise in its malignant, and its other, patients; 0
            where items were counted exactly.
    """

    attribute: str
    group: str
    num_patients: int
    num_positives: int
    num_negatives: int
    found: Estimate
    missed: Estimate
    false_alarms: Estimate
    few: bool
    count_std: float = 0.0


@dataclass(frozen=True)
class Derived:
    """What the page shows beyond the record's own fields.

    Attributes:
        stamps: The warnings at the top.
        min_events: How many malignant, and other, items a group needs for a finding.
        level_percent: The nominal coverage of the intervals, in percent.
        headline: The attribute that the first page goes into; empty where none was recorded.
        alarms: Alarms in 100 images: everybody first, then the headline attribute's groups.
        wall_min: Minutes that the run took.
        num_rounds: Rounds of the run.
        num_clinics: Clinics that were asked at least once.
        num_attempts: Attempts at them; where greater, some ended without a sum.
        num_failed_attempts: Attempts that ended without a sum.
        num_incomplete_rounds: Rounds whose sum a clinic was missing from.
        allowed_missing: Clinics that the run's settings allowed a round to go on without.
        stretches: Consecutive rounds that went alike, in the order in which things happened.
        least_survivors: The least number of clinics in a sum, k'; None without rounds.
        least_noise: The least noise in a sum, over what the ledgers count on; None where none can
            be told.
        sums: The noise of each kind of sum, in its own units.
        rounds_taken_part: For each clinic, the rounds that its contribution is in.
        rounds_missed: For each clinic, the rounds that it was asked for and is not in.
        guess_limit_percent: How often, in percent, the best guess whether a patient took part can
            be right when both are equally likely; None without a guarantee.
        total_guess_limit_percent: The same from all runs in the ledgers.
        across_guess_limit_percent: The same for a patient at all of `max_clinics` clinics.
        replace_one_guess_limit_percent: The same for a guess which of two patients took part.
        coin_percent: The same for a guess without any knowledge.
        recognised_percent: Patients who took part, in a hundred, that a test can recognise which
            suspects one in a hundred of the others; None without a guarantee.
        mu: Mu of the Gaussian differential privacy that has the same epsilon at the same delta;
            None without a guarantee.
        num_enough: Clinics that are enough for a sum under "distributed", t.
        num_honest: Those of them whose noise shares are all of the noise, t - c.
        delta_one_in: The delta as one in so many; None where delta is 0.
        criteria: What became of the acceptance criteria; empty where the config has none.
        heterogeneity: How figures differ between clinics beyond chance.
        unknown: For each attribute how many patients' group nobody knows, of how many.
        noise_shares: For each group, from noised counts, the noise's standard deviation as a share
            of its malignant, and of its other, patients; empty where counts are exact.
        clauses: What guidelines ask for, and whether this report has it.
        absent: For each attribute, the groups that there should be and that no patient is of.
    """

    stamps: tuple[Stamp, ...]
    min_events: int
    level_percent: float
    headline: str
    alarms: tuple[Alarms, ...]
    wall_min: float
    num_rounds: int
    num_clinics: int
    num_attempts: int
    num_failed_attempts: int
    num_incomplete_rounds: int
    allowed_missing: int
    stretches: tuple[Stretch, ...]
    least_survivors: int | None
    least_noise: float | None
    sums: tuple[SumNoise, ...]
    rounds_taken_part: Mapping[str, int]
    rounds_missed: Mapping[str, int]
    guess_limit_percent: float | None
    total_guess_limit_percent: float | None
    across_guess_limit_percent: float | None
    replace_one_guess_limit_percent: float | None
    coin_percent: float
    recognised_percent: float | None
    mu: float | None
    num_enough: int
    num_honest: int
    delta_one_in: float | None
    criteria: tuple[Judged, ...]
    heterogeneity: tuple[Heterogeneity, ...]
    unknown: tuple[Unknown, ...]
    noise_shares: tuple[NoiseShare, ...]
    clauses: tuple[Clause, ...]
    absent: Mapping[str, tuple[str, ...]]


def derive(record: RunRecord) -> Derived:
    """Work out what the report shows beyond the record's own fields.

    Args:
        record: What the run may show.

    Returns:
        The derived figures, a function of the record alone.
    """
    floor = min_events(record.config)
    headline = _headline(record)
    chosen = [group for group in record.groups if group.attribute == headline]
    rounds = last_attempts(record.participation)
    taken = Counter(name for each in rounds for name in each.took_part)
    missed = _missed(rounds)
    asked = sorted({name for each in record.participation for name in each.expected})
    promise = record.guarantee
    delta, num_enough = promise.delta, promise.num_clinics - promise.tolerated_dropouts
    return Derived(
        stamps=stamps(record),
        min_events=floor,
        level_percent=100 * _level(record),
        headline=headline,
        alarms=tuple(_alarms(group, floor) for group in (record.overall, *chosen)),
        wall_min=record.wall_s / 60,
        num_rounds=len(rounds),
        num_clinics=len(asked),
        num_attempts=len(record.participation),
        num_failed_attempts=len(record.participation) - len(rounds),
        num_incomplete_rounds=sum(bool(each.missing) for each in rounds),
        allowed_missing=allowed_missing(record.config),
        stretches=stretches(record.participation),
        least_survivors=min((len(each.took_part) for each in rounds), default=None),
        least_noise=_least([each.noise for each in rounds]),
        sums=sum_noise(promise, record.participation),
        rounds_taken_part={name: taken[name] for name in asked},
        rounds_missed={name: missed[name] for name in asked},
        guess_limit_percent=_guess_limit(promise.advantage, promise.epsilon, delta),
        total_guess_limit_percent=_guess_limit(
            promise.total_advantage, promise.total_epsilon, delta
        ),
        across_guess_limit_percent=_group_limit(
            promise.advantage, promise.max_clinics, promise.epsilon_across_clinics, delta
        ),
        replace_one_guess_limit_percent=_group_limit(
            promise.advantage, 2, promise.replace_one_epsilon, delta
        ),
        coin_percent=50.0,
        recognised_percent=_percent(promise.recognised),
        mu=_mu(promise.epsilon, delta),
        num_enough=num_enough,
        num_honest=num_enough - promise.colluding_clinics,
        delta_one_in=1 / delta if delta > 0 else None,
        criteria=judged(record),
        heterogeneity=heterogeneity(record),
        unknown=unknown_groups(record),
        noise_shares=noise_shares(record),
        clauses=clauses(record),
        absent=_absent(record),
    )


def _absent(record: RunRecord) -> dict[str, tuple[str, ...]]:
    found = {}
    for attribute, names in expected_groups(record).items():
        present = {each.group for each in record.groups if each.attribute == attribute}
        missing = tuple(name for name in names if name not in present)
        # An attribute that was not looked at at all is told elsewhere.
        if present and missing:
            found[attribute] = missing
    return found


def min_events(config: Mapping[str, Any]) -> int:
    """Look up how many events a group needs for a finding.

    Args:
        config: The run's config as plain values.

    Returns:
        `fairness.min_events` of the config, or 30 where the config has none.
    """
    fairness = config.get("fairness")
    value = fairness.get("min_events") if isinstance(fairness, Mapping) else None
    return value if isinstance(value, int) and value >= 0 else DEFAULT_MIN_EVENTS


def allowed_missing(config: Mapping[str, Any]) -> int:
    """Look up how many clinics a round may go on without.

    Args:
        config: The run's config as plain values.

    Returns:
        `federation.allowed_missing` of the config, or 0 where the config has none.
    """
    federation = config.get("federation")
    value = federation.get("allowed_missing") if isinstance(federation, Mapping) else None
    return value if isinstance(value, int) and value >= 0 else 0


def is_few(group: GroupResult, floor: int, *metrics: str) -> bool:
    """Tell whether a group has too few events for a finding.

    Args:
        group: The group.
        floor: The least number of malignant items, and of others, that a finding needs.
        *metrics: The figures that the finding is about; sensitivity and specificity if none.

    Returns:
        Whether either number is below the floor, or a figure's own method says "few events"
        because its images are of few patients.
    """
    if min(group.num_positives, group.num_negatives) < floor:
        return True
    names = metrics or ("sensitivity", "specificity")
    return any(
        FEW_EVENTS in group.estimates[name].method for name in group.estimates.keys() & set(names)
    )


def stamps(record: RunRecord) -> tuple[Stamp, ...]:
    """Choose the warnings that a reader must see first.

    Args:
        record: What the run may show.

    Returns:
        LEAKED TEST, NOT PRIVATE, SIMULATED, INCOMPLETE and EXACT METRICS as they apply, in this
        order; of figures from a predictions file FROM A FILE alone.
    """
    found = []
    if record.kind == PREDICTIONS:
        text = "Its figures come from a table that somebody made with a model. How it was trained,"
        return (Stamp("FROM A FILE", f"{text} and on whom, this page cannot know."),)
    if leak := record.data.get("leak"):
        text = f"The published split that was used leaks: {leak}."
        found.append(Stamp("LEAKED TEST", f"{text} The figures are too good."))
    if not record.guarantee.private:
        text = "Nothing limits what this model tells about the patients it was trained on."
        found.append(Stamp("NOT PRIVATE", f"{text} Use it for comparison only."))
    if record.guarantee.simulated:
        text = "One machine held the images of all clinics and only played the parts of several."
        found.append(Stamp("SIMULATED", f"{text} Nothing here was measured across real sites."))
    if not record.complete:
        found.append(Stamp("INCOMPLETE", _incomplete(record)))
    if record.evaluation_source == "exact":
        text = "The test figures were counted exactly, without privacy noise."
        found.append(Stamp("EXACT METRICS", f"{text} They are not covered by epsilon."))
    return tuple(found)


def _incomplete(record: RunRecord) -> str:
    rounds = last_attempts(record.participation)
    missed = _missed(rounds)
    who = ", ".join(f"{name} from {times}" for name, times in sorted(missed.items()))
    text = f" Missing, of {len(rounds)} rounds: {who}." if who else ""
    return f"Clinics were missing from the training.{text} This is not a result of all clinics."


def _missed(rounds: Iterable[Participation]) -> Counter[str]:
    return Counter(name for each in rounds for name in each.missing)


def _least(values: list[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return min(told) if told and len(told) == len(values) else None


def _headline(record: RunRecord) -> str:
    present = {group.attribute for group in record.groups}
    known = [name for name in HEADLINE_ATTRIBUTES if name in present]
    return known[0] if known else ""


def _level(record: RunRecord) -> float:
    every = record.overall.estimates.values()
    levels = [estimate.level for estimate in every if estimate.low is not None]
    return levels[0] if levels else 0.95


def _alarms(group: GroupResult, floor: int) -> Alarms:
    missing = Estimate(value=None, reason="not measured")
    sensitivity = group.estimates.get("sensitivity", missing)
    specificity = group.estimates.get("specificity", missing)
    return Alarms(
        attribute=group.attribute,
        group=group.group,
        num_patients=group.num_patients,
        num_positives=group.num_positives,
        num_negatives=group.num_negatives,
        found=_in_100(sensitivity),
        missed=_in_100(_complement(sensitivity)),
        false_alarms=_in_100(_complement(specificity)),
        few=is_few(group, floor),
        count_std=group.count_std,
    )


def _complement(estimate: Estimate) -> Estimate:
    def turned(value: float | None) -> float | None:
        return None if value is None else 1 - value

    return Estimate(
        value=turned(estimate.value),
        low=turned(estimate.high),
        high=turned(estimate.low),
        level=estimate.level,
        method=estimate.method,
        reason=estimate.reason,
    )


def _in_100(estimate: Estimate) -> Estimate:
    def scaled(value: float | None) -> float | None:
        return None if value is None else 100 * value

    return Estimate(
        value=scaled(estimate.value),
        low=scaled(estimate.low),
        high=scaled(estimate.high),
        level=estimate.level,
        method=estimate.method,
        reason=estimate.reason,
    )


def _guess_limit(advantage: float | None, epsilon: float | None, delta: float) -> float | None:
    if epsilon is None:
        return None
    if advantage is not None:
        return _percent((1 + advantage) / 2)
    # Kairouz, Oh and Viswanath 2015, Theorem 2.1: false alarms and misses of any test obey
    # fa + e^epsilon miss >= 1 - delta both ways, so equal priors are right at most this often.
    odds = exp(-epsilon)
    return _percent(min(1.0, (1 + delta * odds) / (1 + odds)))


def _group_limit(
    advantage: float | None, size: int, epsilon: float | None, delta: float
) -> float | None:
    """Limit a guess about several changes of one unit each: their distances add up at most."""
    limit = _guess_limit(None, epsilon, delta)
    if limit is None or advantage is None:
        return limit
    return min(limit, 50 * (1 + min(1.0, size * advantage)))


def _mu(epsilon: float | None, delta: float) -> float | None:
    return gaussian_mu_for(epsilon, delta) if epsilon and 0 < delta < 1 else None


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
