"""A comparison of runs in MLflow: a run of its own, above the runs that it compares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from skinml.errors import PolicyError
from skinml.tracking.allowlist import (
    FIGURES,
    checked_attribute,
    checked_params,
    checked_tags,
    checked_word,
)
from skinml.tracking.clinic_runs import log_points
from skinml.tracking.overview import NOTE
from skinml.tracking.settings import TrackingSettings

EVERYBODY = "overall"
KIND: Literal["compare"] = "compare"
_PARENT = "mlflow.parentRunId"
_GAP, _CHANGE = "gap", "change"


@dataclass(frozen=True)
class ArmMetric:
    """A figure of an arm.

    Attributes:
        arm: The arm's name.
        kind: "figure"; "gap" of a group to its reference; "change" of either against the first
            arm.
        figure: The figure's name, such as "auroc".
        attribute: What the group is of; "overall" for everybody.
        group: The group's name.
        of_gap: Whether a change is one of a gap.
        values: By ending, such as "" for the mean, "low", "high" and "seed_sd"; None is left out.
    """

    arm: str
    kind: str
    figure: str
    attribute: str
    group: str
    of_gap: bool
    values: Mapping[str, float | None]


def comparison_metrics(every: Iterable[ArmMetric], attributes: tuple[str, ...]) -> dict[str, float]:
    """Name an arm's figures for a store.

    Names are `ARM/auroc`, `ARM/auroc.skin_tone.0-2.low`, `ARM/gap.auroc.skin_tone.0-2`,
    `ARM/change.gap.auroc.skin_tone.0-2`. An undefined figure is left out, never written as 0.

    Args:
        every: The figures.
        attributes: The attributes whose groups may be named.

    Returns:
        The figures by name.

    Raises:
        PolicyError: If a figure or an attribute is not on the list, or a name looks like a
            patient's.
    """
    found = {}
    for each in every:
        if each.figure not in FIGURES:
            raise PolicyError(
                rule="a figure on the tracking allow-list",
                got=f"figure={each.figure}",
                do="Compare one of these: " + ", ".join(FIGURES),
            )
        name = ".".join([*_kind(each), each.figure, *_group(each, attributes)])
        arm = checked_word("an arm's name", each.arm).strip(". ") or "_"
        for ending, value in each.values.items():
            if value is not None and isfinite(value):
                found[f"{arm}/{name}{'.' if ending else ''}{ending}"] = value
    return found


def _kind(each: ArmMetric) -> Iterator[str]:
    if each.kind == _CHANGE:
        yield _CHANGE
    if each.kind == _GAP or each.of_gap:
        yield _GAP


def _group(each: ArmMetric, attributes: tuple[str, ...]) -> Iterator[str]:
    if each.attribute != EVERYBODY:
        yield checked_attribute(each.attribute, attributes)
        yield checked_word(f"a group of {each.attribute}", each.group)


def log_comparison(
    settings: TrackingSettings,
    folder: Path,
    *,
    tags: Mapping[str, object],
    params: Mapping[str, object],
    metrics: Sequence[ArmMetric],
    runs: Sequence[str],
    files: Sequence[Path],
    note: str,
    kind: Literal["compare", "sweep", "statistics"] = KIND,
) -> str | None:
    """Write a comparison or a sweep as a parent run, or counts of patients as one alone.

    Args:
        settings: Where the store is, and whether anything is written.
        folder: The working folder, which holds the store where no address is given.
        tags: "skinml.run", "skinml.experiment" and others of the allow-list.
        params: What the arms share of their configs.
        metrics: The figures.
        runs: MLflow's ids of the compared runs. Each is put below this one, but for those that
            are below another comparison already.
        files: The page, the plot and the tables.
        note: Markdown that answers on one screen what ran and how it did, see `several_note`.
        kind: What the parent is, and the folder of its files.

    Returns:
        MLflow's id of the comparison; None where nothing is kept.

    Raises:
        EnvironmentProblem: If the store cannot be written.
        PolicyError: If the allow-list refuses a name or a value.
    """
    if not settings.enabled:
        return None
    from skinml.tracking.mlflow_tracker import log_params, opened_store

    checked = checked_tags({**tags, "skinml.kind": kind, NOTE: note})
    written = checked_params(params)
    found = comparison_metrics(metrics, settings.group_attributes)
    with opened_store(settings, folder) as (client, experiment_id):
        from mlflow.exceptions import MlflowException

        name = checked["skinml.run"]
        own = str(client.create_run(experiment_id, tags=checked, run_name=name).info.run_id)
        log_params(client, own, written)
        log_points(client, own, [(key, value, 0) for key, value in found.items()])
        for path in files:
            client.log_artifact(own, str(path), kind)
        for run in runs:
            with suppress(MlflowException):  # of another store: the table names it all the same
                if _PARENT not in client.get_run(run).data.tags:
                    client.set_tag(run, _PARENT, own)
        client.set_terminated(own, "FINISHED")
    return own
