"""The encrypted store of rows: nothing lost, nothing changed unnoticed, the erased are gone."""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import stat
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest

from skinml.data.feature_store import FeatureStore, retain_in, store_path
from skinml.errors import DataError, EnvironmentProblem, IntegrityError
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.patient_keys import PatientKeys

KEY = bytes(range(32))
SEALED = 3 * 4 + 29  # a row of `rows_of` with its version, nonce and tag


def names(*numbers):
    return [hashlib.sha256(str(number).encode()).digest() for number in numbers]


def rows_of(*numbers):
    """One recognisable float row a number."""
    return np.array([[number, -number, 0.5] for number in numbers], dtype=np.float32)


def people(*numbers):
    """Patients of the numbers: two numbers that follow one another are one patient's."""
    return [f"patient {number // 2}" for number in numbers]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.store"


@pytest.fixture
def keys(tmp_path):
    anchors = Anchors(tmp_path / "anchors", "clinic", KEY)
    anchors.create()
    keys = PatientKeys(tmp_path / "vault" / "keys.sealed", KEY, anchors)
    keys.issue([*people(*range(100)), "a", "b"])
    return keys


@pytest.fixture
def open_store(path, keys):
    return lambda version="v1": FeatureStore(path, KEY, keys, version)


def add(store, *numbers):
    store.append(names(*numbers), people(*numbers), rows_of(*numbers))


def take(store, *numbers):
    return store.take(names(*numbers), people(*numbers))


@pytest.fixture
def filled(path, open_store):
    """A store of three blocks, and where each block ends in the file."""
    store = open_store()
    ends = []
    for block in ((1, 2), (3,), (4, 5, 6)):
        add(store, *block)
        ends.append(path.stat().st_size)
    return store, ends


@pytest.mark.parametrize(
    "rows",
    [
        np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32),
        np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8),
    ],
    ids=["features", "images"],
)
def test_rows_come_back_in_the_order_asked_for(rows, open_store):
    open_store().append(names(0, 1, 2, 3), people(0, 1, 2, 3), rows)
    taken = take(open_store(), 3, 0, 3, 1)
    assert np.array_equal(taken, rows[[3, 0, 3, 1]])
    assert taken.dtype == rows.dtype


def test_a_store_knows_its_rows_before_and_after_it_is_opened_again(filled, open_store):
    for store in (filled[0], open_store()):
        assert len(store) == 6
        assert store.find_missing(names(7, 4, 8, 1), people(7, 4, 8, 1)) == [0, 2]
        assert np.array_equal(take(store, 6, 1), rows_of(6, 1))


def test_taken_rows_are_copies(filled):
    store, _ = filled
    take(store, 1)[:] = 9
    assert np.array_equal(take(store, 1), rows_of(1))


def test_appended_rows_are_copies(open_store):
    store, rows = open_store(), rows_of(1)
    store.append(names(1), people(1), rows)
    rows[:] = 9
    assert np.array_equal(take(store, 1), rows_of(1))


def test_a_row_that_is_there_is_kept(filled, open_store):
    filled[0].append(names(1), people(1), rows_of(9))
    assert np.array_equal(take(open_store(), 1), rows_of(1))
    assert np.array_equal(take(filled[0], 1), rows_of(1))


def test_missing_rows_are_counted_and_not_named(filled):
    with pytest.raises(DataError, match="num_missing=2 of 3"):
        take(filled[0], 1, 8, 9)


def test_every_changed_byte_is_noticed_before_a_row_is_used(filled, path, open_store):
    content, stored = path.read_bytes(), (1, 2, 3, 4, 5, 6)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises((IntegrityError, DataError)) as caught:
            take(open_store(), *stored)
        if place >= len(b'skinml-store-3 "v1"\n'):  # before, it looks like another version
            assert isinstance(caught.value, IntegrityError)
            assert path.name in str(caught.value)


def test_rows_cannot_change_places(filled, path, open_store):
    content, end = bytearray(path.read_bytes()), filled[1][2]
    one, two = slice(end - 2 * SEALED, end - SEALED), slice(end - SEALED, end)
    content[one], content[two] = content[two], content[one]
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="row"):
        take(open_store(), 5)
    assert np.array_equal(take(open_store(), 1, 2, 3, 4), rows_of(1, 2, 3, 4))


