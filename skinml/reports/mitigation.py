"""The report's part on mitigation: what was done in training, and what could be done after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from skinml.fairness.after_training import AfterTraining, after_training_from
from skinml.fairness.group_thresholds import EVERYBODY, Compared, GroupThreshold
from skinml.fairness.recalibration import Recalibrated
from skinml.records import Estimate, RunRecord
from skinml.reports.numbers import figure, interval
from skinml.reports.view import Cell, Row, Table
from skinml.reports.wording import attribute_title, metric_words

_DECIMALS = 2
_FINE = 3
_IN_TRAINING = {
    "none": "Nothing was done against gaps while the model was trained.",
    "reweigh": "While the model was trained, patients counted by weights of their groups, so that "
    "small groups count more beside large ones.",
    "balanced_sampling": "While the model was trained, patients were drawn at rates of their "
    "groups, so that small groups are seen more often beside large ones.",
    "group_dro": "While the model was trained, groups on which it was worse counted more "
    "(group DRO).",
    "qfedavg": "While the model was trained, clinics on which it was worse counted more "
    "(q-FedAvg).",
}
# What more or less of is better or worse for a patient; a slope is neither.
_ERRORS = ("sensitivity", "specificity", "brier", "auroc")
_ALL = "Everybody, each group its own"


@dataclass(frozen=True)
class MitigationPart:
    """What the page shows of mitigation.

    Attributes:
        training: What was done in training, a sentence.
        title: What the groups are of, in small letters; empty where nothing was tried afterwards.
        left_out: Why nothing was tried afterwards; empty where something was.
        aim: The sensitivity that groups' thresholds were chosen for.
        thresholds: The table of thresholds; None where no group has one of its own.
        lines: The table of recalibrations; None where no group has one of its own.
        changes: What changed by more than chance explains, a sentence each.
    """

    training: str
    title: str = ""
    left_out: str = ""
    aim: float | None = None
    thresholds: Table | None = None
    lines: Table | None = None
    changes: tuple[str, ...] = ()


def mitigation_part(record: RunRecord) -> MitigationPart | None:
    """Make the part on mitigation.

    Args:
        record: What the run may show.

    Returns:
        The part; None where the record tells nothing of it.
    """
    settings = record.config.get("mitigation")
    if not isinstance(settings, Mapping):
        return None
    training = _IN_TRAINING.get(str(settings.get("method")), _IN_TRAINING["none"])
    if record.mitigation is None:
        return MitigationPart(training)
    found = after_training_from(record.mitigation)
    title = attribute_title(found.attribute)
    if found.left_out:
        return MitigationPart(training, title.lower(), found.left_out)
    return MitigationPart(
        training,
        title.lower(),
        aim=found.aim,
        thresholds=_threshold_table(title, found) if _tried(found.thresholds) else None,
        lines=_line_table(title, found) if _tried(found.recalibrations) else None,
        changes=tuple(_changes(found)),
    )


def _tried(groups: Sequence[GroupThreshold | Recalibrated]) -> bool:
    return any(each.figures for each in groups)


def _threshold_table(title: str, found: AfterTraining) -> Table:
    names = tuple(metric_words(name).title for name in ("sensitivity", "specificity"))
    figures = (w for name in names for w in (name, f"{name}, own threshold", "Change"))
    columns = (title, "Own threshold", *figures)
    rows = tuple(
        Row(
            _name(each.group),
            (_threshold(each), *_three(each.figures, "sensitivity", "specificity")),
        )
        for each in found.thresholds
    )
    return Table("A threshold of each group's own, on the test patients", columns, rows)


def _line_table(title: str, found: AfterTraining) -> Table:
    brier, slope = (metric_words(name).title for name in ("brier", "calibration_slope"))
    columns = (
        title,
        "Intercept and slope",
        f"{brier}, one line for all",
        f"{brier}, own line",
        "Change",
        f"{slope}, one line for all",
        f"{slope}, own line",
        "Change",
    )
    rows = tuple(
        Row(_name(each.group), (_line(each), *_three(each.figures, "brier", "calibration_slope")))
        for each in found.recalibrations
    )
    return Table("Scores recalibrated for each group, on the test patients", columns, rows)


def _name(group: str) -> str:
    return _ALL if group == EVERYBODY else group


def _threshold(each: GroupThreshold) -> Cell:
    if each.threshold is not None:
        return Cell(figure(each.threshold, _FINE))
    return Cell("the run's", each.reason) if each.reason else Cell("each its own")


def _line(each: Recalibrated) -> Cell:
    if each.line is None:
        return Cell("the line for all", each.reason)
    numbers = " and ".join(
        figure(value, _DECIMALS) for value in (each.line.intercept, each.line.slope)
    )
    return Cell(numbers, "one line for all" if each.group == EVERYBODY else "")


def _three(figures: Mapping[str, Compared], *names: str) -> Iterator[Cell]:
    for name in names:
        made = figures.get(name)
        decimals = _FINE if name == "brier" else _DECIMALS
        if made is None:
            yield from (Cell("not tried"),) * 3
        else:
            yield from (_cell(one, decimals) for one in (made.before, made.after, made.difference))


def _cell(estimate: Estimate, decimals: int) -> Cell:
    return Cell(figure(estimate.value, decimals), interval(estimate, decimals))


def _changes(found: AfterTraining) -> Iterator[str]:
    """Name each change whose interval leaves out 0."""
    tried = [(each.group, "at its own threshold", each.figures) for each in found.thresholds]
    tried += [(each.group, "with its own line", each.figures) for each in found.recalibrations]
    for group, how, figures in tried:
        who = f"{'Each group' if group == EVERYBODY else group} {how}"
        for name, made in figures.items():
            low, high = made.difference.low, made.difference.high
            if name not in _ERRORS or low is None or high is None or low <= 0 <= high:
                continue
            decimals = _FINE if name == "brier" else _DECIMALS
            value = figure(made.difference.value, decimals)
            limits = interval(made.difference, decimals)
            yield f"{who}: {metric_words(name).title} changes by {value} ({limits})."
