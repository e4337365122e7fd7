"""Statistics over clinics: counts are those of the patients, noised, charged first, and shown."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant

from skinml.clinic.folder import open_folder
from skinml.clinic.releases import read_contributions
from skinml.config import load_config
from skinml.errors import BudgetExceededError, ConfigError, PolicyError
from skinml.experiments.statistics import (
    Counted,
    plan_digest,
    preview,
    run_statistics,
    statistics_config,
)
from skinml.experiments.statistics_tracking import track_statistics
from skinml.privacy.events import DiscreteGaussianEvent
from skinml.records import EVERY_SPLIT
from skinml.tracking.mlflow_tracker import opened_store
from skinml.tracking.settings import TrackingSettings
from tests.experiments.counted_list import CLINICS, meant, write_list

TABLES = ("diagnosis", "skin_tone", "age_band", "outcome", "diagnosis:treatment")
AT_ONE_PLACE = ("federation=centralised", "tracking.enabled=false")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A folder with a list of patients, and the list."""
    folder = tmp_path_factory.mktemp("listed")
    return folder, write_list(folder)


@pytest.fixture(scope="module")
def counted(
    listed: tuple[Path, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Counted, Path]:
    """Statistics of three virtual clinics under secure sums, and their working folder."""
    place = tmp_path_factory.mktemp("counted")
    config = statistics_config(
        "statistics",
        [f"data.root={listed[0]}", f"work_dir={place}", "tracking.enabled=false"],
        tables=TABLES,
    )
    return run_statistics(config), place


def _cells(found: Counted) -> dict[tuple[str, ...], float | None]:
    return {
        (table.region, table.name, *cell.groups): cell.count.value
        for table in found.record.tables
        for cell in table.cells
    }


def _expected(rows: pd.DataFrame) -> dict[tuple[str, ...], int]:
    groups = meant(rows)
    return {
        ("", table, *(key if isinstance(key, tuple) else (key,))): int(number)
        for table in TABLES
        for key, number in groups.groupby(table.split(":")).size().items()
    }


def test_without_noise_the_counts_are_those_of_a_groupby(listed, tmp_path) -> None:
    root, rows = listed
    config = statistics_config(
        "statistics",
        [
            f"data.root={root}",
            f"work_dir={tmp_path}",
            "privacy.trust=none",
            "statistics.least_count=1",
            *AT_ONE_PLACE,
        ],
        tables=TABLES,
    )
    found = run_statistics(config)
    shown = {key: value for key, value in _cells(found).items() if value is not None}
    assert shown == _expected(rows)
    assert not found.record.guarantee.private
    assert "NOT PRIVATE" in (found.folder / "statistics.html").read_text()
    assert found.result["privacy"]["epsilon"] is None


def test_a_clinics_log_says_that_patients_were_counted_and_nothing_trained(counted) -> None:
    for clinic in CLINICS:
        folder = open_folder(counted[1] / "clinics" / clinic)
        events = [each.event for each in folder.audit.entries()]
        assert events.count("counting started") == events.count("run ended") > 0
        assert "training started" not in events


def test_under_secure_sums_each_count_is_within_the_noise(counted, listed) -> None:
    record, expected = counted[0].record, _expected(listed[1])
    # The noise of 3 clinics is that of the plan: each adds a third of the variance.
    off = [
        value - expected.get(key, 0)
        for key, value in _cells(counted[0]).items()
        if value is not None
    ]
    assert off
    assert max(map(abs, off)) < 6 * record.std
    assert record.guarantee.clinics.keys() == set(CLINICS)
    assert counted[0].result["secure_sums"] == {"clinics": 3, "threshold": 3, "colluding": 0}


def test_the_charge_is_in_each_ledger_and_is_what_dp_accounting_says(counted) -> None:
    found, place = counted
    for clinic in CLINICS:
        (entry,) = open_folder(place / "clinics" / clinic).ledger.entries()
        assert (entry.name, entry.split) == ("statistics", EVERY_SPLIT)
        assert isinstance(entry.event, DiscreteGaussianEvent)
        accountant = PLDAccountant()
        accountant.compose(GaussianDpEvent(entry.event.noise_multiplier))
        told = found.result["privacy"]["clinics"][clinic]["epsilon"]
        assert told == pytest.approx(accountant.get_epsilon(1e-5), abs=2e-3)
        assert told <= 1.0
    # A patient in one cell of each of five tables: what sigma 1 is in patients.
    assert found.record.std == pytest.approx(entry.event.noise_multiplier * np.sqrt(5), rel=1e-6)


def test_a_patient_is_told_that_the_counts_read_the_record(counted, listed) -> None:
    found, place = counted
    folder = open_folder(place / "clinics" / "north")
    (read,) = read_contributions(folder, found.record.run)
    own = listed[1].query("clinic == 'north'")
    assert len(read.patients[EVERY_SPLIT]) == len(own)
    assert not list(folder.run(found.record.run).glob("samples-*"))


def test_page_table_and_json_say_the_same_and_nothing_that_is_not_shown(counted) -> None:
    found = counted[0]
    rows = list(csv.DictReader((found.folder / "statistics.csv").read_text().splitlines()))
    told = json.loads((found.folder / "statistics.json").read_text())
    cells = [cell for table in told["tables"] for cell in table["cells"]]
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        assert row["patients"] == ("" if cell["patients"] is None else f"{cell['patients']:.0f}")
        assert (row["shown"] == "no") == cell["suppressed"] == (cell["patients"] is None)
        assert cell["suppressed"] or cell["patients"] >= told["least_count"]
    assert any(cell["suppressed"] for cell in cells)
    page = (found.folder / "statistics.html").read_text()
    for words in ("SIMULATED", "not shown", told["plan"]):
        assert words in page
    assert told["least_count"] == max(10, int(np.ceil(found.record.half_width)))


def test_nothing_that_names_a_patient_is_in_what_is_shown(counted, listed) -> None:
    for name in ("statistics.html", "statistics.csv", "statistics.json", "config.json"):
        text = (counted[0].folder / name).read_text()
        assert not any(word in text for word in ("P-17", "images/17")), name


def test_a_preview_costs_nothing_and_is_what_is_charged(counted) -> None:
    config = statistics_config("statistics", tables=TABLES)
    told = preview(config, 3)
    assert told.epsilon == pytest.approx(counted[0].record.guarantee.epsilon, rel=1e-6)
    assert told.std == pytest.approx(counted[0].record.std)
    fewer = preview(statistics_config("statistics", tables=TABLES[:1]), 3)
    assert fewer.std == pytest.approx(told.std / np.sqrt(5), rel=1e-4)


def test_a_second_time_is_refused_where_the_budget_is_used_up(counted, listed) -> None:
    place = counted[1]
    config = statistics_config(
        "statistics",
        [f"data.root={listed[0]}", f"work_dir={place}", "privacy.budget.epsilon=1.2"],
    )
    with pytest.raises(BudgetExceededError):
        run_statistics(config)
    for clinic in CLINICS:
        assert len(open_folder(place / "clinics" / clinic).ledger.entries()) == 1


def test_a_policy_that_does_not_name_the_purpose_refuses(listed, tmp_path) -> None:
    config = statistics_config(
        "statistics",
        [
            f"data.root={listed[0]}",
            f"work_dir={tmp_path}",
            "clinic.policy.purposes=[research,federated_training]",
            *AT_ONE_PLACE,
        ],
    )
    with pytest.raises(PolicyError):
        run_statistics(config)


def test_regions_have_tables_of_their_own(listed, tmp_path) -> None:
    from skinml.experiments.learners import tables_of

    config = statistics_config(
        "statistics",
        [f"data.root={listed[0]}", f"work_dir={tmp_path}"],
        tables=("outcome",),
        regions={"coast": ("east", "west"), "hills": ("north", "south")},
    )
    layout = tables_of(config)
    assert layout is not None
    assert layout.num_cells == 2 * len(layout.tables[0].cells)
    outcomes = {"outcome": np.array(["cleared", "strange"])}
    assert layout.codes(outcomes, "east").ravel().tolist() == [0, 6]
    assert layout.codes(outcomes, "south").ravel().tolist() == [7, 13]
    with pytest.raises(ConfigError):
        layout.codes(outcomes, "elsewhere")
    with pytest.raises(ConfigError, match="regions of all clinics"):
        run_statistics(config)


@pytest.mark.parametrize(
    "words",
    [
        "statistics.tables=[diagnosis,diagnosis]",
        "statistics.tables=[patient_id]",
        "statistics.tables=[diagnosis:outcome,outcome:diagnosis]",
        "statistics.tables=[diagnosis:outcome:sex]",
        "statistics.regions.coast=[east]",
        "data.purpose=research",
    ],
)
def test_impossible_settings_are_refused(words: str) -> None:
    with pytest.raises(ConfigError):
        statistics_config("statistics", [words])


def test_the_page_of_the_docs_tells_the_noise_that_is_planned() -> None:
    page = (Path(__file__).parents[2] / "docs/statistics.md").read_text()
    lines = page.split("| epsilon | 1 table |")[1].split("\n\n")[0].splitlines()[2:]
    names = ("diagnosis", "skin_tone", "age_band", "sex", "outcome", "treatment")
    tables = (*names, "diagnosis:sex", "diagnosis:outcome", "sex:outcome", "sex:treatment")
    assert len(lines) == 3
    for line in lines:
        epsilon, *told = (float(cell) for cell in line.strip("| ").split("|"))
        for number, width in zip((1, 2, 5, 10), told, strict=True):
            config = statistics_config(
                "statistics", [f"privacy.epsilon={epsilon}"], tables=tables[:number]
            )
            assert round(preview(config, 6).half_width) == width


@pytest.mark.parametrize(
    ("experiment", "name"), [("statistics", "quickstart"), ("quickstart", "statistics")]
)
def test_no_training_and_no_counts_pass_under_the_name_of_the_other(
    experiment: str, name: str
) -> None:
    with pytest.raises(ConfigError, match="the name statistics where patients are counted"):
        load_config(experiment, [f"name={name}"])


def test_another_selection_of_patients_is_another_plan() -> None:
    said = (["data.root=here"], ["data.root=there"], ["data.where.sex=[female]"])
    plans = [plan_digest(statistics_config("statistics", each)) for each in said]
    assert plans[0] == plans[1] != plans[2]


def test_the_store_has_a_note_and_the_page_and_no_count_as_a_metric(counted, tmp_path) -> None:
    found, _ = counted
    settings = TrackingSettings()
    run = track_statistics(settings, tmp_path, found.record, found.folder)
    with opened_store(settings, tmp_path) as (client, _):
        kept = client.get_run(run)
        files = {each.path for each in client.list_artifacts(run, "statistics")}
    assert kept.data.metrics == {}
    assert files == {f"statistics/statistics.{kind}" for kind in ("html", "csv", "json")}
    note = kept.data.tags["mlflow.note.content"]
    assert "epsilon 1.00" in note
    assert "SIMULATED" in note
    assert "| diagnosis and treatment | all clinics |" in note
    assert found.result["artifacts"]["mlflow_run"] is None
