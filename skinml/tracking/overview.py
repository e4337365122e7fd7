"""The one screen about a run in MLflow: its note, the tags of its row, and the list's columns.

MLflow shows a run's note (`mlflow.note.content`) on top of its page, and tags and metrics as
columns of its list. What is written here answers what ran, on what, what was promised to a
patient, how the model does by skin tone, and whether it passed the gate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from skinml.records import Estimate, GroupResult, RunRecord, last_attempts
from skinml.tracking.allowlist import checked_attribute, checked_tags
from skinml.tracking.content import shown_epsilon

NOTE = "mlflow.note.content"
GATE, GATE_REASON = "skinml.gate", "skinml.gate_reason"
PASSED, REFUSED = "passed", "refused"
TONES = ("skin_tone", "fitzpatrick", "monk", "ita_bin")
VIEW = "skinml"
"""The key of the list's view: `#/experiments/ID/runs?viewStateShareKey=skinml`."""

_NOT_ASKED, _NO_CRITERIA = "not asked yet", "no criteria were fixed"
_MOST_ROWS = 12
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~!&])")
_FIGURES = ("auroc", "sensitivity", "specificity")
_NAMES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy", "ece": "calibration error"}
_BELOW = (
    "The whole report, with gaps beside what chance makes of groups of these sizes: *Artifacts*, "
    "`report/report.html`. The clinics' own runs are below this one."
)
# In the order in which MLflow shows them, each with its width in pixels.
_COLUMNS = {
    "attributes.`Run Name`": 170,
    "metrics.`epsilon`": 90,
    "metrics.`auroc`": 90,
    "tags.`skinml.by_tone`": 420,
    "tags.`skinml.promise`": 260,
    "tags.`skinml.gate`": 110,
    "tags.`skinml.data`": 150,
    "tags.`skinml.complete`": 90,
    "tags.`skinml.simulated`": 90,
}


def overview_tags(record: RunRecord, attributes: Sequence[str]) -> dict[str, str]:
    """Write the tags that make a run's row in the list, and its note.

    Args:
        record: What the run may show.
        attributes: The attributes whose groups may be named.

    Returns:
        The tags by name, "mlflow.note.content" among them.

    Raises:
        PolicyError: If a word looks like a patient's id or like the path of an image.
    """
    gate = _NOT_ASKED if _criteria(record) else _NO_CRITERIA
    return checked_tags(
        {
            "skinml.by_tone": _by_tone(_tone_groups(record, attributes)),
            "skinml.data": record.data.get("name", ""),
            "skinml.promise": _promise(record),
            GATE: gate,
            NOTE: run_note(record, attributes, gate),
        }
    )


def gate_tags(
    record: RunRecord, attributes: Sequence[str], *, passed: bool, reasons: Sequence[str]
) -> dict[str, str]:
    """Write what the gate said into a run's tags and its note.

    Args:
        record: What the run may show.
        attributes: The attributes whose groups may be named.
        passed: Whether every criterion is met.
        reasons: A line a criterion that is not met; where all are, a line each.

    Returns:
        The tags by name.

    Raises:
        PolicyError: If a word looks like a patient's id or like the path of an image.
    """
    answer, why = PASSED if passed else REFUSED, "; ".join(reasons)
    note = run_note(record, attributes, f"{answer}: {why}" if why else answer)
    return checked_tags({GATE: answer, GATE_REASON: why, NOTE: note})


def run_note(record: RunRecord, attributes: Sequence[str], gate: str) -> str:
    """Write a run's note.

    Args:
        record: What the run may show.
        attributes: The attributes whose groups may be named.
        gate: What the gate said.

    Returns:
        Markdown, at most some forty lines; equal arguments give equal text.

    Raises:
        PolicyError: If a group's attribute may not be named.
    """
    tones = _tone_groups(record, attributes)
    # MLflow folds what is longer than some six lines: the answers stand in front of the tables.
    parts = [
        "\n".join(f"- **{what}** {words}" for what, words in _answers(record, tones, gate)),
        *_tone_part(tones, record),
        *_clinic_part(record),
        _BELOW,
    ]
    return "\n\n".join(parts)