def test_blocks_cannot_change_places(filled, path, open_store):
    content, (first, second, _) = path.read_bytes(), filled[1]
    start = len(b'skinml-store-3 "v1"\n')
    path.write_bytes(content[:start] + content[first:second] + content[start:first])
    with pytest.raises(IntegrityError):
        open_store()


def test_another_key_is_noticed(filled, path, keys):
    with pytest.raises(IntegrityError, match="another key"):
        FeatureStore(path, KEY[::-1], keys, "v1")


def test_another_version_is_refused(filled, open_store):
    with pytest.raises(DataError, match="version v2"):
        open_store("v2")


def test_a_file_of_something_else_is_refused_and_kept(path, open_store):
    path.write_bytes(b"somebody's thesis")
    with pytest.raises(IntegrityError):
        open_store()
    assert path.read_bytes() == b"somebody's thesis"


def test_wherever_a_crash_cuts_the_file_whole_blocks_stay_and_the_rest_is_written_over(
    filled, path, open_store
):
    content, ends = path.read_bytes(), filled[1]
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        store = open_store()
        num_blocks = sum(end <= length for end in ends)
        assert len(store) == (0, 2, 3, 6)[num_blocks]
        add(store, 7, 8)
        again = open_store()
        assert len(again) == len(store) == (2, 4, 5, 8)[num_blocks]
        assert np.array_equal(take(again, 8), rows_of(8))


def test_two_writers_of_one_file_take_in_what_the_other_wrote(open_store):
    first, second = open_store(), open_store()
    add(first, 1)
    add(second, 2)
    add(first, 3)
    assert len(first) == 3
    assert np.array_equal(take(open_store(), 3, 2, 1), rows_of(3, 2, 1))


def test_a_file_that_shrank_under_an_open_store_is_noticed(filled, path):
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(IntegrityError, match="shorter"):
        add(filled[0], 7)


@pytest.mark.parametrize(
    ("digests", "patients", "rows"),
    [
        (names(7), people(7), rows_of(7).astype(np.float64)),
        (names(7), people(7), np.zeros((1, 4), np.float32)),
        (names(7, 8), people(7, 8), rows_of(7)),
        (names(7), people(7, 8), rows_of(7)),
        ([b"short"], people(7), rows_of(7)),
        ([], [], rows_of()),
    ],
    ids=["type", "shape", "count", "patients", "digest", "empty"],
)
def test_rows_that_do_not_fit_are_refused_and_leave_the_file(filled, path, digests, patients, rows):
    before = path.read_bytes()
    with pytest.raises(DataError):
        filled[0].append(digests, patients, rows)
    assert path.read_bytes() == before


