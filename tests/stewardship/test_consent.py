"""The consent register: the default is no, a no wins, and no change is ever half there."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from skinml.errors import ConfigError, DataError, IntegrityError
from skinml.journal import Journal, KeyedSeal
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.consent import Consent, ConsentRecord, ConsentRegister
from skinml.stewardship.consent_rules import REASONS, Entry, Withdrawal, judge, standing
from skinml.stewardship.encryption import derive_key
from skinml.stewardship.pseudonyms import pseudonym
from skinml.stewardship.purposes import DATA_KINDS, PURPOSES, Purpose

KEY = bytes(range(32))
NAME = "consent register of clinic north"
DAY = datetime.date(2026, 3, 1)
NOW = datetime.datetime(2026, 3, 1, 9, 30, tzinfo=datetime.UTC)
ONE = datetime.timedelta(days=1)


def consent(*purposes: Purpose, **changes: object) -> Consent:
    values: dict[str, object] = {
        "purposes": purposes or ("care", "research"),
        "valid_from": datetime.date(2026, 1, 15),
        "form_version": "v2",
        "how": "paper",
        "given_by": "patient",
    }
    return Consent.model_validate(values | changes)


@dataclass(frozen=True)
class Place:
    """A folder with a register and, elsewhere, its anchor."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "consent.journal"

    def open(self, key: bytes = KEY) -> ConsentRegister:
        anchors = Anchors(self.folder / "anchors.json", "north", KEY)
        if not anchors.path.exists():
            anchors.create()
        seal = KeyedSeal(derive_key(KEY, "consent journal"))
        journal = Journal(self.file, NAME, seal, anchors.journal("consent"))
        return ConsentRegister(journal, key)

    def grant(self, patient: str, given: Consent, now: datetime.datetime = NOW) -> None:
        self.open().grant(patient, given, now=now, actor="ada")

    def withdraw(self, patient: str, *purposes: Purpose, now: datetime.datetime = NOW) -> None:
        self.open().withdraw(patient, purposes=purposes or None, now=now, actor="ada")

    def take_in(self, *records: ConsentRecord, source: str = "list") -> int:
        return self.open().import_records(records, source_digest=source, now=NOW, actor="ada")

    def reason(self, patient: str, purpose: str, day: datetime.date = DAY) -> str:
        return str(self.open().verdicts([patient], purpose, day)[0])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_nothing_on_record_is_no(place: Place, purpose: Purpose) -> None:
    assert place.reason("p1", purpose) == "no consent"
    place.grant("p2", consent(purpose))
    assert place.reason("p1", purpose) == "no consent"
    assert place.reason("p2", purpose) == ""


@pytest.mark.parametrize(
    ("day", "reason"),
    [
        ("2026-01-14", "not yet valid"),
        ("2026-01-15", ""),
        ("2026-06-30", ""),
        ("2026-07-01", "expired"),
    ],
)
def test_a_consent_covers_its_days_both_ends_included(place: Place, day: str, reason: str) -> None:
    place.grant("p", consent(valid_until=datetime.date(2026, 6, 30)))
    assert place.reason("p", "research", datetime.date.fromisoformat(day)) == reason


def test_other_purposes_are_not_covered(place: Place) -> None:
    place.grant("p", consent("research"))
    others = {purpose: place.reason("p", purpose) for purpose in PURPOSES if purpose != "research"}
    assert set(others.values()) == {"purpose not covered"}
    assert place.reason("p", "a purpose that nobody knows") == "purpose not covered"


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_each_kind_of_data_must_be_covered(place: Place, kind: str) -> None:
    place.grant("p", consent(data=(kind,)))
    register = place.open()
    for asked in DATA_KINDS:
        (found,) = register.verdicts(["p"], "research", DAY, [(asked,)])
        assert found == ("" if asked == kind else "data not covered")