def several_note(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], words: str) -> str:
    """Write the note of a parent of several runs.

    Args:
        title: What it is.
        head: The columns' names.
        rows: A row a run or an arm, in the order in which they were asked for.
        words: A sentence below the table.

    Returns:
        Markdown; of many rows the first, with a line that says how many there are.
    """
    safe = [[_plain(cell) for cell in row] for row in rows]
    named = [_plain(name) for name in head]
    return "\n\n".join([f"**{_plain(title)}**", _table(named, safe), _plain(words)])


def estimate_words(estimate: Estimate | None) -> str:
    """Write a figure with its interval.

    Args:
        estimate: The figure.

    Returns:
        Such as "0.85 (0.80 to 0.90)"; the reason where there is none.

    >>> estimate_words(Estimate(0.851, 0.8, 0.9))
    '0.85 (0.80 to 0.90)'
    """
    if estimate is None:
        return "-"
    if estimate.value is None:
        return f"none: {estimate.reason}" if estimate.reason else "none"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def experiment_tags() -> dict[str, str]:
    """Write the tags of an experiment: what MLflow takes it for, and the columns of its list.

    Returns:
        The tags by name. The view is opened by its key, see `VIEW`.
    """
    view = {
        "selectedColumns": list(_COLUMNS),
        "columnOrder": list(_COLUMNS),
        "columnWidths": _COLUMNS,
        "runListHidden": False,
        "viewMaximized": False,
    }
    note = (
        "Runs of skinml, with the clinics' own runs below each. A run's page begins with what ran, "
        "on what, at which epsilon, and how it did by skin tone. Read no figure of a group without "
        "its interval."
    )
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
        NOTE: note,
    }


def _answers(
    record: RunRecord, tones: Sequence[GroupResult], gate: str
) -> Iterator[tuple[str, str]]:
    """Answer what ran, on what, what was promised, how it does, and what the gate said."""
    data = record.data.get("name", "data")
    ran = (f"{record.experiment} on {data}", f"seed {record.seed}", record.started[:10])
    yield "Ran:", _plain(", ".join([*ran, *_stamps(record)]))
    yield "Promised to a patient:", _plain(_promise(record))
    figures = [
        f"{_NAMES[name]} {estimate_words(record.overall.estimates[name])}"
        for name in _NAMES
        if name in record.overall.estimates
    ]
    yield "How well (95%):", _plain(", ".join(figures))
    yield "AUROC by skin tone:", _plain(_by_tone(tones))
    yield "Gate:", _plain(gate)
    exact = "exact, not covered by epsilon"
    source = exact if record.evaluation_source == "exact" else "from counts with noise"
    yield "Tested on:", _plain(f"{_data_words(record)}; figures {source}")
    rounds = last_attempts(record.participation)
    whole = sum(not each.missing for each in rounds)
    clinics = len({name for each in rounds for name in each.expected})
    yield "Took part:", _plain(f"all of {clinics} clinics in {whole} of {len(rounds)} rounds")
    unit = record.guarantee.unit.replace("_", " ")
    yield "Unit and trust:", _plain(f"{unit}; {record.guarantee.trust}")


def _stamps(record: RunRecord) -> Iterator[str]:
    if record.data.get("leak"):
        yield "LEAKED TEST: figures are too good"
    if record.guarantee.simulated:
        yield "SIMULATED: one machine saw everything"
    if not record.guarantee.private:
        yield "NOT PRIVATE"
    if not record.complete:
        yield "INCOMPLETE"
    yield "not a medical device"


