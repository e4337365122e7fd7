"""Sealed files of arrays: nothing lost, nothing changed unnoticed, the erased are gone."""

from __future__ import annotations

import resource
import stat
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinml.data.patient_rows import PackedRows, pack_rows
from skinml.data.sealed_arrays import (
    read_patient_arrays,
    read_sealed_arrays,
    write_patient_arrays,
    write_sealed_arrays,
)
from skinml.errors import DataError, EnvironmentProblem, IntegrityError
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.patient_keys import PatientKey, PatientKeys

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "arrays"
    folder.mkdir()
    return folder / "table.sealed"


@pytest.fixture
def keys(tmp_path):
    anchors = Anchors(tmp_path / "anchors", "clinic", KEY)
    anchors.create()
    return PatientKeys(tmp_path / "vault" / "keys.sealed", KEY, anchors)


@contextmanager
def no_more_space_than(num_bytes):
    """Let no file of this process grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
    big = {"images": np.random.default_rng(0).integers(0, 256, 5 * 2**19, dtype=np.uint8)}
    write_sealed_arrays(path, KEY, big, "images")
    assert np.array_equal(read_sealed_arrays(path, KEY, "images")["images"], big["images"])


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


PEOPLE = ["p2", "päivi", "p1", "p2", "p1", "p3"]
ROWS = {
    "inputs": np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32),
    "labels": np.arange(6),
    "patients": np.array(["a", "", "ccc", "d", "e", "f"]),  # a name like any other
    "digest": np.array([b"12\x00", b"\x001", b"", b"4", b"5", b"6"], dtype="S3"),
    "known": np.array([True, False, True, True, False, False]),
    "big": np.arange(6, dtype=">i4"),
    "nothing": np.zeros((6, 0), np.uint8),
}


def write_rows(path, keys, arrays=ROWS, patients=PEOPLE):
    keys.issue(list(patients))
    write_patient_arrays(path, KEY, keys, arrays, patients, "samples train")


def read_rows(path, keys):
    return read_patient_arrays(path, KEY, keys, "samples train")


def require_rows(got, places):
    """The rows of these places came back, in this order, and nothing else."""
    patients, arrays = got
    assert patients.tolist() == [PEOPLE[place] for place in places]
    assert arrays.keys() == ROWS.keys()
    for name, values in ROWS.items():
        assert np.array_equal(arrays[name], values[places])
        assert arrays[name].dtype == values.dtype.newbyteorder("<")
        assert arrays[name].shape == (len(places), *values.shape[1:])
        arrays[name][:] = arrays[name]  # they can be written to


def test_rows_of_patients_come_back_in_their_order(path, keys):
    write_rows(path, keys, patients=np.array(PEOPLE))
    require_rows(read_rows(path, keys), [0, 1, 2, 3, 4, 5])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_erased_patients_rows_are_gone_from_files_that_nobody_touched(path, keys):
    write_rows(path, keys)
    content = path.read_bytes()
    keys.erase(["p1"])
    require_rows(read_rows(path, keys), [0, 1, 3, 5])
    keys.erase(["p2", "päivi"])
    require_rows(read_rows(path, keys), [5])
    keys.erase(["p3"])
    require_rows(read_rows(path, keys), [])
    assert path.read_bytes() == content


def test_rows_of_who_comes_back_stay_erased(path, keys):
    write_rows(path, keys)
    keys.erase(["p1"])
    keys.issue(["p1"])
    require_rows(read_rows(path, keys), [0, 1, 3, 5])


def test_rows_that_waited_do_not_bring_an_erased_patient_back(path, keys):
    keys.issue(["p1", "p2", "p3"])
    keys.erase(["p1"])
    write_patient_arrays(path, KEY, keys, ROWS, PEOPLE, "samples train")
    require_rows(read_rows(path, keys), [0, 3, 5])
    assert len(keys) == 2


def test_no_rows_come_back_as_no_rows(path, keys):
    nothing = {name: values[:0] for name, values in ROWS.items()}
    write_rows(path, keys, nothing, [])
    require_rows(read_rows(path, keys), [])


def test_no_arrays_leave_the_patients(path, keys):
    write_rows(path, keys, {})
    patients, arrays = read_rows(path, keys)
    assert (patients.tolist(), arrays) == (PEOPLE, {})


def test_rotating_the_vault_leaves_the_rows(path, keys):
    write_rows(path, keys)
    keys.rotate()
    require_rows(read_rows(path, keys), [0, 1, 2, 3, 4, 5])


def test_a_file_shows_neither_patients_nor_values(path, keys):
    write_rows(path, keys)
    content = path.read_bytes()
    hidden = ["päivi".encode(), b"inputs", ROWS["inputs"][0].tobytes()]
    assert not [each for each in hidden if each in content]


def test_without_the_clinics_seal_only_the_patients_own_keys_show_ids_and_values():
    owners = {each: PatientKey(each.encode().rjust(16), bytes(31) + each[1:].encode())
              for each in ("p1", "p2", "p3")}  # fmt: skip
    patients = ["p1", "p2", "p3"]
    packed = bytes(pack_rows({"values": np.array(["one", "two", "six"])}, patients, owners, b"c"))
    assert b"two" not in packed
    opened = PackedRows(packed, b"c").open({owners["p2"].id: owners["p2"].key})
    assert (opened.patients, opened.arrays["values"].tolist()) == (["p2"], ["two"])
    assert opened.key_ids == [owners["p2"].id]
    for key, context in ((owners["p1"].key, b"c"), (owners["p2"].key, b"d")):
        with pytest.raises(IntegrityError):
            PackedRows(packed, context).open({owners["p2"].id: key})


def test_every_changed_byte_of_patients_rows_is_noticed_the_erased_ones_included(path, keys):
    write_rows(path, keys)
    keys.erase(["p1"])
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x80
        path.write_bytes(changed)
        with pytest.raises(IntegrityError, match=path.name):
            read_rows(path, keys)


@pytest.mark.parametrize("length", [0, 1, 9, 40, -1])
def test_a_cut_file_of_rows_is_noticed(path, keys, length):
    write_rows(path, keys)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(IntegrityError):
        read_rows(path, keys)


@pytest.mark.parametrize(("key", "context"), [(KEY[::-1], "c"), (KEY, "d")], ids=["key", "context"])
def test_rows_of_another_key_or_purpose_are_refused(path, keys, key, context):
    write_patient_arrays(path, KEY, keys, ROWS, PEOPLE, "c")
    with pytest.raises(IntegrityError):
        read_patient_arrays(path, key, keys, context)


def test_neither_kind_of_file_passes_for_the_other(path, keys):
    write_rows(path, keys)
    with pytest.raises(IntegrityError):
        read_sealed_arrays(path, KEY, "samples train")
    write_sealed_arrays(path, KEY, ROWS, "samples train")
    with pytest.raises(IntegrityError):
        read_rows(path, keys)


@pytest.mark.parametrize(
    "values",
    [
        np.array(["p", None] * 3, dtype=object),
        np.zeros(6, dtype=[("a", "i4")]),
        np.zeros(5),
        np.array(1),
    ],
    ids=["objects", "records", "too few", "single"],
)
def test_arrays_that_are_not_rows_are_refused_and_leave_no_file(path, keys, values):
    with pytest.raises(DataError, match="odd"):
        write_rows(path, keys, {"odd": values})
    assert not path.exists()


def test_a_full_disk_leaves_the_old_rows(path, keys):
    write_rows(path, keys)
    with no_more_space_than(800), pytest.raises(EnvironmentProblem, match="space"):
        write_rows(path, keys, {"big": np.zeros((6, 1000))})
    require_rows(read_rows(path, keys), [0, 1, 2, 3, 4, 5])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


DTYPES = st.sampled_from(["<f4", "|u1", "<i8", "|b1", "<U3", "|S2"])
SHAPES = st.lists(st.integers(0, 3), max_size=2).map(tuple)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), patients=st.lists(st.sampled_from("abcde"), max_size=9))
def test_packed_rows_come_back_whatever_their_type_shape_and_order(data, patients):
    kinds = data.draw(st.lists(st.tuples(DTYPES, SHAPES), max_size=3))
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    arrays = {
        str(number): random.integers(0, 99, (len(patients), *shape)).astype(dtype)
        for number, (dtype, shape) in enumerate(kinds)
    }
    owners = {each: PatientKey(each.encode() * 16, each.encode() * 32) for each in "abcde"}
    living = data.draw(st.sets(st.sampled_from("abcde")))
    packed = bytes(pack_rows(arrays, patients, owners, b"c"))
    got = PackedRows(packed, b"c").open({owners[each].id: owners[each].key for each in living})
    kept = [place for place, each in enumerate(patients) if each in living]
    assert got.patients == [patients[place] for place in kept]
    for name, values in arrays.items():
        assert got.arrays[name].dtype == values.dtype
        assert np.array_equal(got.arrays[name], values[kept])


def test_rows_beyond_one_chunk_come_back(keys, path):
    """More bytes than are laid out at once, and one patient's alone more than that."""
    patients = ["a"] * 3 + ["b"] * 18 + ["c"] * 2
    values = np.random.default_rng(0).integers(0, 256, (23, 2**20), dtype=np.uint8)
    write_rows(path, keys, {"values": values}, patients)
    keys.erase(["c"])
    people, arrays = read_rows(path, keys)
    assert people.tolist() == patients[:21]
    assert np.array_equal(arrays["values"], values[:21])