def test_forms_for_different_data_add_up(place: Place) -> None:
    place.grant("p", consent(data=("images",)))
    assert place.reason("p", "research") == "data not covered"
    place.grant("p", consent(data=("records",)))
    assert place.reason("p", "research") == ""
    (pairs,) = place.open().verdicts(["p"], "research", DAY, [DATA_KINDS])
    assert pairs == "data not covered"


def test_withdrawing_all_keeps_care(place: Place) -> None:
    place.grant("p", consent(*PURPOSES))
    place.withdraw("p")
    found = {purpose: place.reason("p", purpose) for purpose in PURPOSES}
    assert found == {purpose: "" if purpose == "care" else "withdrawn" for purpose in PURPOSES}


def test_withdrawing_one_purpose_keeps_the_others(place: Place) -> None:
    place.grant("p", consent(*PURPOSES))
    place.withdraw("p", "federated_training")
    assert place.reason("p", "federated_training") == "withdrawn"
    assert place.reason("p", "research") == ""
    place.withdraw("p", "care")
    assert place.reason("p", "care") == "withdrawn"


def test_a_withdrawal_counts_at_once_and_for_any_day_of_use(place: Place) -> None:
    place.grant("p", consent())
    place.grant("p", consent(valid_from=DAY + 30 * ONE))
    place.withdraw("p")
    for day in (DAY - ONE, DAY, DAY + ONE, DAY + 60 * ONE):
        assert place.reason("p", "research", day) == "withdrawn"


def test_an_old_form_recorded_late_does_not_undo_a_withdrawal(place: Place) -> None:
    place.grant("p", consent())
    place.withdraw("p")
    place.grant("p", consent(form_version="v3", valid_from=DAY - ONE))
    assert place.reason("p", "research") == "withdrawn"
    place.grant("p", consent(form_version="v3", valid_from=DAY))
    assert place.reason("p", "research") == ""


def test_on_one_day_the_last_word_counts(place: Place) -> None:
    form = consent(valid_from=DAY)
    for _ in range(3):
        place.grant("p", form)
        assert place.reason("p", "research") == ""
        place.withdraw("p")
        assert place.reason("p", "research") == "withdrawn"


def test_a_form_given_and_withdrawn_on_the_day_of_an_earlier_withdrawal_is_withdrawn(
    place: Place,
) -> None:
    first = ConsentRecord("p", consent(), withdrawn=DAY)
    place.take_in(first)
    second = ConsentRecord("p", consent(valid_from=DAY, form_version="v3"), withdrawn=DAY)
    place.take_in(first, second, source="longer")
    assert place.reason("p", "research") == "withdrawn"


def test_a_no_in_advance_is_kept(place: Place) -> None:
    place.withdraw("p")
    assert place.reason("p", "research") == "withdrawn"
    assert place.reason("p", "care") == "no consent"
    place.take_in(ConsentRecord("p", consent()))
    assert place.reason("p", "research") == "withdrawn"


def test_a_list_that_is_imported_again_does_nothing(place: Place) -> None:
    rows = (ConsentRecord("p", consent()), ConsentRecord("q", consent("research")))
    assert place.take_in(*rows) == 2
    before = place.file.read_bytes()
    assert place.take_in(*rows) == 0
    assert place.file.read_bytes() == before


def test_a_longer_list_does_not_give_old_forms_anew(place: Place) -> None:
    same_day = consent(valid_from=DAY)
    place.take_in(ConsentRecord("p", same_day))
    place.withdraw("p")
    place.take_in(ConsentRecord("p", same_day), ConsentRecord("q", same_day), source="longer")
    assert place.reason("p", "research") == "withdrawn"
    assert place.reason("q", "research") == ""
    assert len(place.open().state_of("p").changes) == 2


