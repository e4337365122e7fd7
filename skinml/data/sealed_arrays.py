"""Encrypted files of named arrays: whole ones, and ones of patients' rows.

Both are sealed in pieces under the clinic's key. In a file of patients' rows, each patient's rows
are sealed under the patient's own key first, see `skinml.data.patient_rows`, so that whoever is
erased is erased from every such file at once, none of which is rewritten.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.data.patient_rows import PackedRows, pack_rows, require_plain, require_rows
from skinml.durable import open_private, sync_folder
from skinml.errors import EnvironmentProblem, IntegrityError
from skinml.stewardship.encryption import open_pieces, seal_pieces
from skinml.stewardship.patient_keys import PatientKey, PatientKeys


def write_sealed_arrays(
    path: Path, key: bytes, arrays: Mapping[str, NDArray[Any]], context: str
) -> None:
    """Write named arrays to one encrypted file.

    For what belongs to no patient; `write_patient_arrays` is for the rest.

    Args:
        path: The file; one that is there is replaced.
        key: The clinic's key.
        arrays: Numbers, truth values or fixed-width text, of at least one dimension; never
            objects.
        context: What the arrays are, such as "predictions of run 7"; reading needs the same.

    Raises:
        DataError: If an array holds objects.
        EnvironmentProblem: If the file cannot be written.

    Guarantees:
        The file is written whole or not at all, with mode 0600.
    """
    require_plain(arrays)
    plain = io.BytesIO()
    np.savez(plain, allow_pickle=False, **dict(arrays))
    _write(path, seal_pieces(key, plain.getbuffer(), _context("arrays", context)))


def read_sealed_arrays(path: Path, key: bytes, context: str) -> dict[str, NDArray[Any]]:
    """Read what `write_sealed_arrays` wrote.

    Args:
        path: The file.
        key: The key that it was written with.
        context: The context that it was written with.

    Returns:
        The arrays by name.

    Raises:
        EnvironmentProblem: If the file cannot be read.
        IntegrityError: If the file was changed, cut, or has another key or context.
    """
    with np.load(_read(path, key, _context("arrays", context)), allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def write_patient_arrays(
    path: Path,
    key: bytes,
    keys: PatientKeys,
    arrays: Mapping[str, NDArray[Any]],
    patients: Sequence[str] | NDArray[np.str_],
    context: str,
) -> None:
    """Write rows of patients to one encrypted file, from which patients can be erased.

    Args:
        path: The file; one that is there is replaced.
        key: The clinic's key.
        keys: The keys of the clinic's patients.
        arrays: (n, ...) each: numbers, truth values or fixed-width text; never objects.
        patients: The patient of each row, n ids; n may be 0.
        context: What the arrays are, such as "samples train"; reading needs the same.

    Raises:
        DataError: If an array holds objects, or does not have n rows.
        EnvironmentProblem: If the file or the vault cannot be written.
        IntegrityError: If the vault was changed.

    Guarantees:
        The file is written whole or not at all, with mode 0600. A patient's id and values are
        sealed under the patient's key and nowhere else in the file.
    """
    require_rows(arrays, patients)
    everybody = [str(each) for each in patients]
    owners = _owners(keys, sorted(set(everybody)))
    kept = [at for at, each in enumerate(everybody) if each in owners]
    if len(kept) < len(everybody):
        arrays = {name: values[kept] for name, values in arrays.items()}
    bound = _context("patient arrays", context)
    packed = pack_rows(arrays, [everybody[at] for at in kept], owners, bound.encode())
    _write(path, seal_pieces(key, packed, bound))


def read_patient_arrays(
    path: Path, key: bytes, keys: PatientKeys, context: str
) -> tuple[NDArray[np.str_], dict[str, NDArray[Any]]]:
    """Read what `write_patient_arrays` wrote, without the rows of patients erased since.

    Args:
        path: The file.
        key: The clinic's key.
        keys: The keys of the clinic's patients.
        context: The context that it was written with.

    Returns:
        (m,) the patient of each row that is left, and the arrays by name, (m, ...) each, in the
        order in which they were written. m is 0 where everybody was erased.

    Raises:
        EnvironmentProblem: If the file cannot be read.
        IntegrityError: If the file or the vault was changed, or the file has another key or
            context.
    """
    bound = _context("patient arrays", context)
    packed = PackedRows(_read(path, key, bound).getbuffer(), bound.encode())
    living = keys.find(packed.key_ids) if packed.key_ids else {}
    try:
        rows = packed.open(living)
    except IntegrityError:
        raise _changed(path) from None
    return np.array(rows.patients, dtype=str), rows.arrays


def _owners(keys: PatientKeys, patients: Sequence[str]) -> dict[str, PatientKey]:
    """Look the keys of patients up."""
    names = dict(zip(patients, keys.pseudonyms(patients), strict=True))
    known = keys.find_pseudonyms(names.values())
    return {patient: known[name] for patient, name in names.items() if name in known}


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            handle = open_private(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(path, error) from error


def _read(path: Path, key: bytes, context: str) -> io.BytesIO:
    """Read and unseal a file."""
    try:
        with path.open("rb") as file:
            return open_pieces(key, file, context)
    except OSError as error:
        raise _refused(path, error) from error
    except IntegrityError:
        raise _changed(path) from None


def _context(kind: str, context: str) -> str:
    """Tell the two kinds of files apart."""
    return json.dumps([f"skinml {kind} 2", context])


def _changed(path: Path) -> IntegrityError:
    """Build the error for a file that fails its check."""
    return IntegrityError(
        rule="a file of arrays as skinml wrote it, opened with its own key",
        got=f"a changed byte, another key or another purpose in {path}",
        do="Check which key belongs to it, or make the file again.",
    )


def _refused(path: Path, error: OSError) -> EnvironmentProblem:
    """Build the error of a file operation that the system refused."""
    return EnvironmentProblem(
        rule="a file of arrays that can be read and written",
        got=f"path={path} ({error.strerror})",
        do="Check its permissions and the space on the disk.",
    )
