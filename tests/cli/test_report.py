"""Reports of real runs: every number computed anew, and the alias that only the gate gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

ANEW = "figures computed anew"


def checks(outcome):
    return {each["what"]: each for each in outcome.json["checks"]}


def test_the_figures_of_a_simulation_are_computed_anew_from_its_clinics(skinml, simulated):
    place, made = simulated
    found = skinml("report", "verify", made.json["run"], "--work-dir", place, "--json")
    assert found.code == 0, found.told
    looked_at = checks(found)
    assert {each["outcome"] for each in looked_at.values()} == {"agrees"}
    assert f"{ANEW} from the clinics' predictions" in looked_at
    assert "record.json, which the run keeps beside its report" in looked_at


def test_a_report_away_from_its_clinics_says_what_was_not_checked(skinml, simulated, tmp_path):
    place, made = simulated
    folder = shutil.copytree(place / "runs" / made.json["run"], tmp_path / "copy")
    found = skinml("report", "verify", folder, "--work-dir", tmp_path, "--json")
    assert found.code == 0, found.told
    anew = checks(found)[f"{ANEW} from the clinics' predictions"]
    assert anew["outcome"] == "not checked"
    assert "--work-dir" in anew["detail"]


def test_a_run_without_criteria_is_not_approved(skinml, simulated):
    place, made = simulated
    found = skinml("report", "--gate", made.json["run"], "--work-dir", place, "--approve", "--json")
    assert found.code == 3
    assert "fairness.acceptance" in found.json["error"]["do"]
    assert aliases(place, made) == {}


def aliases(place: Path, made) -> dict[str, str]:
    uri = f"sqlite:///{place / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    (version,) = client.search_model_versions(f"run_id='{made.json['artifacts']['mlflow_run']}'")
    found = client.get_registered_model(version.name).aliases
    return {alias: str(number) for alias, number in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0.05, 0.9999])
def test_the_alias_approved_is_given_through_the_gate_alone(
    skinml, small, centralised, tmp_path, bound
):
    (tmp_path / "cohorts").symlink_to(centralised[0] / "cohorts")
    criterion = f"{{figure: auroc, at_least: {bound}}}"
    words = ("federation=centralised", f"fairness.acceptance=[{criterion}]")
    place = (f"work_dir={tmp_path}", "tracking.enabled=true", "--json")
    made = skinml("run", "quickstart", *small, *words, *place)
    assert made.code == 0, made.told
    assert aliases(tmp_path, made) == {}
    run = made.json["run"]
    found = skinml("report", "--gate", run, "--approve", "--work-dir", tmp_path, "--json")
    if bound > 0.9:
        assert found.code == 3
        assert "auroc of everybody at least 0.9999" in found.json["error"]["details"][0]
        assert aliases(tmp_path, made) == {}
    else:
        assert found.code == 0, found.told
        assert found.json["approved"]["version"] == "1"
        assert aliases(tmp_path, made) == {"approved": "1"}


@pytest.mark.slow
def test_figures_from_noised_counts_are_computed_anew_from_those_counts(
    skinml, small, centralised, tmp_path
):
    (tmp_path / "cohorts").symlink_to(centralised[0] / "cohorts")
    words = ("fairness.evaluation=dp_counts", f"work_dir={tmp_path}", "--json")
    made = skinml("run", "quickstart", *small, *words)
    assert made.code == 0, made.told
    run = made.json["run"]
    found = skinml("report", "verify", run, "--work-dir", tmp_path, "--json")
    assert found.code == 0, found.told
    anew = checks(found)[f"{ANEW} from the released counts"]
    assert anew["outcome"] == "agrees"
    path = tmp_path / "runs" / run / "report.json"
    document = json.loads(path.read_text())
    document["record"]["released_counts"][0][1][-1] += 1e9
    path.write_text(json.dumps(document))
    assert skinml("report", "verify", run, "--work-dir", tmp_path).code == 5
