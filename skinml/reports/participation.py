"""The report's part on who took part: words and tables."""

from __future__ import annotations

from skinml.attempts import attempt_words
from skinml.records import RunRecord
from skinml.reports.attendance import Stretch, SumNoise
from skinml.reports.derived import Derived
from skinml.reports.numbers import at_least, count
from skinml.reports.view import Cell, Row, Table

_SUMS = {
    "admissions": "Counts of whose data were admitted",
    "label_counts": "Counts of patients by diagnosis",
    "group_label_counts": "Counts of patients by group and diagnosis",
    "feature_sum": "Sum of the images' features",
    "class_sums": "Sums of the images' features by diagnosis",
    "gradient": "Sum of gradients: how the model should change",
    "group_losses": "Sums of losses by group",
    "weights": "Training steps inside each clinic",
    "validation_scores": "Counts of validation patients by score",
    "validation_scores_by_group": "Counts of validation patients by score, and by group and score",
    "validation_scores_and_features": "Counts of validation patients by score, and the sum of "
    "their images' features",
    "validation_scores_by_group_and_features": "Counts of validation patients by score, and by "
    "group and score, and the sum of their images' features",
    "test_counts": "Counts of test patients by group and score, all together",
}
_COUNTS = ("admissions", "label_counts", "group_label_counts", "validation_scores")
_NO_SUM = "no sum"
ATTENDANCE = "Who took part in which sum"
SUMS = "The sums, and the noise in each number of them"


def terms_words(record: RunRecord, derived: Derived) -> str:
    """Say how many clinics a sum needs, in one line.

    Args:
        record: What the run may show.
        derived: The derived figures.

    Returns:
        A sentence or two.
    """
    clinics = record.guarantee.num_clinics or derived.num_clinics
    if clinics < 2:
        return "One clinic trained alone."
    allowed = derived.allowed_missing
    said = [f"{clinics} clinics were asked in each round."]
    if record.guarantee.trust == "distributed":
        colluding = record.guarantee.colluding_clinics
        who = f"at most {colluding} of them share" if colluding else "none of them shares"
        know = "what they know" if colluding else "what it knows"
        needed = "All" if derived.num_enough == clinics else f"{derived.num_enough} of them"
        said += [
            f"{needed} are needed to open a sum.",
            f"The promise holds as long as {who} {know} with the coordinator.",
        ]
    missing = f"at most {allowed}" if allowed else "none"
    return " ".join([*said, f"The run's settings let {missing} be missing from a sum."])


def noise_words(record: RunRecord, derived: Derived) -> str:
    """Say whose noise is in a sum.

    Args:
        record: What the run may show.
        derived: The derived figures.

    Returns:
        A sentence or two.
    """
    trust, clinics = record.guarantee.trust, record.guarantee.num_clinics
    if not record.guarantee.private:
        return "No sum has noise."
    if trust == "central":
        return (
            "The coordinator adds the noise that epsilon counts on, the same however many clinics "
            "are in the sum."
        )
    if clinics == 1:
        return "The clinic adds all of the noise that epsilon counts on."
    if trust == "local":
        return (
            "Each clinic adds all of the noise that epsilon counts on, so that a sum has more of "
            "it the more clinics are in it."
        )
    if trust == "distributed" and clinics:
        if derived.num_honest == clinics:
            return "Each clinic adds a share of the noise; all shares are what epsilon counts on."
        return (
            f"Each clinic adds a share of the noise, and {derived.num_honest} of {clinics} shares "
            "are all that epsilon counts on. A sum with more of them has more noise than that, "
            "never less."
        )
    return ""


def attendance_table(record: RunRecord, derived: Derived) -> Table:
    """Make the table of who was in which sum, with a line for rounds that went alike.

    Args:
        record: What the run may show.
        derived: The derived figures.

    Returns:
        A table with a line for each stretch of rounds; an attempt without a sum has its own.
    """
    rows = tuple(
        Row(
            _rounds(each.first_round, each.last_round),
            (
                _in_the_sum(each),
                _noise(each, record.guarantee.private),
                Cell(attempt_words(each.attempt)),
                _missing(each),
            ),
        )
        for each in derived.stretches
    )
    columns = (
        "Rounds",
        "Clinics in the sum",
        "Noise in the sum",
        "Attempt",
        "Missing, and why",
    )
    return Table(ATTENDANCE, columns, rows)


def _rounds(first: int, last: int) -> str:
    return count(first) if first == last else f"{count(first)} to {count(last)}"


def _in_the_sum(stretch: Stretch) -> Cell:
    share = f"{count(stretch.num_took_part)} of {count(stretch.num_expected)}"
    return Cell(share) if stretch.summed else Cell(_NO_SUM, f"{share} had done their part")


def _missing(stretch: Stretch) -> Cell:
    if not stretch.missing:
        return Cell("nobody")
    return Cell("; ".join(f"{who}: {why}" for who, why in stretch.missing.items()))


def _noise(stretch: Stretch, private: bool) -> Cell:
    if not stretch.summed:
        return Cell(_NO_SUM, "charged to each clinic that had released its part" if private else "")
    if not private:
        return Cell("no noise")
    if stretch.noise is None:
        return Cell("not told", "the strategy makes something else of the clinics' parts")
    return Cell(f"{at_least(stretch.noise, 2)} times")


def sums_table(record: RunRecord, derived: Derived) -> Table:
    """Make the table of what was summed up and how much noise was in it.

    Args:
        record: What the run may show.
        derived: The derived figures.

    Returns:
        A table with a line for each kind of sum.
    """
    rows = tuple(
        Row(
            _SUMS.get(each.plan.name, each.plan.name.replace("_", " ").capitalize()),
            (
                Cell(_rounds(each.plan.first_round, each.plan.last_round)),
                _moved_by(each.plan.name, each.plan.sensitivity),
                _std(each, record.guarantee.private),
            ),
            "noise of each step at one clinic" if each.plan.local_steps else "",
        )
        for each in derived.sums
    )
    columns = (
        "What was summed up",
        "Rounds",
        "One patient moves it by at most",
        "Noise that was in it (standard deviation)",
    )
    return Table(SUMS, columns, rows)


def _moved_by(name: str, sensitivity: float | None) -> Cell:
    if sensitivity is None:
        return Cell("no bound")
    return Cell(f"{sensitivity:.4g}", _unit(name, sensitivity))


def _unit(name: str, value: float = 0.0) -> str:
    if name not in _COUNTS:
        return ""
    return "patient" if value == 1 else "patients"


def _std(each: SumNoise, private: bool) -> Cell:
    if not private:
        return Cell("no noise")
    if each.least is None or each.most is None:
        return Cell("not told")
    low, high = f"{each.least:.4g}", f"{each.most:.4g}"
    return Cell(low if low == high else f"{low} to {high}", _unit(each.plan.name))
