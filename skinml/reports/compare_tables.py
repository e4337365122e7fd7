"""Tables, plots and sentences of a comparison, for its page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skinml.fairness.arm_means import SeedMean
from skinml.fairness.arm_values import ArmFigure, ArmGap, Change
from skinml.fairness.sides import goodness
from skinml.fairness.verdicts import RULED_OUT, SHOWN
from skinml.records import UNKNOWN_GROUP, Estimate
from skinml.reports.compare_figures import Plot, Point, Series
from skinml.reports.compare_record import ComparisonRecord
from skinml.reports.numbers import about, count, epsilon, figure, interval
from skinml.reports.view import Cell, Row, Table, group_title
from skinml.reports.wording import attribute_title, metric_words, unit_noun

OVERALL = "overall"
EVERYBODY = "Everybody"
_EPSILON = "epsilon "
# Longer names of arms do not fit below a plot.
_LONGEST_LABEL = 13


@dataclass(frozen=True)
class Answered:
    """One question with its answer, for the terminal and the first page.

    Attributes:
        arm: The arm.
        asked: The question.
        mean: What changed.
        answer: The answer in words.
    """

    arm: str
    asked: str
    mean: SeedMean
    answer: str


def answer_words(change: Change) -> str:
    """Say what came of a question, in words.

    Args:
        change: What an arm changed against the first.

    Returns:
        The answer.
    """
    value = change.mean.estimate.value
    if change.verdict == SHOWN and value is not None:
        good = goodness(change.metric)
        better = value * good > 0
        inside = ", within the margin" if change.within_margin else ""
        if not good:  # best at a value of its own: neither more nor less is better
            return f"shown: it moved{inside}"
        if change.question == "gap":
            how = "easier on" if better else "harder on"
            return (
                f"shown: {how} {group_title(change.group)} than on "
                f"{group_title(change.reference)}{inside}"
            )
        return f"shown: {'better' if better else 'worse'}{inside}"
    if change.verdict == RULED_OUT:
        return f"ruled out: no change of {change.margin:g} or more"
    if value is None:
        return f"cannot be computed: {change.reason}"
    if change.reason:
        return f"cannot tell: {change.reason}"
    if change.detectable is None:
        return "these data cannot tell"
    return f"these data cannot tell (a change of {figure(change.detectable, 3)} would have shown)"


def shown_worse(change: Change) -> bool:
    """Tell whether an arm was shown to do worse at a figure, of everybody or of one group.

    Args:
        change: What an arm changed against the first.

    Returns:
        Whether it was; never of a gap, or of a figure that is best at a value of its own.
    """
    value, good = change.mean.estimate.value, goodness(change.metric)
    asked = change.verdict == SHOWN and change.question != "gap"
    return asked and bool(good) and value is not None and value * good <= 0


def question_words(change: Change) -> str:
    """Put a question in words.

    Args:
        change: What an arm changed against the first.

    Returns:
        The question, without its arm.
    """
    name = metric_words(change.metric).title
    if change.question == "overall":
        return f"{name} of everybody"
    group = f"{attribute_title(change.attribute).lower()} {group_title(change.group)}"
    if change.question == "group":
        return f"{name} of {group}"
    return f"gap: {group} less {group_title(change.reference)}"


def answers(record: ComparisonRecord, questions: Sequence[str]) -> list[Answered]:
    """Collect the answers to some questions.

    Args:
        record: The comparison.
        questions: Of "overall", "group", "gap".

    Returns:
        The answers, an arm after the other.
    """
    return [
        Answered(each.arm, question_words(each), each.mean, answer_words(each))
        for each in record.found.changes
        if each.question in questions
    ]


def signed(mean: SeedMean, decimals: int = 3) -> str:
    """Write a change with its sign and its interval.

    Args:
        mean: The change.
        decimals: Digits after the point.

    Returns:
        Such as "-0.012 (-0.030 to 0.006)".
    """
    estimate = mean.estimate
    if estimate.value is None:
        return figure(None, decimals)
    sign = "+" if round(estimate.value, decimals) > 0 else ""
    return f"{sign}{figure(estimate.value, decimals)} ({interval(estimate, decimals)})"


def counts_table(record: ComparisonRecord) -> Table:
    """Make the table of who was tested.

    Args:
        record: The comparison.

    Returns:
        A line for everybody and one for each group.
    """
    people = unit_noun(record.unit_stands_for)
    std = 1.0 if any(each.num_images is None for each in record.found.counts) else 0.0
    rows = tuple(
        Row(
            _name(each.attribute, each.group),
            (
                Cell("not counted" if each.num_images is None else count(each.num_images)),
                Cell(about(each.num_patients, std)),
                Cell(about(each.num_positives, std)),
                Cell(about(each.num_negatives, std)),
            ),
        )
        for each in record.found.counts
    )
    # Where figures come from noised counts, these are of patients, and no image is counted.
    what = people if any(each.num_images is None for each in record.found.counts) else "images"
    columns = ("Group", "Test images", people.capitalize(), f"Malignant {what}", f"Other {what}")
    return Table("Who was tested: the same in every run", columns, rows)


def arms_table(record: ComparisonRecord) -> Table:
    """Make the table of what the arms are.

    Args:
        record: The comparison.

    Returns:
        A line for each arm.
    """
    rows = []
    for number, arm in enumerate(record.arms, 1):
        promise = epsilon(arm.epsilon) if arm.private else "NOT PRIVATE"
        own = record.differs.get(arm.name, {})
        rows.append(
            Row(
                f"{number}. {arm.name}",
                (
                    Cell(promise, f"at delta {arm.delta:g}" if arm.private else ""),
                    Cell(arm.trust),
                    Cell(", ".join(str(run.seed) for run in arm.runs)),
                    Cell("; ".join(f"{key}={value}" for key, value in own.items()) or "nothing"),
                ),
            )
        )
    columns = ("Arm", "Epsilon of one run", "Trust", "Seeds", "Settings of its own")
    return Table("The arms", columns, tuple(rows))


def figure_tables(record: ComparisonRecord) -> list[Table]:
    """Make the tables of figures: everybody in all figures, then groups in the primary one.

    Args:
        record: The comparison.

    Returns:
        The tables.
    """
    found = record.found
    rows = _arm_rows(record, [(OVERALL, OVERALL, metric) for metric in found.metrics])
    columns = ("Arm", *(metric_words(metric).title for metric in found.metrics))
    tables = [Table(f"{EVERYBODY}, {_level(record)}", columns, rows)]
    for attribute in _attributes(record):
        names = [each.group for each in found.counts if each.attribute == attribute]
        rows = _arm_rows(record, [(attribute, name, found.metric) for name in names])
        title = f"{metric_words(found.metric).title} by {attribute_title(attribute).lower()}"
        heads = ("Arm", *(group_title(name) for name in names))
        tables.append(Table(f"{title}, {_level(record)}", heads, rows))
    return tables


def _arm_rows(record: ComparisonRecord, columns: Sequence[tuple[str, str, str]]) -> tuple[Row, ...]:
    """A line for each arm; the columns are attribute, group and figure."""
    means = {(e.arm, e.attribute, e.group, e.metric): e.mean for e in record.found.figures}
    return tuple(
        Row(arm.name, tuple(_cell_of(means.get((arm.name, *column))) for column in columns))
        for arm in record.arms
    )


def _cell_of(mean: SeedMean | None) -> Cell:
    return Cell("not measured") if mean is None else mean_cell(mean)


def mean_cell(mean: SeedMean, *, sign: bool = False) -> Cell:
    """Write a mean as a cell.

    Args:
        mean: The mean.
        sign: Whether to write a plus before what is above 0.

    Returns:
        The value, with its interval and the spread between seeds on the second line.
    """
    estimate = mean.estimate
    if estimate.value is None:
        return Cell(figure(None, 3), estimate.reason)
    notes = [interval(estimate, 3)]
    if mean.seed_sd is not None:
        notes.append(f"SD of seeds {figure(mean.seed_sd, 3)}")
    if "few events" in estimate.method:
        notes.append("few events")
    plus = "+" if sign and round(estimate.value, 3) > 0 else ""
    return Cell(f"{plus}{figure(estimate.value, 3)}", "; ".join(notes))


def worst_table(record: ComparisonRecord) -> Table:
    """Make the table of the worst group of each arm.

    Args:
        record: The comparison.

    Returns:
        A line for each arm and attribute; it names the group that came out worst, by chance or not.
    """
    several = len(_attributes(record)) > 1
    rows = tuple(
        Row(
            each.arm,
            (Cell(_name(each.attribute, each.group)), mean_cell(each.mean)),
            attribute_title(each.attribute) if several else "",
        )
        for each in record.found.worst
    )
    title = metric_words(record.found.metric).title
    return Table("The group that came out worst", ("Arm", "Group", title), rows)


def gap_tables(record: ComparisonRecord) -> list[Table]:
    """Make a table of gaps for each attribute.

    Args:
        record: The comparison.

    Returns:
        The tables; below 0 a group is behind its reference, where more of the figure is better.
    """
    tables = []
    title = metric_words(record.found.metric).title
    for attribute, reference in record.found.references.items():
        gaps = [each for each in record.found.gaps if each.attribute == attribute]
        names = list(dict.fromkeys(each.group for each in gaps))
        by_place = {(each.arm, each.group): each.mean for each in gaps}
        rows = tuple(
            Row(
                arm.name,
                tuple(
                    mean_cell(by_place[arm.name, name], sign=True)
                    for name in names
                    if (arm.name, name) in by_place
                ),
            )
            for arm in record.arms
        )
        heads = [f"{group_title(name)} less {group_title(reference.group)}" for name in names]
        caption = f"Gaps in {title} by {attribute_title(attribute).lower()}, {_level(record)}"
        tables.append(Table(caption, ("Arm", *heads), rows))
    return [each for each in tables if len(each.columns) > 1]


def change_table(record: ComparisonRecord, question: str) -> Table:
    """Make the table of what arms changed against the first.

    Args:
        record: The comparison.
        question: "overall", "group" or "gap".

    Returns:
        A line for each answer.
    """
    found = record.found
    rows = tuple(
        Row(
            each.arm,
            (
                Cell(question_words(each)),
                mean_cell(each.mean, sign=True),
                Cell(_p_words(each.p_value), f"corrected {_p_words(each.p_adjusted)}"),
                Cell(figure(each.detectable, 3) if each.detectable is not None else "not known"),
                Cell(answer_words(each)),
            ),
        )
        for each in found.changes
        if each.question == question
    )
    names = {
        "overall": "Everybody",
        "group": "Each group",
        "gap": "The gap: on whom does it fall harder",
    }
    sizes = {name: size for name, size in found.families.items() if name.startswith(question)}
    family = max(sizes.values(), default=0)
    each = " for each figure" if len(sizes) > 1 else ""
    together = f", {family} answers corrected together{each}" if family > 1 else ""
    caption = f"{names[question]}, against {found.arms[0]}{together}"
    columns = ("Arm", "Of", "Change", "P-value", "Would have shown from", "Answer")
    return Table(caption, columns, rows)


def runs_table(record: ComparisonRecord) -> Table:
    """Make the table of the runs.

    Args:
        record: The comparison.

    Returns:
        A line for each run.
    """
    rows = tuple(
        Row(
            run.run,
            (
                Cell(arm.name),
                Cell(str(run.seed)),
                Cell(run.mlflow_run or "not tracked"),
                Cell(run.code or "not known"),
            ),
        )
        for arm in record.arms
        for run in arm.runs
    )
    return Table("The runs", ("Run", "Arm", "Seed", "MLflow's id", "Code"), rows)


def plots(record: ComparisonRecord) -> list[Plot]:
    """Prepare the plots: figures by group, and gaps, for each attribute.

    Args:
        record: The comparison.

    Returns:
        The plots.
    """
    found, title = record.found, metric_words(record.found.metric).title
    labels, below = _labels(found.arms)
    made: list[Plot] = []
    for attribute in _attributes(record):
        word = attribute_title(attribute).lower()
        lines = list(_group_series(found.figures, found.arms, attribute, found.metric))
        everybody = _series(found.figures, found.arms, OVERALL, OVERALL, found.metric)
        name = f"groups-{len(made)}"
        top = f"{title} by {word}"
        alt = f"{top}, arm by arm. {_told([*lines, everybody], found.arms)}"
        every = (*lines, everybody)
        made.append(Plot(name, top, labels, below, every, None, alt))
        gaps = tuple(_gap_series(found.gaps, found.arms, attribute))
        if gaps:
            top = f"Gap in {title}: below 0 the group is behind"
            alt = f"{top}. {_told(gaps, found.arms)}"
            alt += "" if found.margin is None else f" The band is the margin of {found.margin:g}."
            name = f"gaps-{len(made)}"
            made.append(Plot(name, top, labels, below, gaps, found.margin or 0.0, alt))
    return made


def _labels(arms: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """What stands below a plot: epsilons alone, names, or numbers where names are long."""
    if all(arm == "none" or (arm.removeprefix(_EPSILON) != arm and "," not in arm) for arm in arms):
        return tuple(arm.removeprefix(_EPSILON) for arm in arms), "epsilon of a run"
    if all(len(arm) <= _LONGEST_LABEL for arm in arms):
        return tuple(arms), "arm"
    return tuple(str(at) for at in range(1, len(arms) + 1)), "number of the arm"


def _group_series(
    figures: Sequence[ArmFigure], arms: Sequence[str], attribute: str, metric: str
) -> Iterator[Series]:
    groups = dict.fromkeys(each.group for each in figures if each.attribute == attribute)
    for group in groups:
        if UNKNOWN_GROUP not in group:
            yield _series(figures, arms, attribute, group, metric)


def _series(
    figures: Sequence[ArmFigure], arms: Sequence[str], attribute: str, group: str, metric: str
) -> Series:
    by_arm = {
        e.arm: e.mean.estimate
        for e in figures
        if (e.attribute, e.group, e.metric) == (attribute, group, metric)
    }
    name = "everybody" if attribute == OVERALL else group_title(group)
    points = tuple(_point(by_arm.get(arm)) for arm in arms)
    return Series(name, points, dashed=attribute == OVERALL)


def _gap_series(gaps: Sequence[ArmGap], arms: Sequence[str], attribute: str) -> Iterator[Series]:
    chosen = [each for each in gaps if each.attribute == attribute]
    for group, reference in dict.fromkeys((each.group, each.reference) for each in chosen):
        by_arm = {each.arm: each.mean.estimate for each in chosen if each.group == group}
        name = f"{group_title(group)} less {group_title(reference)}"
        yield Series(name, tuple(_point(by_arm.get(arm)) for arm in arms))


def _point(estimate: Estimate | None) -> Point | None:
    if estimate is None or estimate.value is None:
        return None
    return estimate.value, estimate.low, estimate.high


def _told(every: Sequence[Series], arms: Sequence[str]) -> str:
    """The plot in words: each arm's values."""
    parts = []
    for at, arm in enumerate(arms):
        points = [(each.name, each.points[at]) for each in every]
        words = [f"{name} {figure(None if p is None else p[0], 3)}" for name, p in points]
        parts.append(f"{arm}: {', '.join(words)}.")
    return " ".join(parts)


def _attributes(record: ComparisonRecord) -> list[str]:
    every = dict.fromkeys(each.attribute for each in record.found.counts)
    return [name for name in every if name != OVERALL]


def _name(attribute: str, group: str) -> str:
    return EVERYBODY if attribute == OVERALL else group_title(group)


def _level(record: ComparisonRecord) -> str:
    return f"mean over seeds with the {record.found.level * 100:.0f}% interval"


def _p_words(value: float | None) -> str:
    if value is None:
        return "none"
    return "below 0.0001" if value < 1e-4 else figure(value, 4)