def _data_words(record: RunRecord) -> str:
    data, overall = record.data, record.overall
    images = "" if overall.num_images is None else f"{overall.num_images} images of "
    unit = data.get("unit", "patient")
    stand = "" if unit == "patient" else ", which stand for patients"
    of_them = f"{unit}s" if overall.num_images is None else "images"
    malignant = f"{overall.num_positives} malignant {of_them}"
    return f"{images}{overall.num_patients} {unit}s{stand}; {malignant}"


def _one(unit: str) -> str:
    return f"an {unit}" if unit == "image" else f"a {unit}"


def _promise(record: RunRecord) -> str:
    promised = record.guarantee
    if not promised.private:
        return "nothing: no noise was added"
    unit = record.data.get("unit", "patient")
    words = [
        f"epsilon {_epsilon(promised.epsilon)} at delta {promised.delta:g}",
        f"{_epsilon(promised.total_epsilon)} with all runs before it",
    ]
    if promised.max_clinics > 1:
        words.append(
            f"{_epsilon(promised.epsilon_across_clinics)} of {_one(unit)} at "
            f"{promised.max_clinics} clinics"
        )
    return ", ".join(words)


def _epsilon(value: float | None) -> str:
    shown = shown_epsilon(value)
    return "unbounded" if shown is None else f"{shown:.2f}"


def _criteria(record: RunRecord) -> bool:
    fairness = record.config.get("fairness")
    return isinstance(fairness, Mapping) and bool(fairness.get("acceptance"))


def _tone_groups(record: RunRecord, attributes: Sequence[str]) -> list[GroupResult]:
    """Take the groups of the first attribute of tone that the record has."""
    for attribute in TONES:
        found = [each for each in record.groups if each.attribute == attribute]
        if found:
            checked_attribute(attribute, tuple(attributes))
            return found
    return []


def _by_tone(groups: Sequence[GroupResult]) -> str:
    if not groups:
        return "no skin tones in these data"
    known = groups[:_MOST_ROWS]
    words = [f"{each.group}: {estimate_words(each.estimates.get('auroc'))}" for each in known]
    return "; ".join(words)


def _tone_part(groups: Sequence[GroupResult], record: RunRecord) -> Iterator[str]:
    if not groups:
        yield "These data have no skin tones: how the model does by tone is not known."
        return
    scale = record.data.get("tone_scale") or ""
    names = [name for name in _FIGURES if any(name in each.estimates for each in groups)]
    title = f"{groups[0].attribute.replace('_', ' ')}{f' ({scale})' if scale else ''}"
    head = (_plain(title), "tested", "malignant", *(_NAMES.get(name, name) for name in names))
    rows = [
        (
            _plain(each.group),
            f"{each.num_patients}",
            f"{each.num_positives}",
            *(_plain(estimate_words(each.estimates.get(name))) for name in names),
        )
        for each in groups
    ]
    yield _table(head, rows)


def _clinic_part(record: RunRecord) -> Iterator[str]:
    spends, rounds = record.guarantee.clinics, last_attempts(record.participation)
    rows = []
    for clinic in sorted({*spends, *(name for each in rounds for name in each.expected)}):
        asked = [each for each in rounds if clinic in each.expected]
        there = sum(clinic in each.took_part for each in asked)
        spend = spends.get(clinic)
        spent = (spend.epsilon, spend.total_epsilon) if spend else (None, None)
        told = map(_epsilon, spent) if record.guarantee.private else ("no promise",) * 2
        rows.append((_plain(clinic), *told, f"{there} of {len(asked)}"))
    if rows:
        yield _table(("clinic", "epsilon", "in all its runs", "rounds"), rows)


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[Sequence[str]]) -> str:
    every = list(rows)
    lines = [list(head), ["---"] * len(head), *map(list, every[:_MOST_ROWS])]
    if len(every) > _MOST_ROWS:
        more = f"and {len(every) - _MOST_ROWS} more, in the report"
        lines.append([more, *[""] * (len(head) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(words: str) -> str:
    """Take a word for what it says: no markup of Markdown, no line of its own."""
    return _MARKUP.sub(r"\\\1", " ".join(words.split()))
