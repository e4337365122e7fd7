"""Arrays in Flower's records: NumPy's own bytes and not one more.

Flower's array carries a type, a shape and bytes, and NumPy reads the bytes alone, up to the end of
the values that they announce. A sender could put anything into the rest; so all of it is checked.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.lib import format as npy

from skinml.records import Arrays

_STYPE = "numpy.ndarray"
_KINDS = "biuf"  # booleans, integers, floats: no text, no objects, no records


def pack_arrays(arrays: Arrays) -> ArrayRecord:
    """Put arrays into a record.

    Args:
        arrays: By name.

    Returns:
        The record.
    """
    return ArrayRecord({name: _array(values) for name, values in arrays.items()})


def unpack_arrays(record: ArrayRecord) -> Arrays:
    """Read the arrays of a record.

    Args:
        record: What arrived.

    Returns:
        The arrays by name.

    Raises:
        TypeError, ValueError: If an array is not as `pack_arrays` writes it.

    Guarantees:
        What arrived says the values and nothing beside them: no other type or shape outside than
        inside, no byte before, between or after.
    """
    return {name: _read(array) for name, array in record.items()}


def _array(values: np.ndarray) -> Array:
    dtype, shape = str(values.dtype), values.shape
    try:
        header = _announced(dtype, shape)[1]
    except ValueError:
        return Array(np.ascontiguousarray(values))  # for whoever receives it to refuse
    return Array(dtype, shape, _STYPE, header + values.tobytes())


def _read(array: Array) -> np.ndarray:
    dtype, header = _announced(array.dtype, tuple(array.shape))
    shape, start = tuple(array.shape), len(header)
    if (
        array.stype != _STYPE
        or array.data[:start] != header
        or len(array.data) != start + dtype.itemsize * prod(shape)
    ):
        raise ValueError("an array with something beside its values")
    return np.frombuffer(array.data, dtype, offset=start).reshape(shape).copy()


@lru_cache(maxsize=64)
def _announced(told: str, shape: tuple[int, ...]) -> tuple[np.dtype[Any], bytes]:
    """Write the header that `pack_arrays` puts before values of a type and shape."""
    dtype = np.dtype(told)
    if dtype.kind not in _KINDS or str(dtype) != told:
        raise ValueError("another type")
    header = BytesIO()
    npy.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return dtype, header.getvalue()
