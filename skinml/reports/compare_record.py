"""What a comparison of runs may show: what its pages, its files and its tracking are made from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from pydantic import TypeAdapter

from skinml.fairness.arm_means import SeedMean
from skinml.fairness.arm_values import ArmComparison

FORMAT = "skinml-compare-1"
_COLUMNS = (
    "kind",
    "arm",
    "base",
    "attribute",
    "group",
    "reference",
    "figure",
    "value",
    "low",
    "high",
    "level",
    "seeds",
    "seed_sd",
    "p_value",
    "p_adjusted",
    "detectable",
    "answer",
    "method",
    "reason",
)


@dataclass(frozen=True)
class RunLine:
    """A run of an arm.

    Attributes:
        run: Its id.
        seed: Its seed.
        mlflow_run: MLflow's id of it; None where it was not tracked.
        data_digest: Digest of the data that it used.
        code: Digest of the code that made it.
    """

    run: str
    seed: int
    mlflow_run: str | None
    data_digest: str
    code: str


@dataclass(frozen=True)
class ArmLine:
    """What an arm is.

    Attributes:
        name: Its name.
        private: Whether all of its runs promise something.
        trust: The trust model.
        unit: Whose data are protected as a whole.
        epsilon: The greatest epsilon of its runs; None without a promise.
        delta: Delta that it is read at.
        simulated: Whether one machine played all clinics.
        runs: Its runs.
    """

    name: str
    private: bool
    trust: str
    unit: str
    epsilon: float | None
    delta: float
    simulated: bool
    runs: tuple[RunLine, ...]


@dataclass(frozen=True)
class VersionChange:
    """What is different, or the same, about two versions of a model, in words.

    Attributes:
        what: What is told.
        before: How it was.
        after: How it is.
    """

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class ComparisonRecord:
    """Everything that a finished comparison may show.

    Attributes:
        comparison: Its id.
        experiment: The experiment's name.
        started: When it began, ISO 8601, UTC.
        wall_s: Seconds of work.
        arms: What was compared; the others are held against the first.
        found: The figures, the gaps and what changed.
        unit_stands_for: What a patient's id stands for in the data.
        data: The data's name and the like.
        left_out: Patients of some runs that are not in all, and so in none of the figures.
        charged: What the runs were charged, in sentences.
        notes: What a reader must know about the runs, in sentences.
        config: What all arms share of their configs, as plain values.
        differs: For each arm what its config says where arms differ, by dotted name.
        versions: Versions of skinml and the libraries that it stands on.
        changed: Of two versions side by side, what is different about them; empty where arms are
            compared.
    """

    comparison: str
    experiment: str
    started: str
    wall_s: float
    arms: tuple[ArmLine, ...]
    found: ArmComparison
    unit_stands_for: str
    data: Mapping[str, str]
    left_out: int
    charged: tuple[str, ...]
    notes: tuple[str, ...]
    config: Mapping[str, Any]
    differs: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str]
    changed: tuple[VersionChange, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether one machine played all clinics of all runs."""
        return all(arm.simulated for arm in self.arms)

    @property
    def num_runs(self) -> int:
        """How many runs there are in all arms."""
        return sum(len(arm.runs) for arm in self.arms)


_RECORDS = TypeAdapter(ComparisonRecord)


def comparison_to_json(record: ComparisonRecord) -> dict[str, Any]:
    """Turn a comparison into the content of compare.json.

    Args:
        record: What the comparison may show.

    Returns:
        Plain values: every number of the page. An undefined or infinite number is None.
    """
    found = _plain(_RECORDS.dump_python(record, mode="python"))
    return {"format": FORMAT, **found}


def _plain(value: object) -> Any:
    match value:
        case float():
            return value if isfinite(value) else None
        case Mapping():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case None | bool() | int() | str():
            return value
    return str(value)


def comparison_csv(record: ComparisonRecord) -> str:
    """Write figures, gaps and changes as one table of text, a line each.

    Args:
        record: What the comparison may show.

    Returns:
        CSV with a heading; an undefined number is empty.
    """
    target = io.StringIO()
    writer = csv.DictWriter(target, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for line in _lines(record):
        writer.writerow({name: _cell(value) for name, value in line.items()})
    return target.getvalue()


def _lines(record: ComparisonRecord) -> Iterator[dict[str, object]]:
    found = record.found
    seeds = {arm.name: len(arm.runs) for arm in record.arms}
    for figure in found.figures:
        yield {
            "kind": "figure",
            "arm": figure.arm,
            "attribute": figure.attribute,
            "group": figure.group,
            "figure": figure.metric,
            **_mean(figure.mean, seeds[figure.arm]),
        }
    for gap in found.gaps:
        yield {
            "kind": "gap",
            "arm": gap.arm,
            "attribute": gap.attribute,
            "group": gap.group,
            "reference": gap.reference,
            "figure": gap.metric,
            **_mean(gap.mean, seeds[gap.arm]),
        }
    for change in found.changes:
        yield {
            "kind": f"change: {change.question}",
            "arm": change.arm,
            "base": change.base,
            "attribute": change.attribute,
            "group": change.group,
            "reference": change.reference,
            "figure": change.metric,
            **_mean(change.mean, seeds[change.arm]),
            "p_value": change.p_value,
            "p_adjusted": change.p_adjusted,
            "detectable": change.detectable,
            "answer": change.verdict,
            "reason": change.reason or change.mean.estimate.reason,
        }


def _mean(mean: SeedMean, seeds: int) -> dict[str, object]:
    estimate = mean.estimate
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "level": estimate.level,
        "seeds": seeds,
        "seed_sd": mean.seed_sd,
        "method": estimate.method,
        "reason": estimate.reason,
    }


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"  # a spreadsheet shall not take a group's name for a formula
    return value