def test_a_listed_form_of_the_day_on_which_it_was_taken_back_does_not_stand(place: Place) -> None:
    """Nobody knows which came first, and a corrected row must not undo the patient's no."""
    form = consent("care", "research", valid_from=DAY)
    place.take_in(ConsentRecord("p", form))
    place.withdraw("p")
    place.withdraw("q")
    longer = form.model_copy(update={"valid_until": DAY + datetime.timedelta(days=99)})
    for number, patient in enumerate(("p", "q", "r", "p", "q")):
        place.take_in(ConsentRecord(patient, longer), source=f"corrected {number}")
    assert [place.reason(patient, "research") for patient in "pqr"] == ["withdrawn"] * 2 + [""]
    assert [place.reason(patient, "care") for patient in "pqr"] == [""] * 3
    place.grant("p", form)  # asked again at the desk, on the same day
    assert place.reason("p", "research") == ""


@pytest.mark.parametrize("turned", [False, True])
def test_a_withdrawn_row_ends_its_form_and_no_later_one(place: Place, turned: bool) -> None:
    rows = [
        ConsentRecord("p", consent(*PURPOSES), withdrawn=datetime.date(2026, 2, 1)),
        ConsentRecord("p", consent("research", valid_from=datetime.date(2026, 2, 10))),
    ]
    place.take_in(*(reversed(rows) if turned else rows))
    assert place.reason("p", "research") == ""
    assert place.reason("p", "teaching") == "withdrawn"
    assert place.reason("p", "care") == ""


def test_a_later_list_may_tell_that_an_earlier_form_was_withdrawn(place: Place) -> None:
    newer = ConsentRecord("p", consent("research", valid_from=datetime.date(2026, 2, 10)))
    place.take_in(ConsentRecord("p", consent()), newer)
    withdrawn = ConsentRecord("p", consent(), withdrawn=datetime.date(2026, 2, 1))
    place.take_in(withdrawn, newer, source="later")
    assert place.reason("p", "research") == ""
    place.take_in(ConsentRecord("q", consent()))
    place.take_in(ConsentRecord("q", consent(), withdrawn=DAY), source="third")
    assert place.reason("q", "research") == "withdrawn"


def test_a_row_about_care_alone_withdraws_care(place: Place) -> None:
    place.take_in(ConsentRecord("p", consent("care"), withdrawn=DAY))
    assert place.reason("p", "care") == "withdrawn"


@pytest.mark.parametrize(
    "changes",
    [
        {"purposes": ()},
        {"purposes": ("marketing",)},
        {"data": ()},
        {"valid_until": datetime.date(2026, 1, 14)},
        {"form_version": "as told by phone to Ms Doe"},
        {"form_version": ""},
        {"how": "implied"},
        {"given_by": "neighbour"},
        {"remark": "none"},
    ],
)
def test_consents_keep_their_schema(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        consent(**changes)


def test_the_order_of_words_makes_no_other_consent() -> None:
    assert consent("research", "care", "care") == consent("care", "research")


@pytest.mark.parametrize("patient", ["", "  ", "a\nb", "\udcff"])
def test_ids_that_no_patient_has_are_refused(place: Place, patient: str) -> None:
    with pytest.raises(DataError) as refusal:
        place.grant(patient, consent())
    assert "a\nb" not in str(refusal.value)
    with pytest.raises(DataError):
        place.open().state_of(patient)


def test_times_without_zone_and_empty_withdrawals_are_refused(place: Place) -> None:
    with pytest.raises(ConfigError, match="zone"):
        place.grant("p", consent(), NOW.replace(tzinfo=None))
    with pytest.raises(ConfigError, match="purposes among"):
        place.open().withdraw("p", purposes=(), now=NOW, actor="ada")


def test_the_file_names_no_patient(place: Place) -> None:
    patient = "Erika-Mustermann-4711"
    place.grant(patient, consent())
    place.take_in(ConsentRecord(patient, consent("care")), source="Mustermann.csv")
    place.withdraw(patient)
    content = place.file.read_bytes()
    # Words long enough that base64 does not hold one by chance.
    for word in (patient, "Mustermann", pseudonym(KEY, patient), "research", "form_version"):
        assert word.encode() not in content


def test_an_open_register_hears_of_another_process(place: Place) -> None:
    reader = place.open()
    assert reader.verdicts(["p"], "research", DAY)[0] == "no consent"
    place.grant("p", consent())
    assert reader.verdicts(["p"], "research", DAY)[0] == ""
    place.withdraw("p")
    assert reader.verdicts(["p"], "research", DAY)[0] == "withdrawn"


def test_changes_at_one_time_are_all_kept_and_a_list_once(place: Place) -> None:
    def change(number: int) -> int:
        place.grant(f"p{number}", consent())
        return place.take_in(ConsentRecord("q", consent()), ConsentRecord("r", consent()))

    place.open()
    with ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(change, range(8)))
    assert sorted(rows) == [0] * 7 + [2]
    register = place.open()
    assert register.mark().count == 9
    patients = [*(f"p{number}" for number in range(8)), "q", "r"]
    assert set(register.verdicts(patients, "research", DAY)) == {""}


