"""`skinml clinic ledger` and `skinml privacy spent`: what was spent, verified and on record."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.clinic.releases import ReleaseRecord
from skinml.journal import Journal, KeyedSeal
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import Event, GaussianEvent, UnprotectedEvent, event_to_json
from skinml.privacy.ledger import SCHEMA, Binding
from skinml.stewardship.encryption import derive_key
from skinml.stewardship.policy import parse_policy
from tests.cli.conftest import Invoke
from tests.cli.test_clinic_log import POLICY, make

DELTA = 1e-5
BINDING = Binding(
    run="quickstart-20260301-093000-8a6c",
    round=1,
    attempt=1,
    participants=("north", "south"),
    trust="distributed",
    unit="patient_within_clinic",
    split_key_id="k",
    simulated=True,
)
NOISES = {"label counts": 9.0, "training": 4.0, "validation": 3.0}
OLD, NEW = "2026-03-01T09:30:00+00:00", "2026-09-01T09:30:00+00:00"


def spend(
    folder: ClinicFolder,
    binding: Binding = BINDING,
    time: str = NEW,
    event: Event | None = None,
    *,
    guarantee: bool = True,
) -> None:
    """Write one release of each purpose at any time, under the folder's own key and anchor."""
    key, anchor = derive_key(folder.key, "ledger"), folder.anchors.journal("ledger")
    name = f"privacy ledger of clinic {folder.name}"
    journal = Journal(folder.path / "ledger.jsonl", name, KeyedSeal(key), anchor)
    bound = {**vars(binding), "participants": list(binding.participants)}
    journal.append(
        lambda held: [
            {
                "schema": SCHEMA,
                "index": len(held) + number,
                "time": time,
                "binding": bound,
                "name": purpose.replace(" ", "_"),
                "purpose": purpose,
                "split": "validation" if purpose == "validation" else "train",
                "event": event_to_json(event or GaussianEvent(noise)),
                "guarantee": guarantee,
            }
            for number, (purpose, noise) in enumerate(NOISES.items())
        ]
    )


def cost(*noises: float) -> float:
    return epsilon([GaussianEvent(noise) for noise in noises], DELTA)


