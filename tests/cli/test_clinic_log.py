"""`skinml clinic log`: shown, checked here and elsewhere, exported; exit code 5 where it lies."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skinml.clinic.flagging import note_flags
from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.clinic.logs import parse_mark, verify_copy, verify_own
from skinml.errors import ConfigError
from skinml.stewardship.audit_log import AuditLog
from skinml.stewardship.policy import parse_policy
from skinml.stewardship.signing import new_signing_key
from tests.cli.conftest import COMMAND, Invoke
from tests.policy_text import policy_text

POLICY = policy_text(
    fields="[age]",
    roles='{steward: [STEWARD], clinician: ["*"], operator: [], auditor: [AUDITOR]}',
)
START = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def make(place: Path, *, steward: str = "nobody", auditor: str = "'*'") -> Path:
    content = POLICY.replace("STEWARD", steward).replace("AUDITOR", auditor)
    policy, anchors = parse_policy(content.encode()), place / "anchors"
    create_folder(place / "north", name="north", policy=policy, anchors=anchors, virtual=True)
    return place / "north"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a log of seven entries, read by an auditor."""
    path = make(tmp_path)
    audit = open_folder(path).audit
    words = {"patient": "a0" * 16, "purposes": ("research", "federated_training")}
    audit.write("consent withdrawn", "ada", now=START, **words)
    audit.write("run approved", "ada", now=START, run="derm_tone-1", epsilon=float("inf"))
    for hour in range(3):
        now = START + timedelta(hours=hour)
        audit.write("refusal", "eve", now=now, action="erase", reason="role")
    audit.write("admission", "ada", now=START, purpose="research", day=START.date(), patients=1200)
    return path


def held(folder: Path) -> ClinicFolder:
    return open_folder(folder)


