"""Arrays in Flower's records: NumPy's own bytes and not one more.

Flower's array carries a type, a shape and bytes, and NumPy reads the bytes alone, up to the end of
the values that they announce. A sender could put anything into the rest; so all of it is checked.
"""

from __future__ import annotations

from io import BytesIO
from math import prod

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
    return ArrayRecord({name: Array(np.ascontiguousarray(a)) for name, a in arrays.items()})


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


def _read(array: Array) -> np.ndarray:
    stream = BytesIO(array.data)
    if npy.read_magic(stream) != (1, 0):
        raise ValueError("another version of NumPy's format")
    shape, in_columns, dtype = npy.read_array_header_1_0(stream)
    told, written = BytesIO(), {"descr": dtype.str, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(told, written)
    start = stream.tell()
    outside = (array.dtype, tuple(array.shape), array.stype)
    if (
        in_columns
        or dtype.kind not in _KINDS
        or outside != (str(dtype), shape, _STYPE)
        or told.getvalue() != array.data[:start]
        or len(array.data) != start + dtype.itemsize * prod(shape)
    ):
        raise ValueError("an array with something beside its values")
    return array.numpy()
