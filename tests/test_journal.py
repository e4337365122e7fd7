"""A journal: whatever is done to its file shows, and whatever was appended stays."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skinml.errors import EnvironmentProblem, IntegrityError
from skinml.journal import Journal, KeyedSeal, Mark
from tests.full_disk import full_disk

KEY = bytes(range(32))
BODIES = [{"event": "one", "n": 1}, {"event": "two", "n": [2.5, None]}, {"ü": True}, {"n": 4}]
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Kept:
    """An anchor in memory, which no change of the file reaches."""

    def __init__(self) -> None:
        self.mark = Mark(0, "")
        self.next: Mark | None = None

    def read(self) -> Mark:
        return self.mark

    def announced(self) -> Mark | None:
        return self.next

    def announce(self, mark: Mark) -> None:
        self.next = mark

    def move(self, mark: Mark) -> None:
        self.mark, self.next = mark, None


def opened(path: Path, anchor: Kept | None = None, *, key: bytes = KEY, name: str = "n") -> Journal:
    return Journal(path, name, KeyedSeal(key), anchor)


def filled(path: Path, bodies: list[Any] = BODIES) -> Kept:
    anchor = Kept()
    journal = opened(path, anchor)
    for body in bodies:
        journal.append(lambda _, body=body: [body])
    return anchor


def reads(path: Path, anchor: Kept | None) -> list[Any] | None:
    """What the file says, None where it is refused."""
    try:
        return list(opened(path, anchor).read())
    except IntegrityError:
        return None


def test_what_was_appended_is_read_back_by_others(tmp_path: Path) -> None:
    anchor = filled(tmp_path / "j")
    assert list(opened(tmp_path / "j").read()) == BODIES
    assert opened(tmp_path / "j").mark() == anchor.mark
    assert anchor.mark.count == len(BODIES)


def test_nothing_was_ever_written_is_an_empty_journal_and_makes_no_file(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j", Kept())
    assert journal.read() == ()
    assert journal.mark().count == 0
    assert not list(tmp_path.iterdir())


def test_every_flipped_bit_of_every_byte_shows(tmp_path: Path) -> None:
    path = tmp_path / "j"
    anchor = filled(path)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        assert reads(path, anchor) is None, place


def test_without_an_anchor_a_flipped_byte_shows_or_costs_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    filled(path)
    content = path.read_bytes()
    accepted = []
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        found = reads(path, None)
        if found is not None:
            accepted.append(place)
            assert found == BODIES[:-1]
    assert accepted == [len(content) - 1]  # the last line's end


def test_every_cut_shows_against_the_anchor_and_costs_whole_lines_without(tmp_path: Path) -> None:
    path = tmp_path / "j"
    anchor = filled(path)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert reads(path, anchor) is None
        path.write_bytes(content[:size])
        assert reads(path, None) == BODIES[: content[:size].count(b"\n")]
    path.unlink()
    assert reads(path, anchor) is None
    assert not path.exists(), "a look leaves the evidence as it is"


@SETTINGS
@given(data=st.data())
def test_lines_that_are_removed_doubled_swapped_or_brought_in_show(
    tmp_path: Path, data: st.DataObject
) -> None:
    path, other = tmp_path / "j", tmp_path / "other"
    for each in (path, other):
        each.unlink(missing_ok=True)
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
    bodies = data.draw(
        st.lists(st.dictionaries(st.text(), values, max_size=3), min_size=1, max_size=5)
    )
    finite = [body for body in bodies if "Infinity" not in json.dumps(body)] or [{}]
    anchor = filled(path, finite)
    assert list(opened(path, anchor).read()) == json.loads(json.dumps(finite))
    filled(other, [*finite, {"later": 1}])
    lines = path.read_bytes().splitlines(keepends=True)
    pool = lines + other.read_bytes().splitlines(keepends=True)[-1:]
    chosen = data.draw(st.lists(st.sampled_from(pool), max_size=len(lines) + 2))
    path.write_bytes(b"".join(chosen))
    if chosen == lines:
        assert reads(path, anchor) is not None
    else:  # even with a line that the clinic's own key sealed to follow: the anchor knows nothing
        assert reads(path, anchor) is None


@pytest.mark.parametrize("other", [{"key": bytes(32)}, {"name": "m"}])
def test_another_key_or_another_journals_file_does_not_pass(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    filled(tmp_path / "j")
    with pytest.raises(IntegrityError, match="line"):
        opened(tmp_path / "j", **other).read()


def test_an_older_copy_shows_to_whoever_read_the_newer_even_without_an_anchor(
    tmp_path: Path,
) -> None:
    path = tmp_path / "j"
    filled(path)
    older = path.read_bytes()
    opened(path).append(lambda _: [{"withdrawn": 1}])
    watching = opened(path)
    watching.read()
    path.write_bytes(older)
    for look in (watching.read, watching.mark, lambda: watching.append(lambda _: [{}])):
        with pytest.raises(IntegrityError, match="4 of 5 lines"):
            look()
    path.unlink()
    with pytest.raises(IntegrityError, match="0 of 5 lines"):
        watching.mark()


def test_another_history_of_the_same_length_shows(tmp_path: Path) -> None:
    path = tmp_path / "j"
    anchor = filled(path)
    watching = opened(path)
    watching.read()
    path.unlink()
    filled(path, [*BODIES[:-1], {"n": 5}])
    with pytest.raises(IntegrityError, match="another line 4"):
        opened(path, anchor).read()
    with pytest.raises(IntegrityError, match="another line 4"):
        watching.read()


def append_before_a_crash(path: Path, anchor: Kept, bodies: list[Any]) -> None:
    """The lines are written and announced; the anchor's last step never comes."""
    behind = anchor.mark
    opened(path, anchor).append(lambda _: bodies)
    anchor.mark, anchor.next = behind, anchor.mark