def test_how_it_stood_at_a_use_can_be_told_again(place: Place) -> None:
    place.grant("p", consent())
    used = place.open().mark()
    place.withdraw("p")
    register = place.open()
    assert register.book(used.count).verdicts(["p"], "research", DAY)[0] == ""
    assert register.verdicts(["p"], "research", DAY)[0] == "withdrawn"
    assert register.book(0).num_patients == 0
    with pytest.raises(ConfigError, match="from 0 to 2 lines"):
        register.book(3)


def test_a_patients_state_says_who_recorded_what_and_when(place: Place) -> None:
    place.take_in(ConsentRecord("p", consent()))
    place.withdraw("p", now=NOW + 40 * ONE)
    given, taken = place.open().state_of("p").changes
    assert (given.at, given.actor, given.imported) == ("2026-03-01T09:30:00+00:00", "ada", True)
    assert given.entry == consent()
    assert (taken.at, taken.imported) == ("2026-04-10T09:30:00+00:00", False)
    assert isinstance(taken.entry, Withdrawal)
    assert taken.entry.day == datetime.date(2026, 4, 10)
    assert place.open().state_of("nobody").changes == ()


def test_the_day_of_a_withdrawal_is_that_of_utc(place: Place) -> None:
    late = datetime.datetime(2026, 3, 1, 23, 0, tzinfo=datetime.timezone(-3 * ONE / 24))
    place.withdraw("p", now=late)
    (change,) = place.open().state_of("p").changes
    assert isinstance(change.entry, Withdrawal)
    assert change.entry.day == datetime.date(2026, 3, 2)


def test_counts_are_those_of_the_patients_one_by_one(place: Place) -> None:
    rng = np.random.default_rng(7)
    rows = []
    for number in range(200):
        begin = DAY + int(rng.integers(-400, 40)) * ONE
        end = begin + int(rng.integers(0, 500)) * ONE
        words = [purpose for purpose in PURPOSES if rng.random() < 0.6] or ["care"]
        given = consent(*words, valid_from=begin, valid_until=end)
        taken = begin if rng.random() < 0.1 and begin <= DAY else None
        rows.append(ConsentRecord(f"p{number % 150}", given, taken))
    place.take_in(*rows)
    register = place.open()
    patients = [f"p{number}" for number in range(150)]
    for purpose in PURPOSES:
        singly = [register.state_of(patient).reason(purpose, DAY) for patient in patients]
        assert register.verdicts(patients, purpose, DAY).tolist() == singly
        tally = {reason: singly.count(reason) for reason in REASONS if reason in singly}
        assert register.tally(DAY)[purpose] == tally
        assert register.counts(DAY)[purpose] == singly.count("")
    ending = {each.pseudonym: each for each in register.expiring(DAY, 90)}
    for patient in patients:
        state, lost = register.state_of(patient), {}
        for purpose in PURPOSES:
            days = [DAY + step * ONE for step in range(92)]
            covered = [state.reason(purpose, day) == "" for day in days]
            if covered[0] and not all(covered):
                lost[purpose] = days[covered.index(False)] - ONE
        found = ending.get(pseudonym(KEY, patient))
        if not lost:
            assert found is None
        else:
            assert found is not None
            assert (found.purposes, found.until) == (tuple(lost), min(lost.values()))


