"""The ledger: what was spent cannot be unspent, and a change shows."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf

import pytest

from skinml.errors import BudgetExceededError, EnvironmentProblem, IntegrityError
from skinml.journal import Journal, KeyedSeal
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import GaussianEvent, SampledGaussianEvent, UnprotectedEvent
from skinml.privacy.ledger import Binding, Ceilings, Ledger, require_affordable, spent
from skinml.stewardship.anchors import Anchors
from tests.full_disk import full_disk

DELTA = 1e-5
KEY = bytes(range(32))
BINDING = Binding(
    run="run-1",
    round=1,
    attempt=1,
    participants=("a", "b"),
    trust="local",
    unit="patient_within_clinic",
    split_key_id="k",
    simulated=True,
)
TRAIN = ("gradient", "training", "train", GaussianEvent(4.0))
COUNTS = ("label_counts", "label counts", "train", GaussianEvent(9.0))
SAMPLED = ("weights", "training", "train", SampledGaussianEvent(1.3, 0.1, 5))
VALIDATION = ("validation_scores", "validation", "validation", GaussianEvent(2.0))


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.jsonl", "a", KEY)


def reopened(ledger):
    return Ledger(ledger.path, ledger.clinic, KEY)


def filled(ledger, rounds=3):
    for number in range(1, rounds + 1):
        ledger.reserve(replace(BINDING, round=number), [TRAIN])
    return ledger


def test_what_was_reserved_is_read_back(ledger):
    first = ledger.reserve(BINDING, [COUNTS, TRAIN])
    second = ledger.reserve(replace(BINDING, round=2), [SAMPLED], guarantee=False)
    assert ledger.entries() == reopened(ledger).entries() == first + second
    assert [entry.index for entry in first + second] == [0, 1, 2]
    assert [entry.event for entry in first + second] == [COUNTS[3], TRAIN[3], SAMPLED[3]]
    assert [entry.guarantee for entry in first + second] == [True, True, False]
    assert second[0].binding == replace(BINDING, round=2)


def test_no_ledger_is_an_empty_ledger(ledger):
    assert ledger.entries() == ()
    assert not ledger.path.exists()


def test_a_ledger_is_for_its_owner_alone(ledger):
    filled(ledger)
    assert ledger.path.stat().st_mode & 0o077 == 0


def test_every_line_is_json_with_its_schema(ledger):
    filled(ledger)
    for line in ledger.path.read_text().splitlines():
        assert json.loads(line)["body"]["schema"] == 2


def anchored(tmp_path):
    anchors = Anchors(tmp_path / "anchors.json", "a", KEY)
    if not anchors.path.exists():
        anchors.create()
    return Ledger(tmp_path / "ledger.jsonl", "a", KEY, anchors.journal("ledger"))


def test_a_flipped_byte_shows_wherever_it_is(tmp_path):
    """Every position, the last line's and its newline's included."""
    ledger = filled(anchored(tmp_path), 2)
    content = ledger.path.read_bytes()
    unseen = []
    for place in range(len(content)):
        for change in (0x01, content[place] ^ ord("\n")):
            if change == 0:
                continue
            changed = bytearray(content)
            changed[place] ^= change
            ledger.path.write_bytes(bytes(changed))
            try:
                anchored(tmp_path).entries()
                unseen.append((place, change))
            except IntegrityError:
                pass
    assert unseen == []


def test_a_change_shows_to_whoever_read_the_ledger_before(ledger):
    """The verified beginning that a reader remembers is compared, not trusted."""
    filled(ledger).entries()
    content = ledger.path.read_bytes()
    ledger.path.write_bytes(
        content.replace(b'"noise_multiplier":4.0', b'"noise_multiplier":9.0', 1)
    )
    with pytest.raises(IntegrityError):
        ledger.entries()
    with pytest.raises(IntegrityError):
        ledger.reserve(BINDING, [TRAIN])


@pytest.mark.parametrize(
    "order", [(1, 2), (0, 2), (1, 0, 2), (0, 2, 1), (0, 0, 1, 2), (0, 1, 2, 1)]
)
def test_lines_taken_out_repeated_or_reordered_show(ledger, order):
    lines = filled(ledger).path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[i] for i in order))
    with pytest.raises(IntegrityError):
        reopened(ledger).entries()


def test_lines_cut_off_the_end_and_older_copies_show_against_the_anchor(tmp_path):
    ledger = filled(anchored(tmp_path), 3)
    content = ledger.path.read_bytes()
    lines = content.splitlines(keepends=True)
    for kept in range(3):
        ledger.path.write_bytes(b"".join(lines[:kept]))
        with pytest.raises(IntegrityError, match=f"{kept} of 3 lines"):
            anchored(tmp_path).entries()
    ledger.path.unlink()
    with pytest.raises(IntegrityError, match="0 of 3 lines"):
        anchored(tmp_path).entries()
    ledger.path.write_bytes(content)
    assert len(anchored(tmp_path).entries()) == 3


def test_another_clinics_ledger_is_no_ledger_of_ours(ledger):
    filled(ledger)
    with pytest.raises(IntegrityError):
        Ledger(ledger.path, "b", KEY).entries()


def test_without_the_key_no_line_passes(ledger):
    filled(ledger)
    with pytest.raises(IntegrityError):
        Ledger(ledger.path, "a", KEY[::-1]).entries()


def test_a_torn_last_line_is_dropped_and_the_next_follows(ledger):
    """Only a whole line was followed by a release; part of one is a crash before it."""
    content = filled(ledger).path.read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in range(1, len(lines[2]) - 1):
        ledger.path.write_bytes(content[:-cut] if cut > 1 else content[: len(content) - 2])
        assert len(reopened(ledger).entries()) == 2
    reopened(ledger).reserve(replace(BINDING, round=9), [TRAIN])
    assert [entry.binding.round for entry in reopened(ledger).entries()] == [1, 2, 9]


def test_zeros_that_a_power_cut_left_behind_are_dropped(ledger):
    content = filled(ledger).path.read_bytes()
    ledger.path.write_bytes(content + bytes(100))
    assert len(reopened(ledger).entries()) == 3


@pytest.mark.parametrize(
    "change",
    [{"schema": 3}, {"schema": None}, {"event": {"type": "laplace", "scale": 1.0}}, {"more": 1}],
)
def test_an_unknown_schema_event_or_field_is_refused(ledger, change):
    line = json.loads(filled(ledger, 1).path.read_bytes())
    ledger.path.unlink()
    journal = Journal(ledger.path, "privacy ledger of clinic a", KeyedSeal(KEY))
    journal.append(lambda _: [line["body"]])
    assert len(reopened(ledger).entries()) == 1
    journal.append(lambda _: [line["body"] | {"index": 1} | change])
    with pytest.raises(IntegrityError):
        reopened(ledger).entries()


@pytest.mark.parametrize(
    "line", [b"[]\n", b"1\n", b"null\n", b"{}\n", b"\n", b"\xff\n", b"[" * 9999]
)
def test_a_line_that_is_no_entry_is_refused_or_torn(ledger, line):
    filled(ledger, 1)
    with ledger.path.open("ab") as file:
        file.write(line)
    if line.endswith(b"\n"):
        with pytest.raises(IntegrityError):
            reopened(ledger).entries()
    else:
        assert len(reopened(ledger).entries()) == 1


APPEND = """
import sys
from pathlib import Path
from skinml.privacy.events import GaussianEvent
from skinml.privacy.ledger import Binding, Ledger
ledger = Ledger(Path(sys.argv[1]), "a", bytes(range(32)))
binding = Binding(sys.argv[2], 1, 1, ("a",), "local", "patient", "k", True)
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    ledger.reserve(binding, [("gradient", "training", "train", GaussianEvent(1.0 + number))] * 2)
"""


def test_processes_that_append_at_once_keep_one_whole_chain(ledger):
    command = [sys.executable, "-c", APPEND, str(ledger.path)]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("run-1", "run-2")
    ]
    for writer in writers:
        writer.stdout.readline()
    for writer in writers:
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    entries = reopened(ledger).entries()
    assert len(entries) == 160
    for run in ("run-1", "run-2"):
        noises = [e.event.noise_multiplier for e in entries if e.binding.run == run]
        assert noises == [1.0 + number for number in range(40) for _ in range(2)]
    assert all(
        a.binding.run == b.binding.run for a, b in zip(entries[::2], entries[1::2], strict=True)
    )


def test_a_ledger_that_cannot_be_written_is_the_machines_fault(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblem, match="ledger"):
        Ledger(tmp_path / "file" / "ledger.jsonl", "a", KEY).reserve(BINDING, [TRAIN])


def test_a_full_disk_lets_nothing_be_released(ledger):
    with full_disk(700):
        filled(ledger, 1)
        with pytest.raises(EnvironmentProblem, match="ledger"):
            filled(ledger, 3)
    assert len(reopened(ledger).entries()) == 1  # and what was torn is no entry


def test_whoever_refuses_leaves_nothing_in_the_ledger(ledger):
    filled(ledger)
    seen = []

    def refuse(entries):
        seen.extend(entries)
        raise BudgetExceededError(rule="a budget", got="none", do="Stop.")

    with pytest.raises(BudgetExceededError):
        ledger.reserve(BINDING, [TRAIN], admit=refuse)
    assert tuple(seen) == ledger.entries()
    assert len(seen) == 3


def test_splits_with_one_key_are_charged_apart(ledger):
    ledger.reserve(BINDING, [COUNTS, TRAIN, VALIDATION])
    train = epsilon([COUNTS[3], TRAIN[3]], DELTA)
    validation = epsilon([VALIDATION[3]], DELTA)
    assert spent(ledger.entries(), DELTA) == max(train, validation) == validation


def test_with_two_split_keys_everything_composes(ledger):
    """A patient may have been a training patient under one key and held out under the other."""
    ledger.reserve(BINDING, [TRAIN])
    ledger.reserve(replace(BINDING, run="run-2", split_key_id="other"), [VALIDATION])
    whole = epsilon([TRAIN[3], VALIDATION[3]], DELTA)
    assert spent(ledger.entries(), DELTA) == whole
    assert whole > epsilon([VALIDATION[3]], DELTA)


def test_runs_compose_and_do_not_add_up(ledger):
    """P7 and the golden figure of five runs, with the ledger opened anew for each."""
    event = SampledGaussianEvent(1.1, 0.02, 500)
    for number in range(5):
        release = ("weights", "training", "train", event)
        reopened(ledger).reserve(replace(BINDING, run=f"run-{number}"), [release])
    assert spent(ledger.entries(), DELTA) == pytest.approx(5.31, abs=0.005)


def test_nothing_spent_is_zero_and_anything_bare_is_infinite(ledger):
    assert spent((), DELTA) == 0
    ledger.reserve(BINDING, [TRAIN, ("sum", "training", "validation", UnprotectedEvent())])
    assert spent(ledger.entries(), DELTA) == inf


def test_fixed_noise_buys_no_certificate(ledger):
    """P10."""
    ledger.reserve(BINDING, [TRAIN], guarantee=False)
    assert spent(ledger.entries(), DELTA) == inf


def test_a_reservation_is_spent_whatever_happens_next(ledger):
    before = spent(filled(ledger, 1).entries(), DELTA)
    with pytest.raises(ZeroDivisionError):
        ledger.reserve(replace(BINDING, round=2), [TRAIN])[0].index / 0  # the release failed
    assert spent(reopened(ledger).entries(), DELTA) > before


NOW = datetime(2027, 3, 1, tzinfo=UTC)


def afford(held, planned, ceilings, now=NOW):
    require_affordable(held, planned, ceilings, delta=DELTA, now=now)


def test_a_ceiling_for_the_year_forgets_what_is_older_and_one_for_a_run_the_other_runs(ledger):
    old, recent, planned = (
        replace(entry, time=time, binding=replace(BINDING, run=run))
        for entry, time, run in zip(
            filled(ledger, 3).entries(),
            ("2026-02-28T23:59:59+00:00", "2026-03-01T00:00:01+00:00", "2027-03-01T00:00:00+00:00"),
            ("run-1", "run-2", "run-3"),
            strict=True,
        )
    )
    one, two = spent((planned,), DELTA), spent((recent, planned), DELTA)
    afford((old, recent), (planned,), Ceilings(run=one, year=two))
    with pytest.raises(BudgetExceededError, match="a year"):
        afford((old, recent), (planned,), Ceilings(year=two), now=NOW - timedelta(seconds=9))
    with pytest.raises(BudgetExceededError, match="a run"):
        afford((old, recent), (planned,), Ceilings(run=one - 1e-6))
    with pytest.raises(BudgetExceededError, match="total"):
        afford((old, recent), (planned,), Ceilings(life=two))


def test_what_is_affordable_is_decided_before_and_at_the_limit(ledger):
    held, planned = filled(ledger, 2).entries(), filled(ledger, 4).entries()[2:]
    total = spent((*held, *planned), DELTA)
    afford(held, planned, Ceilings())
    afford(held, planned, Ceilings(life=total))
    with pytest.raises(BudgetExceededError) as refusal:
        afford(held, planned, Ceilings(life=total - 1e-6))
    assert f"{spent(held, DELTA):.3f} spent so far" in str(refusal.value)
    assert refusal.value.exit_code == 3


def test_no_budget_affords_an_unprotected_release(ledger):
    planned = ledger.reserve(BINDING, [("sum", "training", "train", UnprotectedEvent())])
    with pytest.raises(BudgetExceededError, match="unbounded"):
        afford((), planned, Ceilings(life=50.0))
