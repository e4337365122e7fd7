"""Runs in Python are those of the command line."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import skinml
from skinml.clinic.folder import create_folder
from skinml.config import load_config
from skinml.errors import ConfigError, DataError, PolicyError
from skinml.experiments.api import overrides_of
from skinml.experiments.kept_predictions import kept_predictions
from skinml.experiments.report_anew import clinic_folders
from skinml.stewardship.policy import parse_policy
from tests.policy_text import policy_text


def test_importing_skinml_loads_no_room() -> None:
    code = "import sys, skinml; print(sorted({'torch', 'mlflow', 'numpy'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changes", "path", "value"),
    [
        ({"seed": 7}, ("seed",), 7),
        ({"privacy.epsilon": 0.5}, ("privacy", "epsilon"), 0.5),
        ({"privacy": {"epsilon": 2.5}}, ("privacy", "epsilon"), 2.5),
        ({"privacy": "local"}, ("privacy", "trust"), "local"),
        ({"tracking": {"enabled": False}}, ("tracking", "enabled"), False),
        ({"data.split_key": "it's 1"}, ("data", "split_key"), "it's 1"),
        ({"data.split_key": "17"}, ("data", "split_key"), "17"),
        ({"fairness.groups": ["sex"]}, ("fairness", "groups"), ("sex",)),
        (
            {"fairness.expected": {"age_band": ["0-17", "18+"]}},
            ("fairness", "expected"),
            {"age_band": ("0-17", "18+")},
        ),
    ],
)
def test_python_values_reach_the_config_as_they_are(changes, path, value) -> None:
    found = load_config("quickstart", overrides_of(changes))
    for name in path:
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_what_no_config_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed=object"):
        skinml.run("quickstart", seed=object())
    with pytest.raises(ConfigError, match="epsilonn"):
        skinml.run("quickstart", {"privacy.epsilonn": 1})


def test_a_finished_run_opens_with_its_figures_and_its_page(simulated) -> None:
    place, made = simulated
    result = skinml.open_run(made.json["run"], work_dir=place)
    assert result.run == made.json["run"]
    assert result.epsilon == made.json["privacy"]["epsilon"]
    figures = result.figures.set_index(["attribute", "figure"])
    assert figures.loc[("overall", "auroc"), "value"] == made.json["metrics"]["auroc"]
    framed = result.report()._repr_html_()
    assert framed.startswith('<iframe sandbox=""')
    assert made.json["run"] in framed
    assert str(result.report()) == made.json["artifacts"]["report"]


def test_a_runs_card_tells_what_was_found_and_at_what_epsilon(simulated) -> None:
    place, made = simulated
    card = skinml.open_run(made.json["run"], work_dir=place)._repr_html_()
    assert f"{made.json['metrics']['auroc']:.3f}" in card
    assert "Epsilon" in card
    assert "SIMULATED" in card
    assert "<script" not in card


def test_predictions_of_a_simulation_carry_no_id_and_give_its_figures(simulated) -> None:
    from sklearn.metrics import roc_auc_score

    place, made = simulated
    found = skinml.open_run(made.json["run"], work_dir=place).predictions
    assert len(found) == made.json["metrics"]["n_images"]
    assert found["patient"].nunique() == made.json["metrics"]["n_patients"]
    assert all(re.fullmatch(r"[\w-]+-\d+", each) for each in found["patient"])
    again = skinml.open_run(made.json["run"], work_dir=place).predictions
    # Other numbers, and the same items of one patient.
    assert (found["patient"] != again["patient"]).any()
    pairs = set(zip(found["patient"], again["patient"], strict=True))
    assert len(pairs) == found["patient"].nunique() == again["patient"].nunique()
    auroc = roc_auc_score(found["label"] == "malignant", found["score of malignant"])
    assert auroc == pytest.approx(made.json["metrics"]["auroc"])


def test_predictions_away_from_the_clinics_are_refused(simulated, tmp_path) -> None:
    place, made = simulated
    result = skinml.open_run(str(place / "runs" / made.json["run"]), work_dir=tmp_path)
    with pytest.raises(DataError, match="Use `figures`"):
        result.predictions  # noqa: B018 - reading it is what is refused


def test_predictions_are_not_read_from_a_real_clinic(simulated, tmp_path) -> None:
    place, made = simulated
    result = skinml.open_run(str(place / "runs" / made.json["run"]), work_dir=tmp_path)
    for name in result.record.guarantee.clinics:
        policy = parse_policy(policy_text(clinic=name).encode())
        real = tmp_path / "clinics" / name
        create_folder(real, name=name, policy=policy, anchors=tmp_path / "anchors")
    with pytest.raises(PolicyError, match="real clinic"):
        result.predictions  # noqa: B018 - reading it is what is refused
    with pytest.raises(PolicyError, match="real clinic"):
        clinic_folders(result.record, [tmp_path / "clinics"])
    with pytest.raises(PolicyError, match="real clinic"):
        kept_predictions(result.record, [tmp_path / "clinics"])


def test_a_run_in_python_is_the_run_of_the_command_line(small, centralised, tmp_path) -> None:
    place, made = centralised
    (tmp_path / "cohorts").symlink_to(place / "cohorts")
    changes = dict(word.split("=", 1) for word in small)
    result = skinml.run("quickstart", changes, federation="centralised", work_dir=tmp_path)
    typed = skinml.open_run(made.json["run"], work_dir=place)
    assert result.record.config | {"work_dir": ""} == typed.record.config | {"work_dir": ""}
    assert result.record.overall.num_patients == typed.record.overall.num_patients
    assert result.epsilon == pytest.approx(typed.epsilon)
    assert (result.folder / "report.html").is_file()
