"""A journal that is written anew: old lines are gone, nothing else is lost or can be put back."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

from skinml.errors import EnvironmentProblem, IntegrityError
from skinml.journal import REPLACES, Journal, KeyedSeal
from skinml.stewardship.anchors import Anchors
from tests.full_disk import full_disk
from tests.stewardship.test_vault_killed import die_at

KEY = bytes(range(32))


def opened(place: Path) -> Journal:
    anchors = Anchors(place / "anchors", "north", KEY)
    return Journal(place / "j", "n", KeyedSeal(KEY), anchors.journal("j"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    Anchors(made / "anchors", "north", KEY).create()
    opened(made).append(lambda _: [{"n": number, "secret": "x" * 20} for number in range(5)])
    return made


def said(journal: Journal) -> list[Any]:
    return [body["n"] for body in journal.read() if REPLACES not in body]


def odd(bodies: tuple[Any, ...]) -> list[Any]:
    return [{"n": body["n"]} for body in bodies if body.get("n", 0) % 2]


def test_old_lines_are_gone_and_the_new_journal_goes_on(place: Path) -> None:
    journal = opened(place)
    end = journal.mark()
    journal.replace(odd)
    assert b"secret" not in (place / "j").read_bytes()
    assert said(journal) == said(opened(place)) == [1, 3]
    first = opened(place).read()[0][REPLACES]
    assert first == {"count": end.count, "head": end.head, "generation": 1}
    journal.append(lambda _: [{"n": 7}])
    journal.replace(odd)
    assert said(opened(place)) == [1, 3, 7]
    assert opened(place).read()[0][REPLACES]["generation"] == 2


def test_who_read_the_old_one_takes_the_new_one_up_however_often_it_was_replaced(
    place: Path,
) -> None:
    old = opened(place)
    assert said(old) == [0, 1, 2, 3, 4]
    for _ in range(3):
        opened(place).replace(odd)
    opened(place).append(lambda _: [{"n": 9}])
    old.append(lambda _: [{"n": 11}])
    assert said(old) == said(opened(place)) == [1, 3, 9, 11]


def test_an_older_copy_that_is_put_back_is_noticed_from_every_generation(place: Path) -> None:
    copies = []
    for _ in range(3):
        copies.append((place / "j").read_bytes())
        opened(place).replace(odd)
        reader = opened(place)
        reader.read()
        newest = (place / "j").read_bytes()
        for copy in copies:
            (place / "j").write_bytes(copy)
            for journal in (opened(place), reader):
                with pytest.raises(IntegrityError):
                    journal.read()
        (place / "j").write_bytes(newest)
        opened(place).append(lambda _: [{"n": 5}])


def test_file_and_anchor_put_back_together_show_to_whoever_read_the_newer(place: Path) -> None:
    shutil.copytree(place, place.parent / "copy")
    reader = opened(place)
    reader.replace(odd)
    assert said(reader) == [1, 3]
    for part in ("j", "anchors"):
        kept = place.parent / "copy" / part
        shutil.copy(kept, place / part)
    with pytest.raises(IntegrityError):
        reader.read()


def test_killed_at_any_step_there_is_the_old_journal_or_the_new_one(place: Path) -> None:
    outcomes = set()
    for number in range(1, 40):
        here = place.parent / f"death-{number}"
        shutil.copytree(place, here)
        died = die_at(number, lambda here=here: opened(here).replace(odd))
        found = said(opened(here))
        assert found in ([0, 1, 2, 3, 4], [1, 3])
        outcomes.add(tuple(found))
        opened(here).append(lambda _: [{"n": 8}])
        assert said(opened(here)) == [*found, 8]
        if not died:
            break
    assert not died
    assert len(outcomes) == 2
    assert number > 3


def work(place: Path, worker: int, rounds: int) -> None:
    journal = opened(place)
    for number in range(rounds):
        if number % 5 == 2:
            journal.replace(lambda bodies: [each for each in bodies if REPLACES not in each])
        journal.append(lambda _, number=number: [{"n": 100 * worker + number}])


def test_processes_that_append_and_replace_at_once_lose_nothing(place: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(place, w, 15)) for w in (1, 2, 3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join(60)
        assert each.exitcode == 0
    expected = {*range(5), *(100 * w + n for w in (1, 2, 3) for n in range(15))}
    found = said(opened(place))
    assert set(found) == expected
    assert len(found) == len(expected)


def test_a_full_disk_leaves_the_old_journal_and_nothing_beside_it(place: Path) -> None:
    journal, before = opened(place), (place / "j").read_bytes()
    with full_disk(2000), pytest.raises(EnvironmentProblem):
        journal.replace(lambda _: [{"n": 1, "long": "x" * 5000}])
    assert (place / "j").read_bytes() == before
    assert said(opened(place)) == [0, 1, 2, 3, 4]
    assert not list(place.glob(".j.partial"))