def test_announced_lines_ahead_of_the_anchor_count_from_the_first_look_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    anchor = filled(path)
    append_before_a_crash(path, anchor, [{"n": 5}])
    assert len(opened(path, anchor).read()) == 5
    assert anchor.next is None
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    with pytest.raises(IntegrityError, match="4 of 5 lines"):
        opened(path, anchor).read()


def test_of_several_announced_lines_a_crash_may_leave_the_first(tmp_path: Path) -> None:
    path = tmp_path / "j"
    anchor = filled(path)
    append_before_a_crash(path, anchor, [{"n": 5}, {"n": 6}, {"n": 7}])
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b'{"body":{"n":7}') + 5])
    assert opened(path, anchor).read()[-2:] == ({"n": 5}, {"n": 6})
    opened(path, anchor).append(lambda _: [{"n": 8}])
    assert reads(path, anchor) == [*BODIES, {"n": 5}, {"n": 6}, {"n": 8}]


def test_an_anchor_that_was_set_back_shows(tmp_path: Path) -> None:
    path = tmp_path / "j"
    anchor = filled(path)
    older = anchor.mark
    for number in (5, 6):
        opened(path, anchor).append(lambda _, number=number: [{"n": number}])
    for announced in (None, older, Mark(5, "0" * 64), Mark(6, "0" * 64)):
        anchor.mark, anchor.next = older, announced
        for look in (opened(path, anchor).read, lambda: opened(path, anchor).append(lambda _: [])):
            with pytest.raises(IntegrityError, match="6 lines, of which its anchor knows"):
                look()


def test_an_announcement_that_came_to_nothing_is_replaced_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "j"
    anchor = filled(path)
    anchor.next = Mark(5, "0" * 64)
    assert reads(path, anchor) == BODIES
    opened(path, anchor).append(lambda _: [{"n": 5}])
    assert reads(path, anchor) == [*BODIES, {"n": 5}]


