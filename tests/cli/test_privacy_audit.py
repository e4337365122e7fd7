"""`skinml privacy audit`: its table, its page, its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from skinml.cli.privacy_audit import tell
from skinml.clinic.folder import open_folder
from skinml.experiments.audit import audit
from skinml.privacy.audit.findings import ReplayFinding
from tests.cli.conftest import Invoke

# Without a promise no noise has to be searched for.
QUICKER = "privacy.trust=none"


@pytest.fixture
def words(small: tuple[str, ...], clinics_place: Path) -> tuple[object, ...]:
    return ("privacy", "audit", "quickstart", *small, f"work_dir={clinics_place}")


def test_a_table_of_eighty_columns_and_a_page(
    skinml: Invoke,
    words: tuple[object, ...],
    clinics_place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = skinml(*words, "--tiers", "inversion")
    assert outcome.code == 0, outcome.told
    *shown, page = outcome.out.splitlines()
    assert max(map(len, shown)) <= 80
    said = " ".join(outcome.out.split())
    assert "promised: epsilon 3.000 at delta 1e-05" in said
    assert "Nothing flagged. That proves no guarantee." in said
    path = Path(page.removeprefix("Page:").strip())
    assert path.parent.parent == clinics_place / "audits"
    assert "Getting a patient back from an update" in path.read_text()


def test_json_is_one_object_with_the_findings_and_charges_no_ledger(
    skinml: Invoke, words: tuple[object, ...], clinics_place: Path, tmp_path: Path
) -> None:
    outcome = skinml(*words, "--tiers", "T3,inversion", "--out", tmp_path / "page", "--json")
    assert outcome.code == 0, outcome.told
    told = outcome.json
    assert told["tiers"] == ["T3", "inversion"]
    assert told["flagged"] is False
    assert told["privacy"]["epsilon"] == pytest.approx(3, abs=1e-3)
    assert told["report"] == str(tmp_path / "page" / "audit.html")
    groups = {each["group"] for each in told["findings"]["T3"]}
    assert {"all", "1-3", "4-6", "7-10"} <= groups
    assert json.loads((tmp_path / "page" / "audit.json").read_text())["findings"]
    places = [path.parent for path in clinics_place.glob("clinics/*/clinic.json")]
    folders = [open_folder(place) for place in places]
    assert len(folders) == 2
    assert all(not folder.ledger.entries() for folder in folders)


def test_networks_say_why_they_are_not_asked_about_membership(
    skinml: Invoke, tmp_path: Path
) -> None:
    outcome = skinml(
        *("privacy", "audit", "quickstart_end_to_end", f"work_dir={tmp_path}"),
        *(QUICKER, "--tiers", "T3", "--json"),
    )
    assert outcome.code == 0, outcome.told
    (missing,) = outcome.json["not_audited"]
    assert missing["tier"] == "T3"


@pytest.mark.parametrize("tiers", ["T9", "T0;T1", ""])
def test_an_unknown_tier_is_a_mistake_of_the_user(skinml: Invoke, tiers: str) -> None:
    outcome = skinml("privacy", "audit", "quickstart", "--tiers", tiers, "--json")
    assert outcome.code == 2
    assert "inversion" in outcome.json["error"]["rule"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_flag_is_exit_code_five(
    small: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    done = audit(
        "quickstart_end_to_end",
        [f"work_dir={tmp_path}", QUICKER],
        tiers=["T3"],
        out=tmp_path / "page",
    )
    tell(done, as_json=as_json)
    broken = ReplayFinding("centred", "local", "removed", "gradient", 4, 0.9, 0.5)
    flagged = replace(done, record=replace(done.record, findings=(broken,)))
    with pytest.raises(typer.Exit) as left:
        tell(flagged, as_json=as_json)
    assert left.value.exit_code == 5
    shown = capsys.readouterr().out
    assert ('"flagged": true' if as_json else "FLAGGED: a finding contradicts") in shown


def test_counts_of_patients_have_no_model_to_be_attacked(skinml: Invoke, tmp_path: Path) -> None:
    outcome = skinml("privacy", "audit", "statistics", f"work_dir={tmp_path}")
    assert outcome.code == 2
    assert "skinml federation statistics" in outcome.err
    assert list(tmp_path.iterdir()) == []
