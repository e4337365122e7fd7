"""Where the rows of a store are: names of 16 bytes to places in a file, 50 bytes a row.

Shapes in this file: n rows, m names that are looked for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

NAME_BYTES = 16
_MOST_LATE = 50_000  # beyond this, late rows are sorted in among the others

_Names = NDArray[np.uint8]
_Offsets = NDArray[np.int64]


class RowIndex:
    """Rows by name. Of two rows of one name the earlier one counts.

    What is added at once is sorted; what comes in single blocks later waits in a dictionary, so
    that neither opening a large file nor adding to it takes long.
    """

    def __init__(self) -> None:
        self._high = np.empty(0, np.uint64)
        self._low = np.empty(0, np.uint64)
        self._offsets: _Offsets = np.empty(0, np.int64)
        self._owners: _Names = np.empty((0, NAME_BYTES), np.uint8)
        self._late: dict[bytes, tuple[int, bytes]] = {}

    def add(self, names: _Names, owners: _Names, offsets: _Offsets) -> None:
        """Add rows.

        Args:
            names: (n, 16) names.
            owners: (n, 16) the id of each one's key.
            offsets: (n,) where each begins.
        """
        if len(names) + len(self._late) > _MOST_LATE:
            self._sort_in(names, owners, offsets)
            return
        new = zip(_each(names), _each(owners), offsets.tolist(), strict=True)
        known = self.find(names) >= 0
        for (name, owner, offset), is_known in zip(new, known.tolist(), strict=True):
            if not is_known:
                self._late.setdefault(name, (offset, owner))

    def find(self, names: _Names) -> _Offsets:
        """Look rows up.

        Args:
            names: (m, 16) names.

        Returns:
            (m,) where each row begins, -1 where there is none.
        """
        found: _Offsets = np.full(len(names), -1, np.int64)
        high, low = _halves(names)
        places = np.searchsorted(self._high, high)
        open_ = np.flatnonzero(places < len(self._high))
        while len(open_):  # once, unless two names begin with the same eight bytes
            at = places[open_]
            alike = self._high[at] == high[open_]
            same = alike & (self._low[at] == low[open_])
            found[open_[same]] = self._offsets[at[same]]
            open_ = open_[alike & ~same]
            places[open_] += 1
            open_ = open_[places[open_] < len(self._high)]
        if self._late:
            for place, name in enumerate(_each(names)):
                if found[place] < 0 and name in self._late:
                    found[place] = self._late[name][0]
        return found

    def find_owners(self, names: _Names) -> _Names:
        """Look the keys of rows up.

        Args:
            names: (m, 16) names, each of a row that is there.

        Returns:
            (m, 16) the id of each one's key.
        """
        high, low = _halves(names)
        found = np.zeros((len(names), NAME_BYTES), np.uint8)
        for place, name in enumerate(_each(names)):
            at = int(np.searchsorted(self._high, high[place]))
            while at < len(self._high) and self._high[at] == high[place]:
                if self._low[at] == low[place]:
                    found[place] = self._owners[at]
                    break
                at += 1
            else:
                found[place] = np.frombuffer(self._late[name][1], np.uint8)
        return found

    def owners(self) -> set[bytes]:
        """List the ids of the keys.

        Returns:
            Each id once.
        """
        return {
            *_each(np.unique(self._owners, axis=0)),
            *(owner for _, owner in self._late.values()),
        }

    def count(self, living: Collection[bytes]) -> int:
        """Count the rows whose key is there.

        Args:
            living: Ids of keys.

        Returns:
            How many rows have one of them.
        """
        chosen = set(living)
        late = sum(owner in chosen for _, owner in self._late.values())
        return late + sum(owner in chosen for owner in _each(self._owners))

    def _sort_in(self, names: _Names, owners: _Names, offsets: _Offsets) -> None:
        """Sort rows in, those that waited first."""
        late = list(self._late.items())
        waited = _packed([name for name, _ in late])
        high, low = _halves(np.concatenate([waited, names]))
        high = np.concatenate([self._high, high])
        low = np.concatenate([self._low, low])
        late_offsets = np.array([offset for _, (offset, _) in late], np.int64)
        every = np.concatenate([self._offsets, late_offsets, offsets])
        held = np.concatenate([self._owners, _packed([owner for _, (_, owner) in late]), owners])
        order = np.lexsort((low, high))  # stable: of one name the earlier row comes first
        high, low = high[order], low[order]
        first = np.ones(len(order), bool)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        self._high, self._low = high[first], low[first]
        self._offsets, self._owners = every[order[first]], held[order[first]]
        self._late = {}


def _halves(names: _Names) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Read names as two numbers each."""
    numbers = np.ascontiguousarray(names).view("<u8").reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def _each(names: _Names) -> list[bytes]:
    """Take an array of names apart."""
    content = names.tobytes()
    return [content[at : at + NAME_BYTES] for at in range(0, len(content), NAME_BYTES)]


def _packed(names: Sequence[bytes]) -> _Names:
    """Put names into an array."""
    return np.frombuffer(b"".join(names), np.uint8).reshape(-1, NAME_BYTES)