def test_a_torn_line_is_dropped_once_and_never_sealed_over(tmp_path: Path) -> None:
    path = tmp_path / "j"
    anchor = filled(path)
    with path.open("ab") as file:
        file.write(b'{"body":{"n":5},"number":4,"prev')
    opened(path, anchor).append(lambda bodies: [{"seen": len(bodies)}])
    assert opened(path, anchor).read()[-1] == {"seen": 4}


def test_keys_that_are_numbers_leave_a_line_that_reads_back(tmp_path: Path) -> None:
    opened(tmp_path / "j").append(lambda _: [{"counts": {2: "b", 10: "a"}}])
    assert opened(tmp_path / "j").read() == ({"counts": {"2": "b", "10": "a"}},)


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}])
def test_what_json_cannot_say_leaves_the_journal_as_it_was(tmp_path: Path, body: Any) -> None:
    anchor = filled(tmp_path / "j")
    with pytest.raises((TypeError, ValueError)):
        opened(tmp_path / "j", anchor).append(lambda _: [{"good": 1}, body])
    assert reads(tmp_path / "j", anchor) == BODIES


def test_a_refusal_while_looking_writes_nothing(tmp_path: Path) -> None:
    anchor = filled(tmp_path / "j")

    def refuse(bodies: tuple[Any, ...]) -> list[Any]:
        assert list(bodies) == BODIES
        raise EnvironmentProblem(rule="no", got="no", do="No.")

    with pytest.raises(EnvironmentProblem):
        opened(tmp_path / "j", anchor).append(refuse)
    assert reads(tmp_path / "j", anchor) == BODIES


@pytest.mark.parametrize("room", [0, 1, 5000])
@pytest.mark.parametrize("size", [100, 100_000])
def test_a_full_disk_adds_nothing_and_the_next_append_follows_the_last_good_line(
    tmp_path: Path, room: int, size: int
) -> None:
    path = tmp_path / "j"
    anchor = filled(path)
    before = path.read_bytes()
    journal = opened(path, anchor)
    with (
        full_disk(min(len(before) + room, len(before) + size)),
        pytest.raises(EnvironmentProblem, match="a n that skinml can read and write"),
    ):
        journal.append(lambda _: [{"long": "x" * size}])
    assert path.read_bytes() == before
    journal.append(lambda _: [{"n": 5}])
    assert reads(path, anchor) == [*BODIES, {"n": 5}]


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "real")
    (tmp_path / "j").symlink_to(tmp_path / "real")
    with pytest.raises(EnvironmentProblem):
        opened(tmp_path / "j").read()


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"body":1,"seal":2}', b"\0", b"\r"]
)
def test_whatever_else_stands_there_is_a_change_and_not_a_defect(
    tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "j"
    filled(path)
    for content in (line + b"\n", path.read_bytes() + line + b"\n"):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match="is not what was written"):
            opened(path).read()


def test_threads_with_one_object_lose_nothing(tmp_path: Path) -> None:
    anchor = Kept()
    journal = opened(tmp_path / "j", anchor)

    def work() -> None:
        for _ in range(20):
            journal.append(lambda bodies: [{"n": len(bodies)}])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [body["n"] for body in opened(tmp_path / "j", anchor).read()] == list(range(80))


def _append_many(path: Path, times: int) -> None:
    journal = opened(path)
    for _ in range(times):
        journal.append(lambda bodies: [{"n": len(bodies)}])


def test_processes_lose_nothing_from_the_very_first_line_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(tmp_path / "j", 25)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [body["n"] for body in opened(tmp_path / "j").read()] == list(range(75))


def test_a_long_journal_is_read_and_followed_in_reasonable_time(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.append(lambda _: [{"n": number} for number in range(10_000)])
    reader = opened(tmp_path / "j")
    assert len(reader.read()) == 10_000
    assert len(reader.read()) == 10_000
