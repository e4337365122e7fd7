"""`skinml clinic consent`: recorded, withdrawn, shown, imported; no id where one could stay."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from skinml.cli.clinic_consent import app
from skinml.clinic.consents import import_consents, log_changes
from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.errors import (
    ConfigError,
    DataError,
    EnvironmentProblem,
    InputError,
    PolicyError,
)
from skinml.stewardship.consent import Consent
from skinml.stewardship.policy import parse_policy
from tests.policy_text import policy_text

PATIENT = "Mustermann-4711"
TODAY = datetime.now(UTC).date()
POLICY = policy_text(
    roles="{steward: STEWARD, clinician: [], operator: OPERATOR, auditor: AUDITOR}"
)
FORM = ("--purpose", "research", "--form-version", "v2", "--how", "paper", "--given-by", "patient")
HEADER = "patient_id,purposes,data,valid_from,valid_until,form_version,how,given_by,withdrawn\n"
Consents = Callable[..., Result]


def make(place: Path, *, steward: str = '["*"]', operator: str = "[]", auditor: str = "[]") -> Path:
    text = POLICY.replace("STEWARD", steward).replace("OPERATOR", operator)
    policy = parse_policy(text.replace("AUDITOR", auditor).encode())
    anchors = place / "anchors"
    create_folder(place / "north", name="north", policy=policy, anchors=anchors, virtual=True)
    return place / "north"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path)


@pytest.fixture
def consents(folder: Path) -> Consents:
    """The command with a patient's id piped in; a failure of skinml's own is raised."""

    def invoke(*words: str, patient: str = PATIENT) -> Result:
        arguments = [*words, "--folder", str(folder)]
        result = CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments, input=f"{patient}\n")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def told(result: Result) -> dict[str, Any]:
    found = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def events(folder: Path) -> list[str]:
    return [entry.event for entry in open_folder(folder).audit.entries()]


def covered(folder: Path, patient: str, purpose: str) -> str:
    return str(open_folder(folder).consents.verdicts([patient], purpose, TODAY)[0])


def test_a_consent_is_recorded_and_withdrawn_but_care_stays(
    consents: Consents, folder: Path
) -> None:
    done = told(consents("add", *FORM, "--purpose", "care", "--json"))
    assert done["recorded"] == "consent"
    assert (done["purposes"]["research"], done["purposes"]["care"]) == ("covered", "covered")
    assert covered(folder, PATIENT, "research") == ""
    done = told(consents("withdraw", "--json"))
    assert done["purposes"]["research"] == "withdrawn"
    assert done["purposes"]["care"] == "covered"
    assert covered(folder, PATIENT, "research") == "withdrawn"


def test_one_purpose_is_withdrawn(consents: Consents, folder: Path) -> None:
    consents("add", *FORM, "--purpose", "federated_training")
    consents("withdraw", "--purpose", "federated_training")
    assert covered(folder, PATIENT, "federated_training") == "withdrawn"
    assert covered(folder, PATIENT, "research") == ""
    with pytest.raises(ConfigError, match="purposes among"):
        consents("withdraw", "--purpose", "marketing")


def test_a_mistyped_id_withdraws_nothing(consents: Consents, folder: Path) -> None:
    consents("add", *FORM)
    with pytest.raises(DataError, match="nothing was recorded") as refusal:
        consents("withdraw", patient="Mustermann-4712")
    assert "Mustermann" not in str(refusal.value)
    consents("withdraw", "--even-if-unknown", patient="in-a-research-dataset")
    assert covered(folder, "in-a-research-dataset", "research") == "withdrawn"


def test_a_form_from_before_the_withdrawal_is_refused(consents: Consents, folder: Path) -> None:
    consents("add", *FORM, "--valid-from", (TODAY - timedelta(9)).isoformat())
    consents("withdraw")
    early = (TODAY - timedelta(1)).isoformat()
    with pytest.raises(DataError, match="an earlier valid_from for research"):
        consents("add", *FORM, "--valid-from", early)
    consents("add", *FORM)
    assert covered(folder, PATIENT, "research") == ""


def test_what_a_form_lacks_is_told_together_and_nothing_recorded(
    consents: Consents, folder: Path
) -> None:
    with pytest.raises(ConfigError) as refusal:
        consents("add", "--form-version", "told by Mustermann", "--valid-until", "31.12.2030")
    assert [line.split(":")[0] for line in refusal.value.details] == [
        "valid_until",
        "purposes",
        "form_version",
        "how",
        "given_by",
    ]
    assert "Mustermann" not in str(refusal.value)
    assert open_folder(folder).consents.mark().count == 0


@pytest.mark.parametrize("patient", ["", "   ", "x" * 2000])
def test_an_id_that_is_none_is_refused(consents: Consents, patient: str) -> None:
    with pytest.raises(DataError, match="first line of standard input"):
        consents("add", *FORM, patient=patient)


def test_no_command_takes_an_id_as_an_argument(consents: Consents) -> None:
    for words in (
        ("add", PATIENT),
        ("add", *FORM, PATIENT),
        ("withdraw", PATIENT),
        ("show", "--patient-from-stdin", PATIENT),
        ("expiring", PATIENT),
        ("import", "list.csv", PATIENT),
    ):
        with pytest.raises(InputError, match="no further argument") as refusal:
            consents(*words)
        assert PATIENT not in str(refusal.value)


def test_show_counts_and_shows_one_patient(consents: Consents) -> None:
    consents("add", *FORM)
    consents("add", *FORM, patient="other")
    consents("withdraw", patient="other")
    table = told(consents("show", "--json"))
    assert table["num_patients"] == 2
    assert table["purposes"]["research"] == {"covered": 1, "withdrawn": 1}
    one = told(consents("show", "--patient-from-stdin", "--json"))
    assert one["purposes"]["research"] == "covered"
    assert one["changes"][0]["form_version"] == "v2"
    text = consents("show").stdout + consents("show", "--patient-from-stdin").stdout
    assert "stay in the clinic" in text
    assert "form v2, paper, by patient" in " ".join(text.split())
    assert PATIENT not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_list_is_imported_once_or_not_at_all(
    consents: Consents, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "Mustermann.csv"
    row = f"{PATIENT},care;research,,2026-01-15,,v2,paper,patient,\n"
    file.write_text(HEADER + row + "q,research,,soon,,v2,paper,patient,\n")
    with pytest.raises(DataError, match="row 3: valid_from") as refusal:
        consents("import", str(file))
    assert "Mustermann" not in str(refusal.value)
    assert open_folder(folder).consents.mark().count == 0
    file.write_text(HEADER + row + "q,research,,2026-01-15,,v2,paper,parent,\n" + row)
    assert told(consents("import", str(file), "--json")) == {"imported": 3, "patients": 2}
    assert told(consents("import", str(file), "--json")) == {"imported": 0, "patients": 0}
    assert "imported before" in consents("import", str(file)).stdout
    assert covered(folder, "q", "research") == ""
    with pytest.raises(EnvironmentProblem):
        consents("import", str(tmp_path / "none.csv"))


def test_what_ends_soon_is_counted_and_named_on_request(consents: Consents, folder: Path) -> None:
    end = (TODAY + timedelta(20)).isoformat()
    consents("add", *FORM, "--valid-until", end)
    consents("add", *FORM, "--valid-until", end, patient="erased since")
    consents("add", *FORM, patient="without end")
    open_folder(folder).vault.erase(["erased since"])
    found = told(consents("expiring", "--json"))
    assert (found["num_patients"], found["purposes"]) == (2, {"research": 2})
    assert found["patients"] == []
    assert told(consents("expiring", "--within-days", "19", "--json"))["num_patients"] == 0
    named = told(consents("expiring", "--named", "--json"))["patients"]
    assert sorted(str(each["patient"]) for each in named) == [PATIENT, "None"]
    assert {each["until"] for each in named} == {end}
    assert PATIENT in consents("expiring", "--named").stdout
    assert PATIENT not in consents("expiring").stdout


def test_each_change_is_in_the_audit_log_once(
    consents: Consents, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "list.csv"
    file.write_text(HEADER + "q,research,,2026-01-15,,v2,paper,patient,2026-02-01\n")
    consents("add", *FORM)
    consents("import", str(file))
    consents("import", str(file))
    consents("withdraw")
    consents("show", "--patient-from-stdin")
    opened = open_folder(folder)
    assert events(folder)[1:] == [
        "consent granted",
        "consents imported",
        "consent withdrawn",
        "access",
    ]
    granted, imported, withdrawn, _ = opened.audit.entries()[1:]
    assert granted.fields["form"] == "v2"
    assert (imported.fields["rows"], imported.fields["patients"]) == (1, 1)
    assert withdrawn.fields["patient"] == granted.fields["patient"]
    assert "care" not in withdrawn.fields["purposes"]


def test_what_a_crash_kept_from_the_log_is_written_at_the_next_change(
    consents: Consents, folder: Path
) -> None:
    opened, at = open_folder(folder), datetime(2026, 1, 20, 8, 0, tzinfo=UTC)
    given = Consent(
        purposes=("care",), valid_from=at.date(), form_version="v1", how="spoken", given_by="parent"
    )
    opened.consents.grant("q", given, now=at, actor="ada")
    consents("add", *FORM)
    found = open_folder(folder).audit.entries()[1:]
    assert (found[0].event, found[0].actor) == ("consent granted", "ada")
    assert found[0].at == "2026-01-20T08:00:00+00:00"
    assert len(found) == 2
    assert log_changes(open_folder(folder)) == 0


def test_the_folder_names_no_patient(consents: Consents, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"{HEADER}{PATIENT},research,,2026-01-15,,v3,paper,patient,\n")
    consents("import", str(file))
    consents("add", *FORM)
    consents("withdraw")
    consents("show", "--patient-from-stdin")
    for path in (path for place in (folder, tmp_path / "anchors") for path in place.rglob("*")):
        assert "Mustermann" not in path.name
        if path.is_file():
            assert b"Mustermann" not in path.read_bytes()


@pytest.mark.parametrize(
    ("roles", "may"),
    [
        ({"steward": "[nobody-here]", "auditor": '["*"]'}, {"show"}),
        ({"steward": "[nobody-here]", "operator": '["*"]'}, {"show"}),
        ({"steward": "[nobody-here]"}, set()),
    ],
)
def test_roles_bound_what_may_be_done(tmp_path: Path, roles: dict[str, str], may: set[str]) -> None:
    folder = make(tmp_path, **roles)
    refused = 0
    for words in (
        ("show",),
        ("show", "--patient-from-stdin"),
        ("expiring", "--named"),
        ("withdraw", "--even-if-unknown"),
        ("add", *FORM),
    ):
        invoked = CliRunner().invoke(app, [*words, "--folder", str(folder)], input="p\n")
        if len(words) == 1 and words[0] in may:
            assert invoked.exit_code == 0
            continue
        assert isinstance(invoked.exception, PolicyError)
        refused += 1
    assert events(folder).count("refusal") == refused
    assert open_folder(folder).consents.mark().count == 0


def test_in_a_terminal_what_is_missing_is_asked_for(folder: Path) -> None:
    answers = [PATIENT, "reserch", "care, research", "", "", "", "v7", "spoken", "guardian"]
    program = "from skinml.cli.clinic_consent import app; app()"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", program, "add", "--folder", str(folder), "--json"]
    running = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    questions = _converse(ours, answers)
    out, _ = running.communicate(timeout=60)
    os.close(ours)
    assert running.returncode == 0, questions
    assert "must be of care, research" in " ".join(questions.split())  # at once, and asked again
    assert json.loads(out.splitlines()[-1])["purposes"]["research"] == "covered"
    (change,) = open_folder(folder).consents.state_of(PATIENT).changes
    assert isinstance(change.entry, Consent)
    assert (change.entry.form_version, change.entry.given_by) == ("v7", "guardian")
    assert (change.entry.valid_from, change.entry.valid_until) == (TODAY, None)


def _converse(terminal: int, answers: list[str]) -> str:
    """Answer each question when it stands there; every one of them ends in ': '."""
    said, left, deadline = "", list(answers), time.monotonic() + 60
    while left and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            said += os.read(terminal, 4096).decode()
        if said.endswith(": "):
            os.write(terminal, f"{left.pop(0)}\n".encode())
            said += "|"
    return said


@pytest.mark.slow
def test_ten_times_the_patients_take_about_ten_times_as_long(folder: Path, tmp_path: Path) -> None:
    took, known = [], 0
    for count in (10_000, 100_000):
        each = (f"P{count}-{number}" for number in range(count))
        rows = [f"{name},research,,2026-01-15,,v2,paper,patient,\n" for name in each]
        file = tmp_path / f"{count}.csv"
        file.write_text(HEADER + "".join(rows))
        begin = time.process_time()
        import_consents(open_folder(folder), file, now=datetime.now(UTC))
        found: ClinicFolder = open_folder(folder)
        known += count
        assert found.consents.counts(TODAY)["research"] == known
        took.append(time.process_time() - begin)
    assert took[1] < 30 * took[0]
