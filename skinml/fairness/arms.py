"""Several ways to train a model, each run with several seeds, on the same patients.

An arm is one config; its runs differ in their seed alone. All runs of all arms share one draw of
patient weights, so that whatever two arms or two groups differ in is paired. Three questions are
asked of each arm beside the first: how much the figure changed for everybody, for each group, and
how much the gap between a group and its reference changed. The answers to one question in one
figure are one family, whose p-values are corrected together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skinml.errors import DataError
from skinml.fairness.arm_means import (
    Draws,
    detectable,
    difference,
    difference_limits,
    mean_draws,
    seed_mean,
)
from skinml.fairness.arm_values import (
    ArmComparison,
    ArmFigure,
    ArmGap,
    Change,
    GroupCount,
    Question,
)
from skinml.fairness.catalogue import figure_names, measures_of
from skinml.fairness.cells import OVERALL, Cell, cells_by_group, check_predictions, overall_cell
from skinml.fairness.differences import choose_reference
from skinml.fairness.gaps import Reference
from skinml.fairness.groups import replicate_cells
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.sides import badness
from skinml.fairness.verdicts import few_words, holm, p_of_difference, p_of_margin, verdict
from skinml.records import UNKNOWN_GROUP, Predictions

BESIDE = ("balanced_accuracy",)
"""The figures that stand beside the primary one, where nobody asks for others."""


@dataclass(frozen=True, repr=False)
class ArmRuns:
    """The runs of one arm. Per patient: never log.

    Attributes:
        name: The arm's name.
        seeds: The runs' seeds.
        predictions: What each run said of the same items.
        thresholds: Each run's threshold, as for `evaluate_groups`.
    """

    name: str
    seeds: tuple[int, ...]
    predictions: tuple[Predictions, ...]
    thresholds: tuple[float | None, ...]


_Key = tuple[str, str]  # attribute and group
_Asked = tuple[Change, Draws]  # a question, and what it is answered from


@dataclass(frozen=True, repr=False)
class _Drawn:
    """Every figure of every arm with what moves it, by arm, attribute, group and figure."""

    means: Mapping[tuple[str, str, str, str], Draws]
    cells: Mapping[_Key, Cell]


def compare_arms(
    arms: Sequence[ArmRuns],
    *,
    attributes: Sequence[str],
    settings: FairnessSettings,
    rng: np.random.Generator,
    beside: Sequence[str] = BESIDE,
    by_group: bool = False,
) -> ArmComparison:
    """Hold arms against the first one, on the same patients and the same resamples of them.

    Args:
        arms: At least one; the first is what the others are held against.
        attributes: What groups are of.
        settings: Figure, reference groups, margin, level and replicates.
        rng: The stream that patients are resampled from.
        beside: Figures beside the primary one; each is a family of answers of its own.
        by_group: Whether groups are asked about in these too, and not in the primary one alone.

    Returns:
        The comparison.

    Raises:
        ConfigError: If a crossing names an attribute that the predictions do not carry.
        DataError: If runs are of different items, or predictions are not usable.

    Guarantees:
        The same runs, settings and stream give the same comparison.
    """
    first = arms[0].predictions[0]
    for arm in arms:
        for predictions in arm.predictions:
            check_predictions(predictions)
            require_same_items(first, predictions)
    metric = primary_metric(settings)
    everybody = overall_cell(first, threshold=arms[0].thresholds[0])
    known = figure_names(everybody, settings)
    metrics = tuple(dict.fromkeys(name for name in (metric, *beside) if name in known))
    not_compared = {} if metric in known else {metric: "no such figure"}
    metric = metrics[0]
    drawn = _draw(arms, attributes, metrics, settings, rng)
    references = _references(drawn.cells, attributes, settings, not_compared)
    gaps = dict(_gap_draws(arms, drawn, references, metric))
    changes = list(_changes(arms, drawn, gaps, metrics if by_group else metrics[:1], settings))
    answers, families = _answered(changes, settings)
    return ArmComparison(
        arms=tuple(arm.name for arm in arms),
        metric=metric,
        metrics=metrics,
        references=references,
        level=settings.level,
        margin=settings.margin_of(metric),
        min_events=settings.min_events,
        replicates=settings.replicates,
        counts=tuple(_count(cell) for cell in drawn.cells.values()),
        figures=tuple(
            ArmFigure(*key, seed_mean(draws, settings, of_difference=False))
            for key, draws in drawn.means.items()
        ),
        gaps=tuple(
            ArmGap(*key, metric, seed_mean(draws, settings, of_difference=True))
            for key, draws in gaps.items()
        ),
        worst=tuple(_worst(arms, drawn, attributes, metric, settings)),
        changes=answers,
        families=families,
        not_compared=not_compared,
    )


def primary_metric(settings: FairnessSettings) -> str:
    """Name the figure that was chosen in advance.

    Args:
        settings: The settings of the comparison of groups.

    Returns:
        That of the primary comparison, or else the first.
    """
    return settings.primary.metric if settings.primary else settings.metrics[0]


def require_same_items(first: Predictions, other: Predictions) -> None:
    """Refuse to pair what was said of different items.

    Args:
        first: One run's predictions.
        other: Another's.

    Raises:
        DataError: If classes, labels or patients differ anywhere.
    """
    if (
        first.classes != other.classes
        or not np.array_equal(first.labels, other.labels)
        or not np.array_equal(first.patients, other.patients)
    ):
        raise DataError(
            rule="runs that were tested on the same items",
            got=f"num_items={len(first)} and num_items={len(other)}, with other labels or patients",
            do="Compare runs of one cohort, classes and split: data.seed and data.split_key alike.",
        )


def _draw(
    arms: Sequence[ArmRuns],
    attributes: Sequence[str],
    metrics: Sequence[str],
    settings: FairnessSettings,
    rng: np.random.Generator,
) -> _Drawn:
    """Compute every figure of every run under the same resampled patients."""
    shown: dict[_Key, Cell] = {}
    measures, places = [], []
    for arm in arms:
        for at, (predictions, threshold) in enumerate(
            zip(arm.predictions, arm.thresholds, strict=True)
        ):
            for cell in _cells(predictions, threshold, attributes, settings):
                shown.setdefault((cell.attribute, cell.group), cell)
                found = {each.name: each for each in measures_of(cell, settings, metrics)}
                measures.append([found[name] for name in metrics])
                places.append((arm.name, at, cell.attribute, cell.group))
    everybody = next(iter(shown.values()))
    drawn = replicate_cells(measures, everybody.num_patients, settings.replicates, rng)
    by_place = dict(zip(places, zip(measures, drawn, strict=True), strict=True))
    means = {}
    for arm in arms:
        for attribute, group in shown:
            runs = [by_place[arm.name, at, attribute, group] for at in range(len(arm.seeds))]
            for row, metric in enumerate(metrics):
                means[arm.name, attribute, group, metric] = mean_draws(
                    arm.name,
                    arm.seeds,
                    [found[row] for found, _ in runs],
                    np.stack([values[row] for _, values in runs]),
                )
    return _Drawn(means, shown)


def _cells(
    predictions: Predictions,
    threshold: float | None,
    attributes: Sequence[str],
    settings: FairnessSettings,
) -> Iterator[Cell]:
    everybody = overall_cell(predictions, threshold=threshold)
    yield everybody
    wanted = settings.model_copy(update={"groups": tuple(attributes)})
    for cell in cells_by_group(predictions, everybody, wanted):
        if cell.attribute in attributes:
            yield cell


def _count(cell: Cell) -> GroupCount:
    return GroupCount(
        cell.attribute,
        cell.group,
        len(cell.labels),
        int(np.count_nonzero(np.bincount(cell.patients))),
        int(cell.malignant.sum()),
        int((~cell.malignant).sum()),
    )


def _references(
    cells: Mapping[_Key, Cell],
    attributes: Sequence[str],
    settings: FairnessSettings,
    not_compared: dict[str, str],
) -> dict[str, Reference]:
    found = {}
    for attribute in attributes:
        sizes = {
            group: _count(cell).num_patients
            for (of, group), cell in cells.items()
            if of == attribute
        }
        known = [group for group in sizes if UNKNOWN_GROUP not in group]
        if len(known) < 2:
            why = "fewer than two groups are known" if sizes else "the predictions do not carry it"
            not_compared[attribute] = why
            continue
        base = choose_reference(attribute, sizes, settings)
        if base is None:
            named = settings.reference.get(attribute)
            not_compared[f"{attribute} against {named}"] = "no patient is in that group"
        else:
            found[attribute] = base
    return found


def _gap_draws(
    arms: Sequence[ArmRuns], drawn: _Drawn, references: Mapping[str, Reference], metric: str
) -> Iterator[tuple[tuple[str, str, str, str], Draws]]:
    """By arm, attribute, group and reference: the group's figure less the reference's."""
    for arm in arms:
        for attribute, group in drawn.cells:
            base = references.get(attribute)
            if base is None or UNKNOWN_GROUP in group or group == base.group:
                continue
            sides = [drawn.means[arm.name, attribute, name, metric] for name in (group, base.group)]
            yield (arm.name, attribute, group, base.group), difference(*sides)


def _worst(
    arms: Sequence[ArmRuns],
    drawn: _Drawn,
    attributes: Sequence[str],
    metric: str,
    settings: FairnessSettings,
) -> Iterator[ArmFigure]:
    for arm in arms:
        for attribute in attributes:
            found = {
                group: drawn.means[arm.name, attribute, group, metric]
                for of, group in drawn.cells
                if of == attribute and UNKNOWN_GROUP not in group
            }
            values = {g: each.value for g, each in found.items() if each.value is not None}
            if len(values) > 1:
                ill = badness(metric, np.array(list(values.values()), dtype=float))
                group = list(values)[int(np.argmax(ill))]
                mean = seed_mean(found[group], settings, of_difference=False)
                yield ArmFigure(arm.name, attribute, group, metric, mean)


def _changes(
    arms: Sequence[ArmRuns],
    drawn: _Drawn,
    gaps: Mapping[tuple[str, str, str, str], Draws],
    of_groups: Sequence[str],
    settings: FairnessSettings,
) -> Iterator[_Asked]:
    """Everything that an arm changed against the first one, p-values not yet corrected.

    Groups are asked about in the figures that are named, gaps in the first of these.
    """
    base = arms[0]
    for arm in arms[1:]:
        same = _same_models(arm, base)
        for (name, attribute, group, metric), draws in drawn.means.items():
            question: Question = "overall" if attribute == OVERALL else "group"
            if name != arm.name or (question == "group" and metric not in of_groups):
                continue
            before = drawn.means[base.name, attribute, group, metric]
            names = (arm.name, base.name, question, attribute, group, "", metric)
            yield _change(names, difference(draws, before, same=same), settings)
        for (name, attribute, group, reference), draws in gaps.items():
            if name == arm.name:
                before = gaps[base.name, attribute, group, reference]
                names = (arm.name, base.name, "gap", attribute, group, reference, of_groups[0])
                yield _change(names, difference(draws, before, same=same), settings)


def _same_models(arm: ArmRuns, base: ArmRuns) -> bool:
    """Whether the arms' runs said the same of everybody."""
    pairs = zip(arm.predictions, base.predictions, strict=False)
    return len(arm.predictions) == len(base.predictions) and all(
        np.array_equal(a.probabilities, b.probabilities)
        and np.array_equal(a.decisions, b.decisions)
        for a, b in pairs
    )


