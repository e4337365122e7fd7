"""How a store of rows is written: its header, and blocks of sealed indexes and sealed rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.data.row_index import NAME_BYTES
from skinml.stewardship.encryption import (
    SEAL_OVERHEAD_BYTES,
    keyed_digest,
    keyed_digests,
    seal,
    unseal,
)
from skinml.stewardship.patient_keys import PatientKey

FAMILY = b"skinml-store-"
MAGIC = FAMILY + b"3 "
LENGTH_BYTES = 8
FRAME_BYTES = 2 * LENGTH_BYTES + 16


@dataclass(frozen=True)
class Kind:
    """What a row is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Kind:
        """Tell what the rows of an array are."""
        return cls(rows.dtype.newbyteorder("<"), rows.shape[1:])

    @property
    def sealed_bytes(self) -> int:
        """Bytes of a sealed row."""
        return SEAL_OVERHEAD_BYTES + self.dtype.itemsize * prod(self.shape)

    def to_line(self) -> bytes:
        """Write it down."""
        return json.dumps([self.dtype.str, self.shape]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Kind:
        """Read what `to_line` wrote."""
        dtype, shape = json.loads(line)
        return cls(np.dtype(dtype), tuple(shape))


@dataclass(frozen=True, repr=False)
class Blocks:
    """Writes and opens the blocks of one store.

    Attributes:
        key: The store's key.
        version: What its rows were made by.
    """

    key: bytes
    version: str

    @property
    def header(self) -> bytes:
        """The first line of the file."""
        return MAGIC + json.dumps(self.version).encode() + b"\n"

    def row_context(self, name: bytes) -> bytes:
        """Bind a row to the version and to its name."""
        return self.header + b"row " + name

    def index(
        self, number: int, kind: Kind, names: NDArray[np.uint8], ids: NDArray[np.uint8]
    ) -> bytes:
        """Seal a block's index."""
        content = kind.to_line() + names.tobytes() + ids.tobytes()
        return seal(self.key, content, context=self._context(number))

    def opened(
        self, number: int, sealed: bytes
    ) -> tuple[Kind, NDArray[np.uint8], NDArray[np.uint8]]:
        """Open a block's index: what its rows are, their names, the ids of their keys.

        Raises:
            IntegrityError: If it was changed or has another key.
        """
        content = unseal(self.key, sealed, context=self._context(number))
        line, _, _ = content.partition(b"\n")
        both = np.frombuffer(content, np.uint8, offset=len(line) + 1)
        names, ids = both.reshape(2, -1, NAME_BYTES)
        return Kind.from_line(line), names, ids

    def frame(self, number: int, index_bytes: int, row_bytes: int) -> bytes:
        """Make what stands before a block; its digest tells a changed length from a cut file."""
        lengths = b"".join(
            each.to_bytes(LENGTH_BYTES, "little") for each in (index_bytes, row_bytes)
        )
        tag = bytes.fromhex(keyed_digest(self.key, self._context(number) + b" frame " + lengths))
        return (lengths + tag)[:FRAME_BYTES]

    def _context(self, number: int) -> bytes:
        """Bind an index to the version and to its place."""
        return self.header + f"block {number}".encode()


def row_names(digests: Sequence[bytes], owners: Sequence[PatientKey]) -> NDArray[np.uint8]:
    """Name rows, (n, 16): by the image, under the key of its patient."""
    places: dict[bytes, list[int]] = {}
    for place, owner in enumerate(owners):
        places.setdefault(owner.key, []).append(place)
    names = np.empty((len(digests), NAME_BYTES), np.uint8)
    for key, mine in places.items():
        found = keyed_digests(key, [b"store row " + digests[at] for at in mine])
        for at, name in zip(mine, found, strict=True):
            names[at] = np.frombuffer(bytes.fromhex(name)[:NAME_BYTES], np.uint8)
    return names
