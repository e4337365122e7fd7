"""A run's lines cut out of a ledger: followed without the rest, and held against it later."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from skinml.errors import IntegrityError
from skinml.privacy.events import GaussianEvent
from skinml.privacy.ledger import Binding, Ledger, spent
from skinml.privacy.ledger_extract import (
    Extract,
    Stretch,
    extract_of,
    extracts_json,
    follow,
    read_extracts,
    stands_in,
)

KEY = b"k" * 32


def charge(ledger: Ledger, run: str, rounds: range) -> None:
    for number in rounds:
        binding = Binding(
            run, number, 1, ("north", "south"), "distributed", "patient_within_clinic", "s", True
        )
        release = ("gradient", "training", "train", GaussianEvent(4.0 + number))
        ledger.reserve(binding, [release])


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Five lines of run a, two of run b between them."""
    made = Ledger(tmp_path / "ledger.jsonl", "north", KEY)
    charge(made, "a", range(1, 3))
    charge(made, "b", range(1, 3))
    charge(made, "a", range(3, 6))
    return made


@pytest.fixture
def extract(ledger: Ledger) -> Extract:
    return extract_of(ledger, "a", 7)


def test_an_extract_has_the_runs_own_lines_and_of_others_digests_alone(
    ledger: Ledger, extract: Extract
) -> None:
    own = [entry for entry in ledger.entries() if entry.binding.run == "a"]
    assert list(follow(extract)) == own
    assert [(each.first, len(each.lines)) for each in extract.stretches] == [(0, 2), (4, 3)]
    assert b'\\"run\\":\\"b\\"' not in extracts_json([extract])
    assert b'\\"run\\":\\"a\\"' in extracts_json([extract])
    assert spent(follow(extract), 1e-5) == spent(own, 1e-5)
    assert not extract.whole
    assert extract_of(ledger, "b", 4).whole is False
    assert extract_of(ledger, "a", 2).whole


def test_an_extract_stands_in_the_ledger_after_later_runs_too(
    ledger: Ledger, extract: Extract
) -> None:
    charge(ledger, "c", range(1, 4))
    (read,) = read_extracts(extracts_json([extract]))
    assert read == extract
    assert stands_in(read, ledger)


def test_an_extract_of_another_ledger_does_not_stand_in_it(
    ledger: Ledger, extract: Extract, tmp_path: Path
) -> None:
    other = Ledger(tmp_path / "other.jsonl", "north", KEY)
    charge(other, "a", range(1, 8))
    assert not stands_in(extract, other)
    assert not stands_in(replace(extract, count=8), ledger)


def without_a_line(extract: Extract) -> Extract:
    first, second = extract.stretches
    return replace(extract, stretches=(first, replace(second, lines=second.lines[::2])))


def without_the_last(extract: Extract) -> Extract:
    first, second = extract.stretches
    return replace(extract, stretches=(first, replace(second, lines=second.lines[:-1])))


def with_less_noise(extract: Extract) -> Extract:
    first, second = extract.stretches
    line = first.lines[0].replace('"noise_multiplier":5.0', '"noise_multiplier":50.0')
    assert line != first.lines[0]
    return replace(extract, stretches=(replace(first, lines=(line, *first.lines[1:])), second))


def swapped(extract: Extract) -> Extract:
    return replace(extract, stretches=extract.stretches[::-1])


def twice(extract: Extract) -> Extract:
    return replace(extract, stretches=(extract.stretches[0], *extract.stretches))


def of_another_run(extract: Extract) -> Extract:
    return replace(extract, run="b")


def of_another_clinic(extract: Extract) -> Extract:
    return replace(extract, clinic="south")


def elsewhere(extract: Extract) -> Extract:
    return replace(extract, stretches=(replace(extract.stretches[0], first=1),))


def shorter(extract: Extract) -> Extract:
    return replace(extract, count=6)


def another_head(extract: Extract) -> Extract:
    return replace(extract, head="0" * 64)


def of_strange_lines(extract: Extract) -> Extract:
    return replace(extract, stretches=(Stretch(0, "0" * 64, ("[" * 9000,), "0" * 64),))


@pytest.mark.parametrize(
    "change",
    [
        without_a_line,
        without_the_last,
        with_less_noise,
        swapped,
        twice,
        of_another_run,
        of_another_clinic,
        elsewhere,
        shorter,
        another_head,
        of_strange_lines,
    ],
)
def test_an_extract_that_was_changed_is_refused(
    extract: Extract, change: Callable[[Extract], Extract]
) -> None:
    with pytest.raises(IntegrityError):
        follow(change(extract))


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"clinic": "north"}]', b"\xff"])
def test_what_is_no_list_of_extracts_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_extracts(content)


def test_a_clinic_that_is_there_twice_is_refused(extract: Extract) -> None:
    with pytest.raises(IntegrityError, match="one clinic twice"):
        read_extracts(extracts_json([extract, extract]))


def test_a_field_that_is_not_known_is_refused(extract: Extract) -> None:
    (told,) = json.loads(extracts_json([extract]))
    with pytest.raises(IntegrityError):
        read_extracts(json.dumps([told | {"note": "x"}]).encode())
