"""Anchors: what was last written is known elsewhere, whenever a process is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from skinml.errors import IntegrityError
from skinml.journal import Journal, KeyedSeal, Mark
from skinml.stewardship.anchors import Anchors

KEY = bytes(range(32))
# The calls that change what is on a disk: between two of them nothing can go wrong.
CALLS = {"open", "write", "flush", "close", "ftruncate", "truncate", "replace", "unlink"}


@pytest.fixture
def anchors(tmp_path: Path) -> Anchors:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").mkdir()
    made = fresh(tmp_path)
    made.create()
    return made


def fresh(place: Path, *, clinic: str = "c1", key: bytes = KEY) -> Anchors:
    """The anchors as another process opens them."""
    return Anchors(place / "elsewhere" / "anchors.json", clinic, key)


def journal_of(place: Path) -> Journal:
    anchor = fresh(place).journal("audit")
    return Journal(place / "folder" / "audit.journal", "audit log", KeyedSeal(KEY), anchor)


def killed_everywhere(prepare: Callable[[], None], act: Callable[[], Any]) -> Iterator[int]:
    """Do something in a child that is killed at its first call, then its second, and so on."""
    point = 1
    prepare()
    while killed_at(act, point):
        yield point
        point += 1
        prepare()


def killed_at(act: Callable[[], Any], point: int) -> bool:
    """Do something in a child that is killed at a call; tell whether it came that far."""
    child = os.fork()
    if not child:
        _in_the_child(act, point)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _in_the_child(act: Callable[[], Any], point: int) -> NoReturn:
    """Act and leave; whatever happens, the tests do not go on in the child."""
    try:
        _die_at(point)
        act()
        os._exit(0)
    finally:
        os._exit(1)


def _die_at(point: int) -> None:
    seen = 0

    def watch(frame: Any, kind: str, called: Any) -> None:
        nonlocal seen
        if kind == "c_call" and getattr(called, "__name__", "") in CALLS:
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)


def cleared(place: Path) -> None:
    for path in place.rglob("*"):
        if path.is_file():
            path.unlink()


def test_marks_are_kept_for_each_journal(anchors: Anchors, tmp_path: Path) -> None:
    assert anchors.journal("audit").read() == Mark(0, "")
    anchors.journal("audit").move(Mark(3, "abc"))
    anchors.journal("ledger").move(Mark(5, "def"))
    assert fresh(tmp_path).journal("audit").read() == Mark(3, "abc")
    assert fresh(tmp_path).journal("ledger").read() == Mark(5, "def")


def test_a_mark_is_announced_beside_the_one_that_holds_until_it_does(
    anchors: Anchors, tmp_path: Path
) -> None:
    anchor = fresh(tmp_path).journal("audit")
    assert anchor.announced() is None
    anchor.announce(Mark(1, "a"))
    assert (anchor.read(), anchor.announced()) == (Mark(0, ""), Mark(1, "a"))
    anchor.move(Mark(1, "a"))
    assert (anchor.read(), anchor.announced()) == (Mark(1, "a"), None)
    assert fresh(tmp_path).journal("ledger").announced() is None


def test_anchors_set_back_together_with_one_journal_show_by_the_other(
    anchors: Anchors, tmp_path: Path
) -> None:
    """Whoever takes back what the ledger spent would have to take back the audit log as well."""

    def ledger() -> Journal:
        path, anchor = tmp_path / "folder" / "ledger.jsonl", fresh(tmp_path).journal("ledger")
        return Journal(path, "ledger", KeyedSeal(KEY), anchor)

    for _ in range(2):
        older = anchors.path.read_bytes(), ledger().path.exists() and ledger().path.read_bytes()
        ledger().append(lambda _: [{"epsilon": 3}])
        journal_of(tmp_path).append(lambda _: [{"event": "release"}])
    anchors.path.write_bytes(older[0])
    ledger().path.write_bytes(older[1] or b"")
    assert len(ledger().read()) == 1
    with pytest.raises(IntegrityError, match="audit log; got 2 lines, of which its anchor knows 1"):
        journal_of(tmp_path).read()


def test_anchors_are_made_once(anchors: Anchors) -> None:
    anchors.journal("audit").move(Mark(3, "abc"))
    with pytest.raises(IntegrityError, match="there already"):
        anchors.create()
    assert anchors.journal("audit").read().count == 3


def test_every_flipped_bit_of_every_byte_shows(anchors: Anchors, tmp_path: Path) -> None:
    anchors.journal("audit").move(Mark(3, "abc"))
    anchors.replace(tmp_path / "folder" / "policy.yaml", b"purposes: [care]", "policy")
    content = anchors.path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        anchors.path.write_bytes(changed)
        with pytest.raises(IntegrityError, match="the anchor of clinic c1"):
            fresh(tmp_path).find_mark("audit")


@pytest.mark.parametrize("content", [None, b"", b"{}\n", b"[]\n", b"[" * 100_000, b"\xff"])
def test_anchors_that_are_gone_or_something_else_stop_everything(
    anchors: Anchors, tmp_path: Path, content: bytes | None
) -> None:
    policy = tmp_path / "folder" / "policy.yaml"
    anchors.replace(policy, b"old", "policy")
    if content is None:
        anchors.path.unlink()
    else:
        anchors.path.write_bytes(content)
    for look in (
        lambda: anchors.find_mark("audit"),
        lambda: anchors.set_mark("audit", Mark(1, "a")),
        lambda: anchors.read(policy, "policy"),
        lambda: anchors.replace(policy, b"new", "policy"),
        lambda: anchors.holds("policy.yaml"),
        lambda: journal_of(tmp_path).read(),
        lambda: journal_of(tmp_path).append(lambda _: [{}]),
    ):
        with pytest.raises(IntegrityError, match="the anchor of clinic c1"):
            look()
    assert policy.read_bytes() == b"old"


@pytest.mark.parametrize("other", [{"clinic": "c2"}, {"key": bytes(32)}])
def test_another_clinics_anchors_do_not_pass(
    anchors: Anchors, tmp_path: Path, other: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError):
        fresh(tmp_path, **other).find_mark("audit")


def test_a_file_that_is_changed_older_swapped_or_gone_shows_by_name(
    anchors: Anchors, tmp_path: Path
) -> None:
    policy, keys = tmp_path / "folder" / "policy.yaml", tmp_path / "folder" / "keys.sealed"
    anchors.replace(policy, b"first", "policy")
    anchors.replace(policy, b"second", "policy")
    anchors.replace(keys, b"keys", "vault's keys")
    assert anchors.read(policy, "policy") == b"second"
    for content in (b"first", b"keys", b"", b"third", b"second "):
        policy.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"the policy as it was last written.*policy.yaml"):
            fresh(tmp_path).read(policy, "policy")
    policy.unlink()
    with pytest.raises(IntegrityError, match="no file"):
        fresh(tmp_path).find(policy, "policy")


def test_a_file_that_was_never_anchored_is_refused_where_it_stands_and_absent_where_not(
    anchors: Anchors, tmp_path: Path
) -> None:
    policy = tmp_path / "folder" / "policy.yaml"
    assert anchors.find(policy, "policy") is None
    assert not anchors.holds(policy.name)
    policy.write_bytes(b"planted")
    with pytest.raises(IntegrityError):
        anchors.find(policy, "policy")


@pytest.mark.parametrize("old", [b"old", None])
def test_killed_at_any_call_of_replace_a_file_is_the_old_or_the_new_for_good(
    anchors: Anchors, tmp_path: Path, old: bytes | None
) -> None:
    policy = tmp_path / "folder" / "policy.yaml"

    def prepare() -> None:
        cleared(tmp_path)
        anchors.create()
        if old is not None:
            anchors.replace(policy, old, "policy")

    found = set()

    def act() -> None:
        fresh(tmp_path).replace(policy, b"new", "policy")

    for _ in killed_everywhere(prepare, act):
        content = fresh(tmp_path).find(policy, "policy")
        found.add(content)
        policy.write_bytes(b"old" if content == b"new" else b"new")
        with pytest.raises(IntegrityError):  # the other of the two no longer passes
            fresh(tmp_path).find(policy, "policy")
    assert found == {old, b"new"}


def test_killed_twice_without_a_look_in_between_a_file_is_one_that_was_written(
    anchors: Anchors, tmp_path: Path
) -> None:
    policy = tmp_path / "folder" / "policy.yaml"
    fresh(tmp_path).replace(policy, b"0", "policy")
    calls = sum(1 for _ in killed_everywhere(lambda: None, replacing(tmp_path, policy, b"0")))
    found = set()
    for point in range(1, calls + 1):
        anchors.replace(policy, b"1", "policy")
        # The first dies late, after the file was replaced; the second anywhere.
        assert killed_at(replacing(tmp_path, policy, b"2"), calls - 4)
        assert policy.read_bytes() == b"2"
        assert len(json.loads(anchors.path.read_bytes())["state"]["files"]["policy.yaml"]) == 2
        assert killed_at(replacing(tmp_path, policy, b"3"), point)
        found.add(fresh(tmp_path).read(policy, "policy"))
    assert found == {b"2", b"3"}


def replacing(place: Path, policy: Path, content: bytes) -> Callable[[], None]:
    return lambda: fresh(place).replace(policy, content, "policy")


def test_killed_at_any_call_of_append_a_journal_has_the_line_or_not_and_goes_on(
    anchors: Anchors, tmp_path: Path
) -> None:
    def prepare() -> None:
        cleared(tmp_path)
        anchors.create()
        journal_of(tmp_path).append(lambda _: [{"n": 1}])

    found = set()

    def act() -> None:
        journal_of(tmp_path).append(lambda _: [{"n": 2}])

    for point in killed_everywhere(prepare, act):
        journal = tmp_path / "folder" / "audit.journal"
        bodies = journal_of(tmp_path).read()
        assert bodies in (({"n": 1},), ({"n": 1}, {"n": 2}))
        found.add(len(bodies))
        # What was once read is relied upon: from then on it cannot be taken away.
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:-1]))
        with pytest.raises(IntegrityError, match=f"{len(lines) - 1} of {len(lines)} lines"):
            journal_of(tmp_path).read()
        journal.write_bytes(b"".join(lines))
        if point % 5 == 0:
            journal_of(tmp_path).append(lambda _: [{"n": 3}])
            assert journal_of(tmp_path).read() == (*bodies, {"n": 3})
    assert found == {1, 2}


def test_killed_at_any_call_of_the_first_append_a_journal_is_empty_or_has_the_line(
    anchors: Anchors, tmp_path: Path
) -> None:
    def prepare() -> None:
        cleared(tmp_path)
        anchors.create()

    def act() -> None:
        journal_of(tmp_path).append(lambda _: [{"n": 1}])

    found = {len(journal_of(tmp_path).read()) for _ in killed_everywhere(prepare, act)}
    assert found == {0, 1}


def test_processes_that_move_anchors_at_once_lose_none(anchors: Anchors, tmp_path: Path) -> None:
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            try:
                for count in range(1, 11):
                    fresh(tmp_path).set_mark(f"journal {number}", Mark(count, "h"))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert [anchors.find_mark(f"journal {number}").count for number in range(4)] == [10] * 4
