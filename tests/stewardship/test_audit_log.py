"""The audit log: closed fields, a signature on every line, and exports that check offline."""

from __future__ import annotations

import json
import time
from datetime import UTC, date, datetime, timedelta, timezone
from math import inf, nan
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from skinml.errors import ConfigError, EnvironmentProblem, IntegrityError
from skinml.journal import Journal
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.audit_events import (
    EVENTS,
    EXCLUSION_REASONS,
    FIELDS,
    Event,
    checked_fields,
    fields_of,
)
from skinml.stewardship.audit_log import (
    LINE,
    AuditLog,
    KeptMark,
    verify_export,
    verify_log,
)
from skinml.stewardship.consent_rules import GIVERS, HOWS, REASONS
from skinml.stewardship.policy import Trust, Unit
from skinml.stewardship.signing import Signature, new_signing_key, public_key_hex

KEY = bytes(range(32))
NOW = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
DIGEST, PSEUDONYM = "0f" * 32, "a0" * 16


def opened(place: Path, anchor: Any = None) -> AuditLog:
    return AuditLog(place / "audit.journal", "c1", KEY, anchor)


@pytest.fixture
def anchor(tmp_path: Path) -> Any:
    anchors = Anchors(tmp_path / "anchors.json", "c1", KEY)
    anchors.create()
    return anchors.journal("audit")


@pytest.fixture
def log(tmp_path: Path, anchor: Any) -> AuditLog:
    made = opened(tmp_path, anchor)
    made.write("folder created", "root", now=NOW, public_key=made.public_key)
    made.write("access", "ada", now=NOW, kind="images", patients=3, purpose="care")
    made.write("consent withdrawn", "bo", now=NOW, patient=PSEUDONYM, purposes=("research",))
    return made


def test_entries_are_read_back_as_they_were_written(log: AuditLog, tmp_path: Path) -> None:
    created, access, withdrawn = opened(tmp_path).entries()
    assert (created.number, access.number, withdrawn.number) == (0, 1, 2)
    assert access.at == "2026-03-01T09:30:00+00:00"
    assert (access.actor, access.event) == ("ada", "access")
    assert access.fields == {"kind": "images", "patients": 3, "purpose": "care"}
    assert withdrawn.fields == {"patient": PSEUDONYM, "purposes": ["research"]}


def test_times_are_written_in_utc_and_a_time_without_zone_is_refused(log: AuditLog) -> None:
    there = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert log.write("folder opened", "ada", now=there).at == "2026-03-01T09:30:00+00:00"
    with pytest.raises(ConfigError, match="time zone"):
        log.write("folder opened", "ada", now=datetime(2026, 3, 1))


def test_every_line_has_a_signature_that_another_library_call_accepts(log: AuditLog) -> None:
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key_hex(KEY)))
    for line in log.path.read_bytes().splitlines():
        values = json.loads(line)
        signature = bytes.fromhex(values.pop("seal"))
        signed = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
        public.verify(signature, b"skinml audit log line\n" + signed)
        with pytest.raises(InvalidSignature):
            public.verify(signature, b"skinml audit log export\n" + signed)


def test_two_new_keys_differ_and_a_public_key_is_its_own() -> None:
    one, other = new_signing_key(), new_signing_key()
    assert len(one) == len(other) == 32
    assert public_key_hex(one) != public_key_hex(other)
    with pytest.raises(ConfigError, match="its own public key"):
        Signature(public_key_hex(one), other, about=LINE)
    with pytest.raises(ConfigError, match="32 bytes"):
        public_key_hex(b"short")


@pytest.mark.parametrize("key", ["", "0", "zz" * 32, "00" * 31, "AB" * 32, "00" * 31 + " 00"])
def test_a_malformed_public_key_is_the_users_error(log: AuditLog, key: str) -> None:
    with pytest.raises(ConfigError, match="public key"):
        verify_log(log.path, key)


# The closed table.

GOOD: dict[str, Any] = {
    "action": "erase",
    "admitted": {"licence": 3},
    "answer": "yes",
    "data": ("images", "records"),
    "day": date(2026, 3, 1),
    "epsilon": inf,
    "given_by": "guardian",
    "how": "paper",
    "journal": "ledger",
    "key": "patient keys",
    "kind": "audit log",
    "outcome": "completed",
    "patient": PSEUDONYM,
    "purpose": "care",
    "purposes": ("care", "research"),
    "reason": "role",
    "reasons": {"face": 2},
    "states": {"accepted": 3, "to_review": 1},
    "refused": {"withdrawn": 1},
    "releases": ("gradient",),
    "rule": "bulk access",
    "restricted": True,
    "right": "erase",
    "simulated": True,
    "since": NOW,
    "terms": ("max_epsilon_per_run",),
    "trust": "local",
    "unit": "patient",
    "valid_from": date(2026, 3, 1),
    "valid_until": date(2027, 3, 1),
    "withdrawn_on": date(2026, 3, 1),
}
NAMES = {"coordinator", "experiment", "form", "run", "who"}
DIGESTS = {"after", "before", "digest", "head", "policy", "public_key", "source"}


