"""The encrypted store of rows and the sealed tables: nothing lost, nothing changed unnoticed."""

from __future__ import annotations

import hashlib
import resource
import stat
from contextlib import contextmanager

import numpy as np
import pytest

from skinml.data.feature_store import (
    FeatureStore,
    read_sealed_arrays,
    store_path,
    write_sealed_arrays,
)
from skinml.errors import DataError, EnvironmentProblem, IntegrityError

KEY = bytes(range(32))


def names(*numbers):
    return [hashlib.sha256(str(number).encode()).digest() for number in numbers]


def rows_of(*numbers):
    """One recognisable float row a number."""
    return np.array([[number, -number, 0.5] for number in numbers], dtype=np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.store"


@pytest.fixture
def filled(path):
    """A store of three blocks, and where each block ends in the file."""
    store = FeatureStore(path, KEY, "v1")
    ends = []
    for block in ((1, 2), (3,), (4, 5, 6)):
        store.append(names(*block), rows_of(*block))
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
def test_rows_come_back_in_the_order_asked_for(path, rows):
    FeatureStore(path, KEY, "v1").append(names(0, 1, 2, 3), rows)
    taken = FeatureStore(path, KEY, "v1").take(names(3, 0, 3, 1))
    assert np.array_equal(taken, rows[[3, 0, 3, 1]])
    assert taken.dtype == rows.dtype


def test_a_store_knows_its_rows_before_and_after_it_is_opened_again(filled, path):
    for store in (filled[0], FeatureStore(path, KEY, "v1")):
        assert len(store) == 6
        assert names(4)[0] in store
        assert names(7)[0] not in store
        assert np.array_equal(store.take(names(6, 1)), rows_of(6, 1))


def test_taken_rows_are_copies(filled):
    store, _ = filled
    store.take(names(1))[:] = 9
    assert np.array_equal(store.take(names(1)), rows_of(1))


def test_appended_rows_are_copies(path):
    store, rows = FeatureStore(path, KEY, "v1"), rows_of(1)
    store.append(names(1), rows)
    rows[:] = 9
    assert np.array_equal(store.take(names(1)), rows_of(1))


def test_a_row_that_is_there_is_kept(filled, path):
    filled[0].append(names(1), rows_of(9))
    assert np.array_equal(FeatureStore(path, KEY, "v1").take(names(1)), rows_of(1))
    assert np.array_equal(filled[0].take(names(1)), rows_of(1))


def test_missing_rows_are_counted_and_not_named(filled):
    with pytest.raises(DataError, match="num_missing=2 of 3"):
        filled[0].take(names(1, 8, 9))


def test_every_changed_byte_is_noticed(filled, path):
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises((IntegrityError, DataError)) as caught:
            FeatureStore(path, KEY, "v1")
        if place >= len(b'skinml-store-1 "v1"\n'):  # before, it looks like another version
            assert isinstance(caught.value, IntegrityError)
            assert path.name in str(caught.value)


def test_blocks_cannot_change_places(filled, path):
    content, (first, second, _) = path.read_bytes(), filled[1]
    start = len(b'skinml-store-1 "v1"\n')
    path.write_bytes(content[:start] + content[first:second] + content[start:first])
    with pytest.raises(IntegrityError):
        FeatureStore(path, KEY, "v1")


def test_another_key_is_noticed(filled, path):
    with pytest.raises(IntegrityError, match="another key"):
        FeatureStore(path, KEY[::-1], "v1")


def test_another_version_is_refused(filled, path):
    with pytest.raises(DataError, match="version v2"):
        FeatureStore(path, KEY, "v2")


def test_a_file_of_something_else_is_refused_and_kept(path):
    path.write_bytes(b"somebody's thesis")
    with pytest.raises(IntegrityError):
        FeatureStore(path, KEY, "v1")
    assert path.read_bytes() == b"somebody's thesis"


def test_wherever_a_crash_cuts_the_file_whole_blocks_stay_and_the_rest_is_written_over(
    filled, path
):
    content, ends = path.read_bytes(), filled[1]
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        store = FeatureStore(path, KEY, "v1")
        num_blocks = sum(end <= length for end in ends)
        assert len(store) == (0, 2, 3, 6)[num_blocks]
        store.append(names(7, 8), rows_of(7, 8))
        again = FeatureStore(path, KEY, "v1")
        assert len(again) == len(store) == (2, 4, 5, 8)[num_blocks]
        assert np.array_equal(again.take(names(8)), rows_of(8))


def test_two_writers_of_one_file_take_in_what_the_other_wrote(path):
    first, second = FeatureStore(path, KEY, "v1"), FeatureStore(path, KEY, "v1")
    first.append(names(1), rows_of(1))
    second.append(names(2), rows_of(2))
    first.append(names(3), rows_of(3))
    assert len(first) == 3
    assert np.array_equal(FeatureStore(path, KEY, "v1").take(names(3, 2, 1)), rows_of(3, 2, 1))


def test_a_file_that_shrank_under_an_open_store_is_noticed(filled, path):
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(IntegrityError, match="shorter"):
        filled[0].append(names(7), rows_of(7))


@pytest.mark.parametrize(
    ("digests", "rows"),
    [
        (names(7), rows_of(7).astype(np.float64)),
        (names(7), np.zeros((1, 4), np.float32)),
        (names(7, 8), rows_of(7)),
        ([b"short"], rows_of(7)),
        ([], rows_of()),
    ],
    ids=["type", "shape", "count", "digest", "empty"],
)
def test_rows_that_do_not_fit_are_refused_and_leave_the_file(filled, path, digests, rows):
    before = path.read_bytes()
    with pytest.raises(DataError):
        filled[0].append(digests, rows)
    assert path.read_bytes() == before


def test_the_file_is_its_owners_only_and_shows_no_row(filled, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert names(1)[0] not in content
    assert rows_of(1).tobytes() not in content


def test_a_folder_that_is_missing_is_the_environments_fault(tmp_path):
    store = FeatureStore(tmp_path / "none" / "features.store", KEY, "v1")
    with pytest.raises(EnvironmentProblem):
        store.append(names(1), rows_of(1))


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


def test_a_full_disk_loses_the_block_that_did_not_fit_and_no_other(filled, path):
    store, ends = filled
    with no_more_space_than(ends[-1] + 40), pytest.raises(EnvironmentProblem, match="space"):
        store.append(names(7), rows_of(7))
    assert len(FeatureStore(path, KEY, "v1")) == len(store) == 6
    store.append(names(8), rows_of(8))
    assert np.array_equal(FeatureStore(path, KEY, "v1").take(names(6, 8)), rows_of(6, 8))


TABLE = {
    "patients": np.array(["p1", "päivi", ""]),
    "labels": np.array([0, 1, 1]),
    "probabilities": np.random.default_rng(0).random((3, 2)),
    "known": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float32),
}


def test_a_table_comes_back_as_it_was(path):
    write_sealed_arrays(path, KEY, TABLE, "predictions of r1")
    got = read_sealed_arrays(path, KEY, "predictions of r1")
    assert got.keys() == TABLE.keys()
    for name, value in TABLE.items():
        assert np.array_equal(got[name], value)
        assert got[name].dtype == value.dtype
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_table_longer_than_one_piece_comes_back(path):
    big = {"images": np.random.default_rng(0).integers(0, 256, 70 * 2**20, dtype=np.uint8)}
    write_sealed_arrays(path, KEY, big, "images")
    assert np.array_equal(read_sealed_arrays(path, KEY, "images")["images"], big["images"])
    content = path.read_bytes()
    first = 9 + int.from_bytes(content[1:9], "little")
    assert first < len(content)
    for cut in (content[:first], content[first:], content + content[first:]):
        path.write_bytes(cut)
        with pytest.raises(IntegrityError):
            read_sealed_arrays(path, KEY, "images")


def test_every_changed_byte_of_a_table_is_noticed(path):
    write_sealed_arrays(path, KEY, {"labels": np.arange(3)}, "c")
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x80
        path.write_bytes(changed)
        with pytest.raises(IntegrityError):
            read_sealed_arrays(path, KEY, "c")


@pytest.mark.parametrize("length", [0, 1, 8, 9, 40, -1])
def test_a_cut_table_is_noticed(path, length):
    write_sealed_arrays(path, KEY, TABLE, "c")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(IntegrityError):
        read_sealed_arrays(path, KEY, "c")


@pytest.mark.parametrize(("key", "context"), [(KEY[::-1], "c"), (KEY, "d")], ids=["key", "context"])
def test_a_table_of_another_key_or_purpose_is_refused(path, key, context):
    write_sealed_arrays(path, KEY, TABLE, "c")
    with pytest.raises(IntegrityError):
        read_sealed_arrays(path, key, context)


def test_objects_are_refused_and_leave_no_file(path):
    with pytest.raises(DataError, match="array=patients"):
        write_sealed_arrays(path, KEY, {"patients": np.array(["p", None], dtype=object)}, "c")
    assert not path.exists()


def test_a_table_that_cannot_be_written_leaves_the_old_one(path, tmp_path):
    with pytest.raises(EnvironmentProblem):
        write_sealed_arrays(tmp_path / "none" / "t", KEY, TABLE, "c")
    with pytest.raises(EnvironmentProblem):
        read_sealed_arrays(path, KEY, "c")


def test_a_full_disk_leaves_the_old_table_and_nothing_half_written(path):
    write_sealed_arrays(path, KEY, TABLE, "c")
    with no_more_space_than(500), pytest.raises(EnvironmentProblem, match="space"):
        write_sealed_arrays(path, KEY, {"labels": np.arange(1000)}, "c")
    assert read_sealed_arrays(path, KEY, "c").keys() == TABLE.keys()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