def test_a_renewed_consent_does_not_expire(place: Place) -> None:
    ends = DAY + 10 * ONE
    place.grant("p", consent(valid_until=ends))
    (found,) = place.open().expiring(DAY, 10)
    assert (found.until, found.purposes) == (ends, ("care", "research"))
    assert place.open().expiring(DAY, 9) == ()
    place.grant("p", consent("research", valid_from=ends + ONE))
    (found,) = place.open().expiring(DAY, 90)
    assert found.purposes == ("care",)
    with pytest.raises(ConfigError, match="within_days"):
        place.open().expiring(DAY, -1)


_DAYS = st.integers(-20, 20).map(lambda step: DAY + step * ONE)
_WORDS = st.lists(st.sampled_from(PURPOSES), min_size=1, max_size=3)
_GIVEN = st.builds(
    lambda words, begin, length: consent(
        *words, valid_from=begin, valid_until=None if length is None else begin + length * ONE
    ),
    _WORDS,
    _DAYS,
    st.none() | st.integers(0, 30),
)
_TAKEN = st.builds(
    lambda words, day, listed: Withdrawal(purposes=tuple(words), day=day, with_form=listed),
    _WORDS,
    _DAYS,
    st.booleans(),
)
_HISTORIES = st.lists(_GIVEN | _TAKEN, max_size=8)


@given(_HISTORIES, st.sampled_from(PURPOSES), _DAYS)
@settings(max_examples=200, deadline=None)
def test_rules_agree_with_their_words(
    history: list[Entry], purpose: Purpose, day: datetime.date
) -> None:
    """A consent stands if no withdrawal of its purpose beats it, judged pair by pair."""

    def beaten(place: int, given: Consent) -> bool:
        for other, entry in enumerate(history):
            if isinstance(entry, Consent) or purpose not in entry.purposes:
                continue
            later_form = given.valid_from > entry.day
            if other > place and not (entry.with_form and later_form):
                return True
            if other < place and given.valid_from < entry.day:
                return True
        return False

    alive = [
        entry
        for number, entry in enumerate(history)
        if isinstance(entry, Consent) and purpose in entry.purposes and not beaten(number, entry)
    ]
    assert list(standing(history, purpose)) == alive
    covered = any(each.holds_on(day) for each in alive)
    assert (judge(history, purpose, day) == "") == covered


@given(_HISTORIES, st.sampled_from(PURPOSES), _DAYS, _TAKEN)
@settings(max_examples=200, deadline=None)
def test_a_further_no_never_opens_anything(
    history: list[Entry], purpose: Purpose, day: datetime.date, no: Withdrawal
) -> None:
    if judge(history, purpose, day) != "":
        assert judge([*history, no], purpose, day) != ""
    if purpose in no.purposes and not no.with_form:
        assert judge([*history, no], purpose, day) == "withdrawn"


def _filled(place: Place) -> bytes:
    place.take_in(ConsentRecord("p", consent()), ConsentRecord("q", consent("research")))
    place.grant("q", consent("teaching"))
    place.withdraw("p")
    return place.file.read_bytes()


def test_a_changed_byte_is_noticed_wherever_it_is(place: Place) -> None:
    place.take_in(ConsentRecord("p", consent()))
    place.withdraw("p")
    content = place.file.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        place.file.write_bytes(changed)
        with pytest.raises(IntegrityError, match="consent register of clinic north"):
            place.open().verdicts(["p"], "research", DAY)
    place.file.write_bytes(content)
    assert place.reason("p", "research") == "withdrawn"


def test_lines_cut_off_are_noticed(place: Place) -> None:
    lines = _filled(place).splitlines(keepends=True)
    for kept in range(len(lines)):
        place.file.write_bytes(b"".join(lines[:kept]))
        with pytest.raises(IntegrityError, match="consent register"):
            place.open().counts(DAY)
    place.file.unlink()
    with pytest.raises(IntegrityError, match="consent register"):
        place.open().counts(DAY)


