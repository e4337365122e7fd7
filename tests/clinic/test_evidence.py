"""The evidence: from the clinic's own files, no patient in it, true of this policy, readable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from skinml.cli.clinic import app
from skinml.cli.main import main
from skinml.clinic.articles import article_lines
from skinml.clinic.evidence import DOCUMENTS, write_evidence
from skinml.clinic.evidence_words import OPEN, greatest_guess
from skinml.clinic.facts import facts_of
from skinml.clinic.folder import ClinicFolder
from skinml.errors import ConfigError, PolicyError
from skinml.privacy.events import GaussianEvent
from skinml.stewardship.pseudonyms import pseudonym
from tests.clinic.rights import NOW, enrol, log_run, make, release

PATIENT, OTHER = "Mustermann-4711", "Beispiel-4712"
GRADIENT = ("gradient", "training", "train", GaussianEvent(6.0))
LAWS = {"GDPR", "HIPAA", "DPDP Act 2023"}
NAMED = {
    "GDPR": [
        "5(1)",
        "6",
        "7",
        "9",
        "13",
        "14",
        "15",
        "17",
        "18",
        "20",
        "21",
        "22",
        "25",
        "30",
        "32",
        "33",
        "35",
    ],
    "HIPAA": ("164.312", "164.514"),
    "DPDP Act 2023": ("5", "6", "8", "11", "12", "13"),
}


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path, coordinators="[simulation, study-centre]")
    enrol(folder, PATIENT, OTHER)
    release(folder, "run-1", 1, [GRADIENT], {"train": [PATIENT, OTHER]})
    log_run(folder, "run-1", "derm_tone")
    return folder


@pytest.fixture
def written(clinic: ClinicFolder, tmp_path: Path) -> Path:
    write_evidence(clinic, tmp_path / "evidence", now=NOW, contact="the desk, 030 1234567")
    return tmp_path / "evidence"


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_each_document_is_there_to_edit_and_to_print_and_names_no_patient(
    clinic: ClinicFolder, written: Path
) -> None:
    found = texts(written)
    assert set(found) == {f"{n}.{e}" for n in DOCUMENTS for e in ("md", "html")} | {"evidence.json"}
    for name, text in found.items():
        for patient in (PATIENT, OTHER):
            assert patient not in text, name
            assert pseudonym(clinic.key, patient) not in text, name
        assert "<script" not in text
        assert "://" not in text, name  # nothing is fetched from elsewhere
    (told,) = (entry.fields for entry in clinic.audit.entries() if entry.event == "export")
    assert told == {"kind": "evidence", "count": len(DOCUMENTS)}


def test_the_documents_say_what_the_files_say(written: Path) -> None:
    found = texts(written)
    assert "the desk, 030 1234567" in found["notice.md"]
    assert "study-centre" in found["notice.md"]
    assert "derm_tone" in found["processing.md"]
    # One release of mu = 1/6: the best guess is right Phi(1/12) of the time, 53.3 of 100.
    assert "at most 54 times in 100" in re.sub(r"\s+", " ", found["notice.md"])
    assert "at most 54 times in 100" in re.sub(r"\s+", " ", found["impact.md"])
    assert OPEN in found["impact.md"]


def test_every_article_that_was_asked_for_has_a_line(clinic: ClinicFolder) -> None:
    lines = article_lines(facts_of(clinic, NOW))
    assert {line.law for line in lines} == LAWS
    for law, articles in NAMED.items():
        told = [line.article for line in lines if line.law == law]
        for article in articles:
            pattern = rf"(^|, ){re.escape(article)}(\D|$)"
            assert any(re.search(pattern, place) for place in told), (law, article)


def test_what_skinml_does_names_a_command_that_there_is(
    clinic: ClinicFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = article_lines(facts_of(clinic, NOW))
    assert all(line.see for line in lines if line.status == "done by skinml")
    for command in {line.see for line in lines if line.see}:
        assert main([*command.split()[1:], "--help"]) == 0, command
        assert f"Usage: {command}" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_every_command_of_the_documents_exists(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {
        found
        for text in texts(written).values()
        for found in re.findall(r"`(skinml [a-z ]+?)`", text)
    }
    assert len(commands) > 8
    for command in commands:
        assert main([*command.split()[1:], "--help"]) == 0, command
        assert f"Usage: {command}" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_what_depends_on_the_policy_changes_with_it(tmp_path: Path) -> None:
    kept = "{images_days: 730, features_days: 9, predictions_days: 9, log_days: 9}"
    strict = make(tmp_path / "a", retention=kept)
    loose = make(tmp_path / "b")
    for folder, status in ((strict, "done by skinml"), (loose, "done by the clinic")):
        lines = article_lines(facts_of(folder, NOW))
        (line,) = (each for each in lines if each.article == "5(1)(e)")
        assert line.status == status
    write_evidence(strict, tmp_path / "strict", now=NOW)
    assert "at most 2 years" in (tmp_path / "strict" / "notice.md").read_text()
    write_evidence(loose, tmp_path / "loose", now=NOW)
    assert f"{OPEN} we have set no end" in (tmp_path / "loose" / "notice.md").read_text()


def test_a_trust_model_without_noise_is_told_to_patients_and_to_the_assessment(
    tmp_path: Path,
) -> None:
    for name, trust, told in (("a", "[local]", False), ("b", "[none, local]", True)):
        folder = make(tmp_path / name, clinic=f"north\ntrust: {trust}")
        write_evidence(folder, tmp_path / f"e-{name}", now=NOW)
        notice = (tmp_path / f"e-{name}" / "notice.md").read_text()
        impact = (tmp_path / f"e-{name}" / "impact.md").read_text()
        assert ("also allow training without these chance numbers" in notice) == told
        assert ("sees more than noisy sums" in impact) == told


def test_a_licence_that_needs_no_consent_is_told_to_patients_and_to_the_assessment(
    tmp_path: Path,
) -> None:
    for name, licences, told in (("a", "[]", False), ("b", "[CC0]", True)):
        folder = make(tmp_path / name, licences=licences)
        write_evidence(folder, tmp_path / f"e-{name}", now=NOW)
        notice = (tmp_path / f"e-{name}" / "notice.md").read_text()
        impact = (tmp_path / f"e-{name}" / "impact.md").read_text()
        assert ("without a question to you: CC0." in notice) == told
        assert ("Without a question to the patient" in impact) == told


def test_the_documents_name_what_is_kept_whatever_the_policy_lists(written: Path) -> None:
    found = {name: re.sub(r"\s+", " ", text) for name, text in texts(written).items()}
    assert "when the photograph was taken" in found["notice.md"]
    for name in ("processing.md", "impact.md"):
        assert "day of the photograph" in found[name], name
    for false in ("hide whether", "not used any more", "epsilon", "protected totals"):
        assert false not in found["notice.md"], false


def test_the_bound_of_a_guess_is_that_of_randomised_response() -> None:
    """For pure epsilon, randomised response attains e^epsilon / (1 + e^epsilon)."""
    for epsilon, right in ((0.1, 53), (1.0, 74), (3.0, 96), (5.0, 100)):
        assert greatest_guess(epsilon, 0.0) == right
    assert greatest_guess(1.0, 0.1) > greatest_guess(1.0, 0.0)
    assert greatest_guess(800.0, 1e-5) == 100


def test_what_somebody_filled_in_is_not_written_over(clinic: ClinicFolder, written: Path) -> None:
    (written / "notice.md").write_text("filled in")
    with pytest.raises(ConfigError, match="not there yet, or is empty"):
        write_evidence(clinic, written, now=NOW)
    assert (written / "notice.md").read_text() == "filled in"


@pytest.mark.parametrize("contact", ["x" * 201, "two\nlines"])
def test_a_contact_is_one_short_line(clinic: ClinicFolder, tmp_path: Path, contact: str) -> None:
    with pytest.raises(ConfigError, match="one line"):
        write_evidence(clinic, tmp_path / "new", now=NOW, contact=contact)
    assert not (tmp_path / "new").exists()


def test_markup_in_a_contact_is_text(clinic: ClinicFolder, tmp_path: Path) -> None:
    odd = "<img src=x onerror=alert(1)> [call](javascript:alert(1)) | x"
    write_evidence(clinic, tmp_path / "new", now=NOW, contact=odd)
    for name in ("notice.html", "processing.html"):
        page = (tmp_path / "new" / name).read_text()
        assert "<img" not in page
        assert "href=" not in page


def test_only_who_may_export_the_log_gets_it(tmp_path: Path) -> None:
    roles = '{steward: [nobody], clinician: ["*"], operator: [], auditor: []}'
    folder = make(tmp_path, roles=roles)
    with pytest.raises(PolicyError):
        write_evidence(folder, tmp_path / "new", now=NOW)


def run_command(clinic: ClinicFolder, *words: str) -> Result:
    arguments = ["evidence", "--folder", str(clinic.path), *words]
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments)


def test_the_command_says_what_is_left_to_people(clinic: ClinicFolder, tmp_path: Path) -> None:
    shown = run_command(clinic, "--to", str(tmp_path / "one"))
    assert shown.exit_code == 0
    assert "places are left to fill in" in re.sub(r"\s+", " ", shown.stdout)
    values = json.loads(run_command(clinic, "--to", str(tmp_path / "two"), "--json").stdout)
    left = sum(path.read_text().count(OPEN) for path in (tmp_path / "two").glob("*.md"))
    assert values["to_fill"] == left > 20
    assert sum(values["articles"].values()) > 40


def test_the_map_is_plain_yaml_with_known_words() -> None:
    import skinml.clinic.articles as articles

    table = yaml.safe_load(articles._TABLE.read_text(encoding="utf-8"))
    assert set(table) == LAWS
    for row in (row for rows in table.values() for row in rows):
        keys = set(row) - {"see"}
        assert keys in ({"article", "rule"}, {"article", "demand", "by", "how"}), row