def good(name: str) -> Any:
    return GOOD.get(name, "a-name" if name in NAMES else DIGEST if name in DIGESTS else 7)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_takes_all_its_fields_and_no_other(event: Event, tmp_path: Path) -> None:
    log = opened(tmp_path)
    fields = {name: good(name) for name in fields_of(event)}
    entry = log.write(event, "ada", now=NOW, **fields)
    assert set(entry.fields) == set(fields)
    assert opened(tmp_path).entries() == (entry,)
    for other in sorted(set(FIELDS) - set(fields)):
        with pytest.raises(ConfigError, match=f"unknown {other}"):
            log.write(event, "ada", now=NOW, **fields, **{other: good(other)})


PERSONAL = [
    "Anna Schmidt",
    "P-0001 of ward 3",
    "/images/anna.jpg",
    "Müller",
    "a\nb",
    "",
    "x" * 200,
    -1,
    1.5,
    nan,
    True,
    2**60,
    ["Anna Schmidt"],
    {"Anna Schmidt": 1},
    {"withdrawn": "Anna"},
    b"bytes",
    object(),
]


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_no_field_takes_text_that_could_name_a_person_or_a_path(name: str) -> None:
    event = next(event for event in EVENTS if name in fields_of(event))
    others = {field: good(field) for field in fields_of(event) if field != name}
    for value in PERSONAL:
        number = name in {"epsilon", "delta", "noise_multiplier"} and value in (1.5, 2**60)
        if number or (name in {"simulated", "restricted"} and value is True):
            continue
        with pytest.raises(ConfigError) as caught:
            checked_fields(event, {**others, name: value})
        assert "Anna" not in str(caught.value)
        assert "ward 3" not in str(caught.value)


def test_an_infinite_epsilon_is_unbounded_and_none_is_no_field() -> None:
    told = checked_fields("run approved", {"run": "r-1", "epsilon": inf, "purpose": None})
    assert told == {"epsilon": "unbounded", "run": "r-1"}


@pytest.mark.parametrize("actor", ["", "Anna Schmidt", "a/b", "a\n", "x" * 65, "-rf"])
def test_an_actor_is_a_users_name(log: AuditLog, actor: str) -> None:
    with pytest.raises(ConfigError):
        log.write("folder opened", actor, now=NOW)
    assert len(log.entries()) == 3


@pytest.mark.parametrize("actor", ["root", "ada.l", "www-data", "CLINIC\\ada", "host$", "a@b.c"])
def test_users_names_of_usual_systems_are_actors(log: AuditLog, actor: str) -> None:
    assert log.write("folder opened", actor, now=NOW).actor == actor


def test_unknown_events_and_missing_fields_are_refused(log: AuditLog) -> None:
    with pytest.raises(ConfigError, match="table"):
        log.write("gossip", "ada", now=NOW)  # type: ignore[arg-type]  # what the test is about
    with pytest.raises(ConfigError, match="no patients"):
        log.write("erasure", "ada", now=NOW)


def test_the_tables_words_are_those_of_the_rooms_that_use_them() -> None:
    assert set(REASONS) - {""} <= set(EXCLUSION_REASONS)
    for name, words in (("how", HOWS), ("given_by", GIVERS)):
        assert all(FIELDS[name](word) == word for word in words)
    assert all(FIELDS["trust"](word) == word for word in get_args(Trust))
    assert all(FIELDS["unit"](word) == word for word in get_args(Unit))


# Changes.


def test_every_flipped_bit_shows_on_opening_and_offline(
    log: AuditLog, tmp_path: Path, anchor: Any
) -> None:
    content = log.path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        log.path.write_bytes(changed)
        with pytest.raises(IntegrityError):
            verify_log(log.path, log.public_key)
        with pytest.raises(IntegrityError, match="audit log of clinic c1"):
            opened(tmp_path, anchor).entries()


def test_lines_taken_out_doubled_or_swapped_show_offline(log: AuditLog) -> None:
    one, two, three = log.path.read_bytes().splitlines(keepends=True)
    for lines in ([two, three], [one, three], [one, one, two], [one, three, two], [three]):
        log.path.write_bytes(b"".join(lines))
        with pytest.raises(IntegrityError, match="line"):
            verify_log(log.path, log.public_key)


def test_a_cut_shows_offline_only_against_a_kept_mark(log: AuditLog) -> None:
    mark = log.mark()
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:2]))
    assert verify_log(log.path, log.public_key).mark.count == 2
    assert not verify_log(log.path, log.public_key).anchored
    with pytest.raises(IntegrityError, match="2 of 3 lines"):
        verify_log(log.path, log.public_key, KeptMark(mark))


def test_a_line_signed_with_another_key_shows_although_the_chain_is_whole(
    log: AuditLog, tmp_path: Path
) -> None:
    """Opening checks the last signature only; the offline check looks at each."""
    public = public_key_hex(KEY)

    class Forger(Signature):
        def make(self, content: bytes) -> str:
            return "00" * 64

    path = tmp_path / "audit.journal"
    forged = Journal(path, "audit log of clinic c1", Forger(public, KEY, about=LINE))
    body = {"actor": "eve", "at": NOW.isoformat(), "event": "folder opened", "fields": {}}
    forged.append(lambda _: [body])
    genuine = Journal(path, "audit log of clinic c1", Signature(public, KEY, about=LINE))
    with pytest.raises(IntegrityError):
        genuine.read()
    with pytest.raises(IntegrityError, match="line 4"):
        verify_log(path, public)


