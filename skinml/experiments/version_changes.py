"""What is different about two versions of a model: promise, data, code and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from skinml.experiments.code_version import SOURCE
from skinml.experiments.compare_configs import differing, told_config
from skinml.experiments.compare_runs import FinishedRun
from skinml.records import SPLITS, RunRecord, last_attempts
from skinml.reports.compare_record import VersionChange
from skinml.reports.numbers import delta, epsilon, figure

_SHORT = 19  # of a digest: enough to see that it is another


def version_changes(before: FinishedRun, after: FinishedRun) -> tuple[VersionChange, ...]:
    """List what is different about two runs, and what a reader always asks for.

    Args:
        before: The earlier run.
        after: The later one.

    Returns:
        Lines in words: who they are, the promise, the data by group, the code, the settings.
    """
    one, other = _always(before.record), _always(after.record)
    lines = [VersionChange(what, value, other[what]) for what, value in one.items()]
    for tell in (_people, _versions):
        lines += _differing(tell(before.record), tell(after.record))
    told, tells = told_config(before), told_config(after)
    names = differing((told, tells))
    lines += _differing(
        *({f"setting {n}": str(each.get(n, "none")) for n in names} for each in (told, tells))
    )
    return tuple(lines)


def _always(record: RunRecord) -> dict[str, str]:
    promised, rounds = record.guarantee, last_attempts(record.participation)
    asked = {name for each in rounds for name in each.expected}
    return {
        "run": record.run,
        "begun": record.started,
        "seed": str(record.seed),
        "epsilon of the run": epsilon(promised.epsilon) if promised.private else "NOT PRIVATE",
        "at delta": delta(promised.delta),
        "trust": promised.trust,
        "epsilon of all runs so far": epsilon(promised.total_epsilon),
        "data": f"{record.data.get('name', '')} {record.data.get('digest', '')[:_SHORT]}".strip(),
        "code": record.versions.get(SOURCE, "")[:_SHORT],
        "threshold for alarms": figure(record.threshold, 3),
        "clinics, rounds": f"{len(asked)}, {len(rounds)}",
        "every clinic in every round": "yes" if record.complete else "no",
        "resumed": f"{record.resumes} times",
    }


def _people(record: RunRecord) -> dict[str, str]:
    """Tell how many of each group were in each split."""
    return {
        f"{cell.attribute.replace('_', ' ')} {cell.group}: {', '.join(SPLITS)}": ", ".join(
            str(cell.num_patients.get(split, 0)) for split in SPLITS
        )
        for cell in record.cohort_table
    }


def _versions(record: RunRecord) -> dict[str, str]:
    return {name: value for name, value in record.versions.items() if name != SOURCE}


def _differing(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[VersionChange]:
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name, "none"), after.get(name, "none")
        if one != other:
            yield VersionChange(name, one, other)