def near(value: float) -> Any:
    return pytest.approx(value, abs=1e-3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clinic with two runs half a year apart, read by an auditor."""
    path = make(tmp_path)
    spend(open_folder(path), time=OLD)
    spend(open_folder(path), replace(BINDING, run="derm-20260901-093000-0f3a", trust="local"))
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder of two virtual clinics in one sum; one of them had a run of its own."""
    policy = parse_policy(POLICY.replace("STEWARD", "'*'").replace("AUDITOR", "'*'").encode())
    place = tmp_path / "work"
    for name in ("north", "south"):
        create_folder(
            place / "clinics" / name,
            name=name,
            policy=policy.model_copy(update={"clinic": name}),
            anchors=place / "anchors",
            virtual=True,
        )
        spend(open_folder(place / "clinics" / name))
    own = replace(BINDING, run="alone-1", participants=("south",))
    spend(open_folder(place / "clinics" / "south"), own)
    (place / "clinics" / ".south.0123.draft").mkdir()  # what a crash may leave behind
    return place


def lines_of(out: str) -> list[str]:
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def test_the_statement_fits_eighty_columns_and_tells_every_way_of_counting(
    skinml: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    outcome = skinml("clinic", "ledger", "--folder", folder, "--at", "2026-09-02")
    assert outcome.code == 0, outcome.told
    lines = lines_of(outcome.out)
    assert lines[0] == "Ledger of north, a virtual clinic, at 2026-09-02"
    said = " ".join(outcome.out.split())
    one, two = cost(9, 4), cost(9, 4, 9, 4)
    assert "one patient within clinic, add or remove one" in said
    assert f"last 365 days 6 {max(two, cost(3, 3)):.3f} 6 " in said
    assert f"in total 6 {max(two, cost(3, 3)):.3f} 10 " in said
    assert f"for training 2 {cost(4, 4):.3f}" in said
    assert f"validation patients 2 {cost(3, 3):.3f}" in said
    assert f"2026-09-01 3 {max(one, cost(3)):.3f}" in said
    assert "local, simulated" in said
    assert "distributed: holds where nobody sees one clinic's part" in said


def test_json_is_one_object_with_every_figure(skinml: Invoke, folder: Path) -> None:
    words = ("clinic", "ledger", "--folder", folder, "--json", "--at", "2026-09-02")
    outcome = skinml(*words)
    assert len(outcome.out.splitlines()) == 1
    found = outcome.json
    assert found["verified"] is True
    assert (found["clinic"], found["virtual"], found["day"]) == ("north", True, "2026-09-02")
    assert found["delta"] == DELTA
    assert found["units"] == ["patient_within_clinic"]
    assert found["total"]["epsilon"] == near(max(cost(9, 4, 9, 4), cost(3, 3)))
    assert found["purposes"]["label counts"] == {
        "num_releases": 2,
        "epsilon": near(cost(9, 9)),
        "num_bare": 0,
        "num_fixed": 0,
    }
    assert set(found["splits"]) == {"train", "validation"}
    old, new = found["runs"]
    assert old["first"] == old["last"] == OLD
    assert (old["trusts"], new["trusts"]) == (["distributed"], ["local"])
    assert old["across"] == near(max(cost(4.5, 2), cost(1.5)))
    assert new["across"] == near(max(cost(9, 4, 9, 4), cost(3, 3)))
    assert found["ceilings"]["life"]["ceiling"] == 10
    assert found["left"] == min(each["left"] for each in found["ceilings"].values())
    assert json.dumps(found, allow_nan=False)


def test_a_date_counts_what_was_released_by_then_and_within_its_year(
    skinml: Invoke, folder: Path
) -> None:
    def at(day: str) -> dict[str, Any]:
        return skinml("clinic", "ledger", "--folder", folder, "--at", day, "--json").json

    one, both = max(cost(9, 4), cost(3)), max(cost(9, 4, 9, 4), cost(3, 3))
    before = at("2026-02-28")
    assert (before["total"]["num_releases"], before["num_later"]) == (0, 6)
    assert before["total"]["epsilon"] == 0
    assert before["left"] == 3
    first = at("2026-03-01")
    assert (first["num_later"], first["total"]["epsilon"]) == (3, near(one))
    # In days to come everything counts, and the year goes on.
    edge, past = at("2027-03-01"), at("2027-03-02")
    assert (edge["year"]["epsilon"], past["year"]["epsilon"]) == (near(both), near(one))
    assert past["total"]["epsilon"] == near(both)


def test_another_delta_reads_another_epsilon(skinml: Invoke, folder: Path) -> None:
    words = ("clinic", "ledger", "--folder", folder, "--json", "--delta")
    found = skinml(*words, "1e-7").json
    events = [GaussianEvent(noise) for noise in (3.0, 3.0)]
    assert found["splits"]["validation"]["epsilon"] == near(epsilon(events, 1e-7))
    for wrong in ("0", "1", "nan"):
        assert skinml(*words, wrong).code == 2
    for day in ("yesterday", "0001-01-01", "2026-02-30"):
        assert skinml("clinic", "ledger", "--folder", folder, "--at", day).code == 2
    assert skinml("clinic", "ledger", "--folder", folder, "--at", "9999-12-31").code == 0
    assert open_folder(folder).audit.entries()[-1].fields["day"] == "9999-12-31"


def test_an_empty_ledger_is_told_in_words(skinml: Invoke, tmp_path: Path) -> None:
    path = make(tmp_path)
    outcome = skinml("clinic", "ledger", "--folder", path)
    assert outcome.code == 0, outcome.told
    assert "Nothing was released." in outcome.out
    found = skinml("clinic", "ledger", "--folder", path, "--json").json
    assert (found["mark"], found["runs"], found["left"]) == (None, [], 3)


@pytest.mark.parametrize(
    ("event", "guarantee", "words"),
    [
        (UnprotectedEvent(), True, "3 releases had no noise: the total is unbounded, for good."),
        (None, False, "3 releases had noise that a test fixed: it protects nobody."),
    ],
)
def test_what_is_unbounded_is_told_with_its_reason_and_is_null(
    skinml: Invoke, folder: Path, event: Event | None, guarantee: bool, words: str
) -> None:
    bare = replace(BINDING, run="bare-1", trust="none")
    spend(open_folder(folder), bare, event=event, guarantee=guarantee)
    outcome = skinml("clinic", "ledger", "--folder", folder)
    said = " ".join(outcome.out.split())
    assert words in said
    assert "in total 9 unbounded 10 0.00" in said
    found = skinml("clinic", "ledger", "--folder", folder, "--json").json
    assert found["total"]["epsilon"] is None
    assert found["across"] is None
    assert found["left"] == 0
    assert found["runs"][0]["cost"]["epsilon"] is not None


def test_runs_of_two_units_two_keys_and_a_clock_set_back_are_told(
    skinml: Invoke, folder: Path
) -> None:
    other = replace(BINDING, run="other-1", unit="patient", trust="central", split_key_id="new")
    spend(open_folder(folder), replace(other, simulated=False), time=OLD)
    said = " ".join(skinml("clinic", "ledger", "--folder", folder).out.split())
    assert "for one patient and patient within clinic" in said
    assert "central, deployed, patient" in said
    assert "2 split keys: a patient may have been in each split" in said
    assert "1 entries are dated before the one in front" in said
    assert "central: the coordinator said that it adds the noise" in said


def test_many_runs_show_the_latest(skinml: Invoke, folder: Path) -> None:
    for number in range(20):
        spend(open_folder(folder), replace(BINDING, run=f"more-{number}"))
    outcome = skinml("clinic", "ledger", "--folder", folder)
    assert "2 earlier runs: see --json" in outcome.out
    assert "more-19" in outcome.out
    assert "derm-20260901" not in outcome.out
    assert len(skinml("clinic", "ledger", "--folder", folder, "--json").json["runs"]) == 22


def test_reading_is_on_record(skinml: Invoke, folder: Path) -> None:
    skinml("clinic", "ledger", "--folder", folder, "--at", "2026-09-02")
    entry = open_folder(folder).audit.entries()[-1]
    assert entry.event == "access"
    assert entry.fields == {"kind": "ledger", "rows": 6, "day": "2026-09-02"}


def test_without_a_role_nothing_is_read_and_the_refusal_is_on_record(
    skinml: Invoke, tmp_path: Path
) -> None:
    path = make(tmp_path, auditor="nobody")
    outcome = skinml("clinic", "ledger", "--folder", path, "--json")
    assert outcome.code == 3
    assert set(outcome.json) == {"error"}
    entry = open_folder(path).audit.entries()[-1]
    assert (entry.event, entry.fields["action"]) == ("refusal", "log.read")


@pytest.mark.parametrize("place", [0, 300, -300, -1])
def test_a_flipped_byte_is_exit_code_5_and_shows_no_figure(
    skinml: Invoke, folder: Path, place: int
) -> None:
    path = folder / "ledger.jsonl"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    outcome = skinml("clinic", "ledger", "--folder", folder)
    assert outcome.code == 5
    assert "privacy ledger of clinic north" in outcome.err
    assert outcome.out == ""


def test_lines_cut_off_an_older_copy_and_no_file_are_exit_code_5(
    skinml: Invoke, folder: Path
) -> None:
    path = folder / "ledger.jsonl"
    kept = path.read_bytes()
    path.write_bytes(b"".join(kept.splitlines(keepends=True)[:3]))
    cut = skinml("clinic", "ledger", "--folder", folder)
    assert (cut.code, "3 of 6 lines" in cut.err) == (5, True)
    os.unlink(path)
    assert skinml("clinic", "ledger", "--folder", folder).code == 5


def test_a_kept_mark_holds_for_the_ledger_that_goes_on_from_it(
    skinml: Invoke, folder: Path
) -> None:
    words = ("clinic", "ledger", "--folder", folder, "--json")
    mark = skinml(*words).json["mark"]
    assert mark in skinml("clinic", "ledger", "--folder", folder).out
    spend(open_folder(folder), replace(BINDING, run="later-1"))
    assert skinml(*words, "--mark", mark).code == 0
    other = mark[:-1] + ("0" if mark[-1] != "0" else "1")
    assert skinml(*words, "--mark", other).code == 5
    assert skinml(*words, "--mark", "99:" + "0" * 64).code == 5
    assert skinml(*words, "--mark", "six").code == 2


def test_a_ledger_that_the_audit_log_does_not_bear_out_is_exit_code_5(
    skinml: Invoke, folder: Path
) -> None:
    opened = open_folder(folder)
    entries = opened.ledger.reserve(
        replace(BINDING, run="noted-1"), [("gradient", "training", "train", GaussianEvent(4.0))]
    )
    ReleaseRecord(opened, "noted-1", "ada").note(entries, {"train": ["p1"]})
    assert skinml("clinic", "ledger", "--folder", folder).code == 0
    told = {"run": "noted-1", "round": 1, "attempt": 1, "releases": ["scores"], "patients": 1}
    mark = opened.ledger.mark()
    opened.audit.write(
        "release", "ada", now=datetime.now(UTC), entries=mark.count, head=mark.head, **told
    )
    outcome = skinml("clinic", "ledger", "--folder", folder)
    assert (outcome.code, "audit log and the ledger" in outcome.err) == (5, True)


def test_spent_is_one_line_a_clinic_and_the_greatest(skinml: Invoke, work: Path) -> None:
    outcome = skinml("privacy", "spent", "--work-dir", work)
    assert outcome.code == 0, outcome.told
    lines = lines_of(outcome.out)
    north, south = (" ".join(line.split()) for line in lines[3:5])
    one, both = max(cost(9, 4), cost(3)), max(cost(9, 4, 9, 4), cost(3, 3))
    assert north.startswith(f"north 1 3 {one:.3f} {one:.3f} {one:.3f} ")
    assert south.startswith(f"south 2 6 {one:.3f} {both:.3f} {both:.3f} ")
    assert lines[5] == f"Greatest total: {both:.3f}"
    # The common sum once, as moved by both clinics, and the run of one alone.
    across = max(cost(4.5, 2, 9, 4), cost(1.5, 3))
    assert lines[6].endswith(f": {across:.3f}")


def test_spent_as_json(skinml: Invoke, work: Path) -> None:
    found = skinml("privacy", "spent", "--work-dir", work, "--json").json
    assert set(found) == {"clinics", "day", "delta", "everywhere_epsilon", "greatest_epsilon"}
    assert set(found["clinics"]) == {"north", "south"}
    totals = [each["total"]["epsilon"] for each in found["clinics"].values()]
    assert found["greatest_epsilon"] == max(totals)
    assert found["delta"] == DELTA
    early = skinml("privacy", "spent", "--work-dir", work, "--at", "2026-08-31", "--json").json
    assert (early["greatest_epsilon"], early["everywhere_epsilon"]) == (0, 0)
    strict = skinml("privacy", "spent", "--work-dir", work, "--delta", "1e-7", "--json").json
    assert strict["greatest_epsilon"] > found["greatest_epsilon"]


def test_spent_tells_what_is_unbounded(skinml: Invoke, work: Path) -> None:
    spend(open_folder(work / "clinics" / "north"), event=UnprotectedEvent())
    outcome = skinml("privacy", "spent", "--work-dir", work)
    assert "Greatest total: unbounded" in outcome.out
    assert "3 releases had no noise: unbounded, for good." in outcome.out
    found = skinml("privacy", "spent", "--work-dir", work, "--json").json
    assert found["greatest_epsilon"] is None
    assert found["everywhere_epsilon"] is None


def test_every_clinic_that_was_read_has_it_on_record(skinml: Invoke, work: Path) -> None:
    skinml("privacy", "spent", "--work-dir", work)
    for name in ("north", "south"):
        entry = open_folder(work / "clinics" / name).audit.entries()[-1]
        assert (entry.event, entry.fields["kind"]) == ("access", "ledger")


def test_a_working_folder_without_clinics_is_the_users_error(
    skinml: Invoke, tmp_path: Path
) -> None:
    outcome = skinml("privacy", "spent", "--work-dir", tmp_path, "--json")
    assert outcome.code == 2
    assert "virtual clinics" in outcome.json["error"]["rule"]


def test_one_damaged_ledger_is_exit_code_5_for_all(skinml: Invoke, work: Path) -> None:
    path = work / "clinics" / "south" / "ledger.jsonl"
    path.write_bytes(
        path.read_bytes().replace(b'"noise_multiplier":4.0', b'"noise_multiplier":9.0')
    )
    outcome = skinml("privacy", "spent", "--work-dir", work)
    assert (outcome.code, outcome.out) == (5, "")
    assert "clinic south" in outcome.err


def test_a_clock_of_tomorrow_hides_nothing_today(skinml: Invoke, folder: Path) -> None:
    ahead = datetime.now(UTC) + timedelta(days=40)
    spend(
        open_folder(folder),
        replace(BINDING, run="ahead-1"),
        time=ahead.isoformat(timespec="seconds"),
    )
    found = skinml("clinic", "ledger", "--folder", folder, "--json").json
    assert (found["num_later"], found["total"]["num_releases"]) == (0, 9)
    assert found["year"]["num_releases"] in (6, 9)