def test_another_history_under_the_same_key_shows_against_a_kept_mark(
    log: AuditLog, tmp_path: Path
) -> None:
    mark = log.mark()
    (tmp_path / "other").mkdir()
    other = opened(tmp_path / "other")
    for _ in range(5):
        other.write("folder opened", "eve", now=NOW)
    assert verify_log(other.path, log.public_key).mark.count == 5
    with pytest.raises(IntegrityError, match="another line 3"):
        verify_log(other.path, log.public_key, KeptMark(mark))


def test_another_clinics_log_does_not_open_and_its_key_checks_nothing_here(
    log: AuditLog, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError):
        AuditLog(log.path, "c2", KEY).entries()
    with pytest.raises(IntegrityError, match="line 1"):
        verify_log(log.path, public_key_hex(new_signing_key()))


@pytest.mark.parametrize("content", [b"\n", b"{}\n", b"null\n", b"\xff\n", b"[" * 99_999 + b"\n"])
def test_whatever_else_stands_there_is_no_log(log: AuditLog, content: bytes) -> None:
    log.path.write_bytes(content)
    with pytest.raises(IntegrityError):
        verify_log(log.path, log.public_key)


def test_checking_needs_no_right_to_write(log: AuditLog, tmp_path: Path) -> None:
    log.path.chmod(0o400)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert verify_log(log.path, log.public_key).mark == log.mark()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# Exports.


@pytest.fixture
def exported(log: AuditLog, tmp_path: Path) -> Path:
    log.export(tmp_path / "out", now=NOW)
    return tmp_path / "out"


def test_an_export_checks_with_and_without_a_key_of_ones_own(log: AuditLog, exported: Path) -> None:
    for key in (None, log.public_key):
        check = verify_export(exported, key)
        assert check.mark == log.mark()
        assert check.entries == log.entries()
        assert check.public_key == log.public_key


def test_an_export_by_somebody_else_fits_itself_but_not_the_clinics_key(
    log: AuditLog, tmp_path: Path
) -> None:
    (tmp_path / "eve").mkdir()
    eve = AuditLog(tmp_path / "eve" / "audit.journal", "c1", new_signing_key())
    eve.write("folder opened", "ada", now=NOW)
    eve.export(tmp_path / "forged", now=NOW)
    assert verify_export(tmp_path / "forged").public_key == eve.public_key
    with pytest.raises(IntegrityError, match="did not sign"):
        verify_export(tmp_path / "forged", log.public_key)


def test_flipped_bits_and_cuts_anywhere_in_an_export_show(exported: Path) -> None:
    for path in sorted(exported.iterdir()):
        content = path.read_bytes()
        for place in range(0, len(content), 3):
            changed = bytearray(content)
            changed[place] ^= 1 << (place % 8)
            path.write_bytes(changed)
            with pytest.raises((IntegrityError, ConfigError)):
                verify_export(exported)
        for size in range(0, len(content), 20):
            path.write_bytes(content[:size])
            with pytest.raises((IntegrityError, ConfigError)):
                verify_export(exported)
        path.write_bytes(content)
    verify_export(exported)


def test_whole_lines_cut_off_or_added_to_an_export_show(log: AuditLog, exported: Path) -> None:
    copy = exported / "audit.journal"
    content = copy.read_bytes()
    copy.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    with pytest.raises(IntegrityError, match="2 of 3 lines"):
        verify_export(exported)
    log.write("folder opened", "ada", now=NOW)
    copy.write_bytes(log.path.read_bytes())
    with pytest.raises(IntegrityError, match="4 lines instead of 3"):
        verify_export(exported)
    copy.unlink()
    with pytest.raises(IntegrityError, match="without its log"):
        verify_export(exported)


def test_an_export_overwrites_nothing(log: AuditLog, exported: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="empty folder"):
        log.export(exported, now=NOW)
    with pytest.raises(EnvironmentProblem):
        log.export(exported / "statement.json", now=NOW)


def test_a_log_that_was_never_written_exports_nothing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem):
        opened(tmp_path).export(tmp_path / "out", now=NOW)


def test_opening_takes_a_fraction_of_what_checking_each_signature_takes(tmp_path: Path) -> None:
    log = opened(tmp_path)
    body = dict(log.write("access", "ada", now=NOW, kind="images", patients=3).__dict__)
    body.pop("number")
    log._journal.append(lambda _: [body] * 9_999)
    began = time.process_time()
    assert len(opened(tmp_path).entries()) == 10_000
    open_s = time.process_time() - began
    assert verify_log(log.path, log.public_key).mark.count == 10_000
    check_s = time.process_time() - began - open_s
    assert open_s < check_s / 2  # about a ninth