def _change(
    names: tuple[str, str, Question, str, str, str, str], draws: Draws, settings: FairnessSettings
) -> _Asked:
    def limits(level: float) -> tuple[float, float] | None:
        return difference_limits(draws, level)

    mean = seed_mean(draws, settings, of_difference=True)
    if draws.value is None:
        return Change(*names, mean, one_seed=draws.one_seed, reason=draws.reason), draws
    margin, least = settings.margin_of(names[-1]), settings.min_events
    found = Change(
        *names,
        mean,
        margin=margin,
        p_value=p_of_difference(limits),
        margin_p=None if margin is None else p_of_margin(limits, margin),
        one_seed=draws.one_seed,
        reason=few_words(draws.support, least) if draws.support < least else "",
    )
    return found, draws


def _family(change: Change) -> str:
    """Name what a change is corrected with: answers to the same question in the same figure."""
    return f"{change.question}: {change.metric}"


def _answered(
    changes: Sequence[_Asked], settings: FairnessSettings
) -> tuple[tuple[Change, ...], dict[str, int]]:
    """Correct the p-values of each question and answer it."""
    done: dict[int, Change] = {}
    families = {}
    alpha = 1 - settings.level
    for question in dict.fromkeys(_family(each) for each, _ in changes):
        asked = [at for at, (each, _) in enumerate(changes) if _family(each) == question]
        corrected = holm([changes[at][0].p_value for at in asked])
        margins = holm([changes[at][0].margin_p for at in asked])
        families[question] = sum(p is not None for p in corrected)
        for at, p_value, margin_p in zip(asked, corrected, margins, strict=True):
            each, draws = changes[at]
            answer, inside = verdict(p_value, margin_p, settings.level, enough=not each.reason)
            # With this p-value an answer is sure to be shown, whatever the others are.
            seen = None if each.reason else detectable(draws, 1 - alpha / families[question])
            done[at] = replace(
                each,
                detectable=seen,
                p_adjusted=p_value,
                margin_p_adjusted=margin_p,
                verdict=answer,
                within_margin=inside,
            )
    return tuple(done[at] for at in sorted(done)), families
