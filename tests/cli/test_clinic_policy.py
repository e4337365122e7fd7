"""`skinml clinic policy`: shown, compared, changed after a question."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from skinml.clinic.folder import create_folder, open_folder
from skinml.stewardship.policy import Policy, parse_policy, policy_digest, policy_yaml
from tests.cli.conftest import COMMAND, Invoke
from tests.policy_text import policy_text

BASIS = policy_text().encode()
CHANGED = BASIS.replace(b"per_run: 3", b"per_run: 2").replace(b"clinics: 2", b"clinics: 1")
DIFFERENCE = ["max_epsilon_per_run: 3 -> 2 (stricter)", "least_clinics: 2 -> 1 (looser)"]


def make(place: Path, content: bytes = BASIS) -> Path:
    policy = parse_policy(content)
    anchors = place / "anchors"
    create_folder(place / "north", name="north", policy=policy, anchors=anchors, virtual=True)
    return place / "north"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    (tmp_path / "new.yaml").write_bytes(CHANGED)
    return tmp_path / "new.yaml"


def held(folder: Path) -> Policy:
    return open_folder(folder).policy


def answer(text: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        input=text,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
        check=False,
    )


def test_show_says_every_value_within_eighty_columns(skinml: Invoke, folder: Path):
    outcome = skinml("clinic", "policy", "show", "--folder", folder)
    assert outcome.code == 0, outcome.told
    lines = outcome.out.splitlines()
    assert lines[0] == "Policy of north"
    assert max(map(len, lines)) <= 80
    said = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in lines[1:] if line[0:1]}
    assert said["max_epsilon_per_run"] == "3"
    assert said["images_days"] == "no limit"
    assert said["clinician"] == "none"
    assert said["trust"] == "distributed, local"


def test_show_yaml_prints_a_file_that_can_be_edited_and_given_back(skinml: Invoke, folder: Path):
    outcome = skinml("clinic", "policy", "show", "--yaml", "--folder", folder)
    assert outcome.out == policy_yaml(held(folder))
    edited = folder.parent / "edited.yaml"
    edited.write_text(outcome.out.replace("least_patients: 50", "least_patients: 60"))
    told = skinml("clinic", "policy", "change", edited, "--folder", folder, "--yes", "--json")
    assert told.json["difference"] == ["least_patients: 50 -> 60 (stricter)"]


def test_show_json_is_one_object_with_the_policy(skinml: Invoke, folder: Path):
    found = skinml("clinic", "policy", "show", "--json", "--folder", folder).json
    assert found["policy"]["privacy"]["max_delta"] == 1e-5
    assert found["policy"]["privacy"]["least_noise_multiplier"] is None
    assert found["digest"] == policy_digest(held(folder))


def test_change_shows_the_difference_and_holds_from_then_on(
    skinml: Invoke, folder: Path, new: Path
):
    outcome = skinml("clinic", "policy", "change", new, "--folder", folder, "--yes")
    assert outcome.code == 0, outcome.told
    assert outcome.out.splitlines() == [*DIFFERENCE, "The new policy holds."]
    assert held(folder) == parse_policy(CHANGED)
    assert open_folder(folder).audit.entries()[-1].event == "policy changed"


def test_the_same_policy_again_changes_nothing(skinml: Invoke, folder: Path, new: Path):
    new.write_bytes(BASIS)
    outcome = skinml("clinic", "policy", "change", new, "--folder", folder, "--yes", "--json")
    assert outcome.json == {
        "changed": False,
        "difference": [],
        "originals_left": 0,
        "digest": policy_digest(held(folder)),
    }


@pytest.mark.parametrize(("text", "changed"), [("y\n", True), ("", False)])
def test_without_yes_it_asks_and_no_answer_is_no(folder: Path, new: Path, text: str, changed: bool):
    outcome = answer(text, "clinic", "policy", "change", new, "--folder", folder)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[:2] == DIFFERENCE
    assert "Put this policy in force? [y/N]" in outcome.stderr
    assert outcome.stdout.endswith("holds.\n" if changed else "Nothing was changed.\n")
    assert held(folder) == parse_policy(CHANGED if changed else BASIS)


def test_a_policy_from_a_pipe_needs_yes(skinml: Invoke, folder: Path):
    words = ("clinic", "policy", "change", "-", "--folder", folder)
    assert skinml(*words).code == 2
    outcome = answer(CHANGED.decode(), *words, "--yes")
    assert outcome.returncode == 0, outcome.stderr
    assert held(folder) == parse_policy(CHANGED)


def test_all_problems_of_a_new_policy_are_told_and_nothing_changes(
    skinml: Invoke, folder: Path, new: Path
):
    new.write_bytes(CHANGED.replace(b"least_patients", b"least_patient").replace(b"1e-5", b"2"))
    outcome = skinml("clinic", "policy", "change", new, "--folder", folder, "--yes", "--json")
    assert outcome.code == 2
    details = outcome.json["error"]["details"]
    assert [line.split(":")[0] for line in details] == [
        "privacy.max_delta",
        "least_patients",
        "least_patient",
    ]
    assert "did you mean least_patients?" in outcome.err
    assert held(folder) == parse_policy(BASIS)


def test_a_missing_file_and_a_missing_folder_are_told(skinml: Invoke, folder: Path, tmp_path: Path):
    words = ("clinic", "policy", "change", tmp_path / "none.yaml", "--folder", folder)
    assert skinml(*words, "--yes").code == 6
    assert skinml("clinic", "policy", "show", "--folder", tmp_path / "nowhere").code == 2


def test_somebody_who_is_no_steward_is_refused(skinml: Invoke, tmp_path: Path, new: Path):
    folder = make(tmp_path, BASIS.replace(b'steward: ["*"]', b"steward: [nobody-here]"))
    outcome = skinml("clinic", "policy", "change", new, "--folder", folder, "--yes")
    assert outcome.code == 3
    assert "steward" in outcome.err
    assert held(folder).least_clinics == 2
    assert open_folder(folder).audit.entries()[-1].event == "refusal"


@pytest.mark.parametrize("command", [("show",), ("change", "NEW", "--yes")])
def test_a_damaged_policy_stops_everything(
    skinml: Invoke, folder: Path, new: Path, command: tuple[str, ...]
):
    path = folder / "policy.yaml"
    path.write_text(path.read_text().replace("max_epsilon_per_run: 3", "max_epsilon_per_run: 9"))
    words = [str(new) if word == "NEW" else word for word in command]
    outcome = skinml("clinic", "policy", *words, "--folder", folder)
    assert outcome.code == 5
    assert "policy" in outcome.err


def test_an_experiment_is_compared_term_by_term(skinml: Invoke, folder: Path):
    words = ("clinic", "policy", "compare", "quickstart", "--folder", folder)
    within = skinml(*words, "--json")
    assert within.code == 0, within.told
    terms = {term["name"]: term["verdict"] for term in within.json["terms"]}
    assert within.json["within"]
    assert terms["trust"] == "within"
    assert terms["patients"] == "open"
    refused = skinml(*words, "privacy.epsilon=5", "privacy.trust=central")
    assert refused.code == 3, refused.told
    last = refused.out.splitlines()[-1]
    assert last == "Refused by the policy: trust, epsilon per run."
    assert max(map(len, refused.out.splitlines())) <= 80


def test_an_experiment_that_leaves_the_clinics_to_its_data_asks_for_their_number(
    skinml: Invoke, folder: Path
):
    words = ("clinic", "policy", "compare", "derm_diagnosis", "--folder", folder, "--json")
    outcome = skinml(*words)
    assert outcome.code == 2
    assert "--clinics" in outcome.json["error"]["do"]
    terms = {t["name"]: t for t in skinml(*words, "--clinics", 5).json["terms"]}
    assert terms["clinics"]["asked"] == "5"