def test_another_clinics_key_is_noticed(place: Place) -> None:
    _filled(place)
    with pytest.raises(IntegrityError, match=r"consent register of clinic north.*key"):
        place.open(key=bytes(32)).counts(DAY)


# Kills a child of its own just before its n-th call of what touches the disk, for n = 1, 2, ...,
# until a child gets through, and says after each what the register is.
_KILLED = """
import datetime, os, shutil, signal, sys
from pathlib import Path
from skinml.journal import Journal, KeyedSeal
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.consent import Consent, ConsentRecord, ConsentRegister
from skinml.stewardship.encryption import derive_key

key, now = bytes(range(32)), datetime.datetime(2026, 3, 1, 9, 30, tzinfo=datetime.UTC)
day, start, place = now.date(), Path(sys.argv[1]), Path(sys.argv[2])
given = Consent(purposes=("research",), valid_from=day, form_version="v3", how="paper",
                given_by="parent")

def register():
    anchors = Anchors(place / "anchors.json", "north", key)
    journal = Journal(place / "consent.journal", "consent register of clinic north",
                      KeyedSeal(derive_key(key, "consent journal")), anchors.journal("consent"))
    return ConsentRegister(journal, key)

def change(kind):
    told = {"now": now, "actor": "ada"}
    if kind == "grant":
        register().grant("new", given, **told)
    elif kind == "withdraw":
        register().withdraw("q", **told)
    else:
        rows = [ConsentRecord(f"new{number}", given) for number in range(50)]
        register().import_records(rows, source_digest="another", **told)

def seen():
    found = register()
    names = ["p", "q", "new", *(f"new{number}" for number in range(50))]
    words = [str(word) for word in found.verdicts(names, "research", day)]
    return str(found.mark().count) + " " + ",".join(words)

for kind in ("grant", "withdraw", "import"):
    for number in range(1, 200):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(start, place)
        child = os.fork()
        if child == 0:
            left = [number]
            def before(frame, event, call):
                name = getattr(call, "__name__", "")
                if event == "c_call" and name in ("write", "flush", "fsync", "replace", "rename",
                                                  "ftruncate", "truncate", "unlink"):
                    left[0] -= 1
                    if not left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)
            sys.setprofile(before)
            change(kind)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        print(kind, int(killed), seen(), sep="|")
        change(kind)
        print(kind, 2, seen(), sep="|")
        if not killed:
            break
"""


def test_killed_at_any_point_leaves_the_old_register_or_the_new_one(
    place: Place, tmp_path: Path
) -> None:
    start = Place(tmp_path / "start")
    start.folder.mkdir()
    _filled(start)
    words = [sys.executable, "-c", _KILLED, str(start.folder), str(tmp_path / "work")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    rest = ["no consent"] * 50
    old = _seen(3, ["withdrawn", "", "no consent", *rest])
    new = {
        "grant": _seen(4, ["withdrawn", "", "", *rest]),
        "withdraw": _seen(4, ["withdrawn", "withdrawn", "no consent", *rest]),
        "import": _seen(4, ["withdrawn", "", "no consent", *[""] * 50]),
    }
    points: dict[str, int] = dict.fromkeys(new, 0)
    states: dict[str, set[str]] = {kind: set() for kind in new}
    for line in done.stdout.splitlines():
        kind, killed, state = line.split("|")
        if killed == "2":  # and the change can be made after the crash, once
            assert state.split(" ", 1)[1] == new[kind].split(" ", 1)[1]
            continue
        assert state in (old, new[kind])
        assert killed == "1" or state == new[kind]
        points[kind] += killed == "1"
        states[kind].add(state)
    assert min(points.values()) >= 8, points
    assert states == {kind: {old, new[kind]} for kind in new}


def _seen(lines: int, verdicts: Sequence[str]) -> str:
    return f"{lines} {','.join(verdicts)}"