def shown_lines(out: str) -> list[str]:
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def test_show_tells_who_did_what_within_eighty_columns(
    skinml: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    outcome = skinml("clinic", "log", "show", "--folder", folder)
    assert outcome.code == 0, outcome.told
    lines = shown_lines(outcome.out)
    assert lines[0] == "Audit log of north: 7 of 7 entries, times in UTC"
    said = " ".join(outcome.out.split())
    assert "2026-03-01 09:30 ada consent withdrawn patient a0a0a0a0a0a0…" in said
    assert "epsilon unbounded" in said
    assert "run derm_tone-1" in said  # as a command wants it
    assert "purposes research and federated training" in said
    assert "1,200" in said
    assert lines[-1] == "FLAG repeated refusals: eve, 3 since 2026-03-01 09:30 UTC"


@pytest.mark.parametrize(
    ("patients", "said"), [(1, "1 patient gave"), (1200, "1,200 patients gave")]
)
def test_images_without_finite_numbers_are_told_in_a_sentence_that_says_what_to_do(
    skinml: Invoke, folder: Path, patients: int, said: str
) -> None:
    fields = {"run": "quickstart-2", "round": 7, "patients": patients}
    open_folder(folder).audit.write("not finite", "ada", now=START, **fields)
    words = ("clinic", "log", "show", "--event", "not finite", "--folder", folder)
    shown = " ".join(" ".join(shown_lines(skinml(*words).out)).split())
    for part in (f"the images of {said}", "round 7 of", "quickstart-2", "damaged files"):
        assert part in shown
    assert skinml(*words, "--json").json["entries"][0]["fields"] == fields


def test_show_chooses_the_last_entries_and_one_event(skinml: Invoke, folder: Path) -> None:
    words = ("clinic", "log", "show", "--folder", folder, "--json")
    assert len(skinml(*words).json["entries"]) == 7
    assert len(skinml(*words, "--last", "0").json["entries"]) == 7
    last = skinml(*words, "--last", "2").json
    assert [each["event"] for each in last["entries"]] == ["refusal", "admission"]
    assert last["num_entries"] == 7
    refused = skinml(*words, "--event", "refusal", "--last", "2").json["entries"]
    assert [each["number"] for each in refused] == [4, 5]
    assert skinml(*words).json["flags"][0]["actor"] == "eve"


def test_an_unknown_event_is_refused_with_the_words_that_there_are(
    skinml: Invoke, folder: Path
) -> None:
    outcome = skinml("clinic", "log", "show", "--event", "gossip", "--folder", folder)
    assert outcome.code == 2
    assert "consent withdrawn" in outcome.err


@pytest.mark.parametrize("act", [("show",), ("verify",), ("export", "OUT")])
def test_without_a_role_nothing_is_read_and_the_refusal_is_on_record(
    skinml: Invoke, tmp_path: Path, act: tuple[str, ...]
) -> None:
    folder = make(tmp_path, auditor="nobody")
    words = [word.replace("OUT", str(tmp_path / "out")) for word in act]
    outcome = skinml("clinic", "log", *words, "--folder", folder, "--json")
    assert outcome.code == 3
    assert set(outcome.json) == {"error"}
    entry = held(folder).audit.entries()[-1]
    assert (entry.event, entry.fields["reason"]) == ("refusal", "role")
    assert not (tmp_path / "out").exists()


def test_verify_says_what_was_checked_and_where_the_log_ends(skinml: Invoke, folder: Path) -> None:
    outcome = skinml("clinic", "log", "verify", "--folder", folder)
    assert outcome.code == 0, outcome.told
    assert shown_lines(outcome.out)[0] == "Every line is as the clinic wrote it."
    mark = held(folder).audit.mark()
    said = "".join(outcome.out.split())
    assert f"{mark.count}:{mark.head}" in said
    assert held(folder).identity.public_key in said
    assert "2entriesaredatedbefore" in said
    found = skinml("clinic", "log", "verify", "--folder", folder, "--json").json
    assert found["verified"] is True
    assert found["num_entries"] == 7
    assert found["held_against"] == "anchor"
    # The folder was made today, after the times of this test; and one entry goes back two hours.
    assert found["num_backwards"] == 2


def test_a_kept_mark_holds_for_the_log_that_goes_on_from_it(skinml: Invoke, folder: Path) -> None:
    words = ("clinic", "log", "verify", "--folder", folder, "--json")
    mark = skinml(*words).json["mark"]
    held(folder).audit.write("folder opened", "ada", now=START)
    later = skinml(*words, "--mark", mark)
    assert later.code == 0
    assert later.json["held_against"] == "anchor and mark"
    other = mark[:-1] + ("0" if mark[-1] != "0" else "1")
    assert skinml(*words, "--mark", other).code == 5
    assert skinml(*words, "--mark", "9:" + "0" * 64).code == 5


@pytest.mark.parametrize("mark", ["", "7", "7:abc", "0:" + "0" * 64, "-1:" + "0" * 64])
def test_what_is_no_mark_is_the_users_error(mark: str) -> None:
    with pytest.raises(ConfigError, match="mark"):
        parse_mark(mark)


@pytest.mark.parametrize("place", [0, 200, -300, -1])
def test_a_flipped_byte_is_exit_code_5_and_names_the_audit_log(
    skinml: Invoke, folder: Path, place: int
) -> None:
    path = folder / "audit.journal"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    for act in ("verify", "show"):
        outcome = skinml("clinic", "log", act, "--folder", folder)
        assert outcome.code == 5
        assert "audit log" in outcome.err
    assert path.read_bytes() == bytes(content), "the evidence stays"


def test_lines_cut_off_the_end_or_the_whole_file_gone_are_exit_code_5(
    skinml: Invoke, folder: Path
) -> None:
    path = folder / "audit.journal"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    outcome = skinml("clinic", "log", "verify", "--folder", folder)
    assert outcome.code == 5
    assert "6 of 7 lines" in outcome.err
    path.unlink()
    outcome = skinml("clinic", "log", "verify", "--folder", folder)
    assert outcome.code == 5
    assert "0 of 7 lines" in outcome.err


def test_an_export_checks_elsewhere_with_nothing_but_the_public_key(
    folder: Path, skinml: Invoke, tmp_path: Path
) -> None:
    out, key = tmp_path / "for the auditor", held(folder).identity.public_key
    told = skinml("clinic", "log", "export", out, "--folder", folder, "--json").json
    assert told["num_entries"] == 9  # the export itself, and the flag that it brought up
    elsewhere = tmp_path / "elsewhere"
    out.rename(elsewhere)
    folder.rename(tmp_path / "gone")
    checked = skinml("clinic", "log", "verify", elsewhere, "--public-key", key, "--json").json
    assert (checked["key_from"], checked["held_against"]) == ("given", "statement")
    assert checked["mark"] == told["mark"]
    lone = skinml("clinic", "log", "verify", elsewhere)
    assert "compare it with the one that the clinic published" in " ".join(lone.out.split())
    assert skinml("clinic", "log", "verify", elsewhere, "--mark", told["mark"]).code == 0
    assert skinml("clinic", "log", "verify", elsewhere, "--public-key", "ab" * 32).code == 5
    log = elsewhere / "audit.journal"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    outcome = skinml("clinic", "log", "verify", elsewhere, "--public-key", key)
    assert outcome.code == 5
    assert "8 of 9 lines" in outcome.err


def test_the_export_is_on_record_before_it_is_made_and_overwrites_nothing(
    folder: Path, skinml: Invoke, tmp_path: Path
) -> None:
    before = held(folder).audit.mark()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert skinml("clinic", "log", "export", tmp_path / "out", "--folder", folder).code == 6
    assert held(folder).audit.mark() == before
    assert skinml("clinic", "log", "export", tmp_path / "other", "--folder", folder).code == 0
    entry = held(folder).audit.entries()[7]
    assert entry.event == "export"
    assert (entry.fields["count"], entry.fields["head"]) == (before.count, before.head)


def test_a_lone_log_file_needs_the_public_key_and_says_what_it_cannot_see(
    folder: Path, skinml: Invoke
) -> None:
    path, key = folder / "audit.journal", held(folder).identity.public_key
    assert skinml("clinic", "log", "verify", path).code == 2
    outcome = skinml("clinic", "log", "verify", path, "--public-key", key)
    assert outcome.code == 0, outcome.told
    assert "lines cut off the end would not show" in " ".join(outcome.out.split())
    assert verify_copy(path, key).held_against == "nothing"
    assert skinml("clinic", "log", "verify", "--public-key", key, "--folder", folder).code == 2
    assert skinml("clinic", "log", "verify", folder / "nothing", "--public-key", key).code == 6


def test_another_log_in_the_exports_place_shows(folder: Path, skinml: Invoke, tmp_path: Path):
    out = tmp_path / "out"
    skinml("clinic", "log", "export", out, "--folder", folder)
    (out / "audit.journal").unlink()
    forged = AuditLog(out / "audit.journal", held(folder).identity.id, new_signing_key())
    for _ in range(9):
        forged.write("folder opened", "ada", now=START)
    assert skinml("clinic", "log", "verify", out).code == 5


def test_a_line_that_a_crash_cut_short_is_dropped_and_not_held_against_the_clinic(
    folder: Path,
) -> None:
    with (folder / "audit.journal").open("ab") as file:
        file.write(b'{"body":{"actor":')
    assert verify_own(held(folder)).num_entries == 7


def test_flags_come_on_record_once(folder: Path) -> None:
    opened = held(folder)
    first = note_flags(opened, "ada", now=START)
    assert [(each.rule, each.actor) for each in first] == [("repeated refusals", "eve")]
    assert note_flags(opened, "ada", now=START) == ()
    entry = opened.audit.entries()[-1]
    assert entry.event == "alert"
    assert entry.fields == {
        "count": 3,
        "rule": "repeated refusals",
        "since": "2026-03-01T09:30:00+00:00",
        "who": "eve",
        "within_hours": 24,
    }
    opened.audit.write("export", "eve", now=START, kind="images", patients=100)
    assert [each.rule for each in note_flags(opened, "ada", now=START)] == ["bulk access"]


def test_the_commands_end_with_their_exit_codes_as_a_process(folder: Path) -> None:
    words = (*COMMAND, "clinic", "log", "verify", "--folder", str(folder))
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    path = folder / "audit.journal"
    os.truncate(path, path.stat().st_size - 1)
    broken = subprocess.run(words, capture_output=True, text=True, check=False)
    assert broken.returncode == 5
    assert broken.stderr.startswith("error: expected an unchanged audit log")
