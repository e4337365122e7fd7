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
    agreed = {what for what, each in looked_at.items() if each["outcome"] == "agrees"}
    assert agreed >= {
        f"{ANEW} from the clinics' predictions",
        "mitigation after training computed anew",
        "privacy figures computed anew from the ledgers",
        "who took part, against the ledgers",
    }
    assert {each["outcome"] for each in looked_at.values()} == {"agrees", "not checked"}
    assert {what.split(",")[0] for what in looked_at.keys() - agreed} == {
        "yardsticks",
        "the threshold",
    }
    assert "record.json, which the run keeps beside its report" in looked_at


def test_a_report_away_from_its_clinics_says_what_was_not_checked(skinml, simulated, tmp_path):
    place, made = simulated
    folder = shutil.copytree(place / "runs" / made.json["run"], tmp_path / "copy")
    found = skinml("report", "verify", folder, "--work-dir", tmp_path, "--json")
    assert found.code == 0, found.told
    anew = checks(found)[f"{ANEW} from the clinics' predictions"]
    assert anew["outcome"] == "not checked"
    assert "--work-dir" in anew["detail"]


def forged(made, place: Path, into: Path, change) -> Path:
    """Copy a run's folder and change its record the same way wherever it stands."""
    folder = shutil.copytree(place / "runs" / made.json["run"], into / "copy")
    for name in ("report.json", "record.json"):
        document = json.loads((folder / name).read_text())
        change(document.get("record", document))
        (folder / name).write_text(json.dumps(document))
    return folder


def less_epsilon(record):
    record["guarantee"]["epsilon"] -= 0.5


def less_total(record):
    (clinic, *_) = sorted(record["guarantee"]["clinics"])
    record["guarantee"]["clinics"][clinic]["total_epsilon"] -= 0.5


def another_attempt(record):
    record["participation"][3]["attempt"] += 7


def fewer_entries(record):
    (clinic, *_) = sorted(record["guarantee"]["clinics"])
    record["guarantee"]["clinics"][clinic]["num_read"] -= 1


def another_threshold(record):
    record["threshold"] = 0.9 - record["threshold"]


def counted_instead(record):
    record["released_counts"] = [[[1.0]]]


def not_simulated(record):
    record["guarantee"]["simulated"] = False


def nobody_missing(record):
    """Leave a clinic out of the last sum and call that complete."""
    left_out = record["participation"][-1]["took_part"].pop()
    record["participation"][-1]["expected"].remove(left_out)


def better_threshold(record):
    record["mitigation"]["thresholds"][0]["threshold"] = 0.123


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        (less_epsilon, "privacy figures computed anew from the ledgers", "epsilon"),
        (less_total, "privacy figures computed anew from the ledgers", "total_epsilon"),
        (another_attempt, "who took part, against the ledgers", "was not charged for round 4,"),
        (fewer_entries, "privacy figures computed anew from the ledgers", "num_read"),
        (not_simulated, "privacy figures computed anew from the ledgers", "simulated"),
        (another_threshold, "settings and threshold, against the model's own", "threshold"),
        (counted_instead, "figures computed anew", "do not go with"),
        (nobody_missing, "who took part, against the ledgers", "others were asked in round"),
        (
            better_threshold,
            "mitigation after training computed anew",
            "thresholds[0].threshold",
        ),
    ],
)
def test_a_number_that_was_changed_wherever_it_stands_differs_from_what_it_was_made_from(
    skinml, simulated, tmp_path, change, what, where
):
    place, made = simulated
    found = skinml(
        "report", "verify", forged(made, place, tmp_path, change), "--work-dir", place, "--json"
    )
    assert found.code == 5, found.told
    (line,) = (each for each in found.json["error"]["details"] if each.startswith(what))
    assert where in line


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
        assert gate_tags(tmp_path, made)["skinml.gate"] == "refused"
        assert "0.9999" in gate_tags(tmp_path, made)["skinml.gate_reason"]
    else:
        assert found.code == 0, found.told
        assert found.json["approved"]["version"] == "1"
        assert aliases(tmp_path, made) == {"approved": "1", "candidate": "1"}
        assert gate_tags(tmp_path, made)["skinml.gate"] == "passed"


def gate_tags(place: Path, made) -> dict[str, str]:
    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    return dict(client.get_run(made.json["artifacts"]["mlflow_run"]).data.tags)


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