def test_the_file_is_its_owners_only_and_shows_no_row(filled, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert names(1)[0] not in content
    assert rows_of(1).tobytes() not in content
    assert people(1)[0].encode() not in content


def test_a_folder_that_is_missing_is_the_environments_fault(tmp_path, keys):
    store = FeatureStore(tmp_path / "none" / "features.store", KEY, keys, "v1")
    with pytest.raises(EnvironmentProblem):
        add(store, 1)


def test_a_store_of_the_earlier_format_is_told_to_be_deleted(path, open_store):
    path.write_bytes(b'skinml-store-1 "v1"\n' + bytes(99))
    with pytest.raises(DataError, match="delete"):
        open_store()


def test_erasing_a_patients_key_takes_that_patients_rows_and_no_others(filled, keys, open_store):
    assert keys.erase(people(4)) == 1  # the patient of 4 and 5
    for store in (filled[0], open_store()):
        everything = names(1, 2, 3, 4, 5, 6), people(1, 2, 3, 4, 5, 6)
        assert store.find_missing(*everything) == [3, 4]
        assert len(store) == 4
        assert np.array_equal(take(store, 6, 3, 1), rows_of(6, 3, 1))
        with pytest.raises(DataError, match="num_missing=1 of 2"):
            take(store, 1, 4)


def test_a_store_of_erased_patients_only_is_empty_and_still_one_of_its_kind(
    filled, keys, open_store
):
    keys.erase(people(1, 2, 4, 6))
    store = open_store()
    assert len(store) == 0
    with pytest.raises(DataError, match="type float32"):
        store.append(names(7), people(7), rows_of(7).astype(np.float64))


def test_who_was_erased_and_comes_back_starts_anew(filled, keys, open_store):
    keys.erase(people(4))
    keys.issue(people(4))
    store = open_store()
    store.append(names(4), people(4), rows_of(9))
    for each in (store, open_store(), filled[0]):
        add(each, 11)  # takes in what others wrote
        assert np.array_equal(take(each, 4), rows_of(9))
        assert each.find_missing(names(5), people(5)) == [0]


def test_rows_of_a_patient_erased_while_they_were_computed_are_not_written(path, keys, open_store):
    store = open_store()
    store.admit(people(1, 2))
    before = len(keys)
    keys.erase(people(1))
    store.append(names(1, 2), people(1, 2), rows_of(1, 2))
    store.append(names(1), people(1), rows_of(1))
    for each in (store, open_store()):
        assert each.find_missing(names(1, 2), people(1, 2)) == [0]
        each.append(names(1), people(1), rows_of(1))  # nor by a store that never knew the patient
    assert open_store().find_missing(names(1, 2), people(1, 2)) == [0]
    assert len(keys) == before - 1


def test_an_image_of_two_patients_stays_with_one_when_the_other_is_erased(path, keys, open_store):
    open_store().append(names(1) * 2, ["a", "b"], rows_of(1, 1))
    keys.erase(["a"])
    store = open_store()
    assert store.find_missing(names(1) * 2, ["a", "b"]) == [0]
    assert np.array_equal(store.take(names(1), ["b"]), rows_of(1))


def test_the_vault_may_be_rotated_under_an_open_store(filled, keys, open_store):
    keys.rotate()
    for store in (filled[0], open_store()):
        assert np.array_equal(take(store, 6, 1), rows_of(6, 1))


def test_a_changed_row_of_the_erased_keeps_nobody_from_the_others(filled, path, keys, open_store):
    keys.erase(people(3))
    content = bytearray(path.read_bytes())
    content[filled[1][1] - 20] ^= 1  # in the erased patient's row, which nobody can read
    path.write_bytes(content)
    assert open_store().find_missing(names(1, 3), people(1, 3)) == [1]
    assert np.array_equal(take(open_store(), 1, 6), rows_of(1, 6))


def test_rows_are_read_when_they_are_asked_for_and_not_before(path, keys, open_store):
    wide = np.zeros((32, 2**18), np.float32)  # 32 MB
    numbers = tuple(range(32))
    open_store().append(names(*numbers), people(*numbers), wide)
    assert path.stat().st_size > wide.nbytes
    gc.collect()
    tracemalloc.start()
    try:
        store = open_store()
        assert store.find_missing(names(*numbers, 40), people(*numbers, 40)) == [32]
        assert tracemalloc.get_traced_memory()[1] < 2**20
        assert np.array_equal(take(store, 3), wide[:1])
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_store_that_is_cut_short_while_it_is_open_is_a_changed_store(filled, path):
    store, _ = filled
    assert np.array_equal(take(store, 6), rows_of(6))
    os.truncate(path, path.stat().st_size - 20)
    with pytest.raises(IntegrityError, match="changed byte in a row"):
        take(store, 6)


def test_another_file_in_the_stores_place_is_noticed_when_rows_are_added(filled, path, open_store):
    store, _ = filled
    path.unlink()
    assert np.array_equal(take(store, 6, 1), rows_of(6, 1))  # of the file that it has open
    with pytest.raises(IntegrityError, match="another file"):
        add(store, 7)


def test_each_version_has_its_own_file(tmp_path):
    versions = ["a/0123/224px", "a/0123/128px", "torchvision/b"]
    assert len({store_path(tmp_path, version) for version in versions}) == 3
    assert all(store_path(tmp_path, version).parent == tmp_path for version in versions)


@contextmanager
def no_more_space_than(num_bytes):
    """Let no file of this process grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_the_block_that_did_not_fit_and_no_other(filled, open_store):
    store, ends = filled
    with no_more_space_than(ends[-1] + 40), pytest.raises(EnvironmentProblem, match="space"):
        add(store, 7)
    assert len(open_store()) == len(store) == 6
    add(store, 8)
    assert np.array_equal(take(open_store(), 6, 8), rows_of(6, 8))


def retain(store, *numbers):
    return store.retain(names(*numbers), people(*numbers))


def test_what_stays_is_the_same_ciphertext_and_what_goes_is_nowhere(filled, path, open_store):
    store, ends = filled
    before = path.read_bytes()
    kept, gone = before[ends[1] - SEALED : ends[1]], before[ends[0] - SEALED : ends[0]]
    assert retain(store, 3, 5, 99) == 2
    after = path.read_bytes()
    assert kept in after
    assert gone not in after
    for each in (store, open_store()):
        assert len(each) == 2
        assert each.find_missing(names(*range(1, 7)), people(*range(1, 7))) == [0, 1, 3, 5]
        assert np.array_equal(take(each, 5, 3), rows_of(5, 3))
    assert sorted(each.name for each in path.parent.glob("*store*")) == [path.name]


def test_a_store_goes_on_after_rows_were_taken_out(filled, open_store):
    store, _ = filled
    retain(store, 1, 2, 6)
    add(store, 8, 9)
    again = open_store()
    assert np.array_equal(take(again, 9, 1, 6), rows_of(9, 1, 6))
    retain(again, 9)
    add(again, 3)
    assert np.array_equal(take(open_store(), 3, 9), rows_of(3, 9))


def test_a_store_of_many_blocks_stays_in_order(filled, open_store, monkeypatch):
    store, _ = filled
    monkeypatch.setattr("skinml.data.feature_store._ROWS_A_BLOCK", 2)
    assert retain(store, 6, 5, 4, 2, 1) == 5
    assert np.array_equal(take(open_store(), 1, 2, 4, 5, 6), rows_of(1, 2, 4, 5, 6))


def test_nothing_that_stays_leaves_an_empty_store(filled, open_store):
    store, _ = filled
    assert retain(store) == 0
    assert len(open_store()) == 0
    add(open_store(), 1)
    assert np.array_equal(take(open_store(), 1), rows_of(1))


def test_rows_of_the_erased_go_too(filled, keys, open_store):
    keys.erase(people(3))
    assert retain(filled[0], *range(1, 7)) == 4
    assert len(open_store()) == 4


def test_whoever_has_the_older_file_open_adds_nothing_to_it(filled, open_store):
    other = open_store()
    retain(filled[0], 1)
    with pytest.raises(IntegrityError, match="another file in its place"):
        add(other, 8)
    with pytest.raises(IntegrityError):
        take(other, 2)  # its bytes were overwritten
    assert len(open_store()) == 1


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_killed_at_a_step_the_old_store_is_there_and_the_next_try_ends_it(
    filled, open_store, monkeypatch, step, path
):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync" if step == "fsync" else "pathlib.Path.replace", stop)
        with pytest.raises(KeyboardInterrupt):
            retain(filled[0], 4)
    assert np.array_equal(take(open_store(), *range(1, 7)), rows_of(*range(1, 7)))
    assert retain(open_store(), 4) == 1
    assert os.listdir(path.parent).count(f".{path.name}.partial") == 0


def test_a_full_disk_leaves_the_old_store(filled, open_store, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(EnvironmentProblem):
            retain(filled[0], 4)
    assert len(open_store()) == 6


def test_as_many_patients_as_digests_are_asked_for(filled):
    with pytest.raises(DataError):
        filled[0].retain(names(1, 2), people(1))


def test_a_store_is_thinned_whatever_its_version(filled, path, keys):
    assert retain_in(path, KEY, keys, names(2), people(2))
    assert len(FeatureStore(path, KEY, keys, "v1")) == 1


@pytest.mark.parametrize(
    "content", [b"", b"computed", b"skinml-store-2 \n", b"skinml-store-3 {\n", b"\n" * 9]
)
def test_what_is_no_store_is_left_to_who_asked(path, keys, content):
    path.write_bytes(content)
    assert not retain_in(path, KEY, keys, [], [])


def test_a_store_under_another_key_is_none(filled, path, keys):
    assert not retain_in(path, bytes(32), keys, names(2), people(2))
