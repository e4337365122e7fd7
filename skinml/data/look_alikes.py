"""Which pictures look alike: every two perceptual hashes that differ in few bits.

Some thousand hashes are compared one by one. Of more, only those are compared that nearly agree in
a piece: the 256 bits are dealt out into so many pieces that two hashes within the distance have a
piece in which at most one bit differs, and who shares such a piece is looked up in a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinml.records import IntArray

_BITS = 256
_PAIRS_AT_ONCE = 4_000_000
# 13 pieces of 19 or 20 bits: a table of them is small, and the usual distance of 24 leaves at most
# one differing bit to one of them.
_LEAST_PIECES = 13
_FEW = 20_000  # hashes: all their pairs are compared within seconds
_LOOKED_UP = 8  # a pair that is looked up costs so many times one that stands in line


def near_duplicates(hashes: NDArray[np.uint8], max_distance: int) -> IntArray:
    """Find every two hashes that differ in few bits.

    Args:
        hashes: (n, 32) bytes of perceptual hashes.
        max_distance: Greatest number of differing bits.

    Returns:
        (m, 3) the positions of the two, the first below the second, and their distance; in order.

    Guarantees:
        No pair is missed. At worst all pairs are compared; where many hashes are spread well, some
        thousand times fewer. Memory stays below 400 MB, 200 bytes a hash and what is found.

    Source:
        The pieces are those of Norouzi, Punjani and Fleet 2012, "Fast search in Hamming space with
        multi-index hashing", CVPR, section 2.

    Example:
        >>> near_duplicates(np.array([[0] * 32, [255] * 32, [1] + [0] * 31], np.uint8), 2).tolist()
        [[0, 2, 1]]
    """
    count = len(hashes)
    if count >= _FEW:
        pieces = _pieces(max_distance)
        reach = max_distance // len(pieces)
        looked_up = sum(_Table.of(hashes, piece).num_pairs(reach) for piece in pieces)
        if looked_up * _LOOKED_UP < count * (count - 1) // 2:
            return _by_pieces(hashes, pieces, max_distance)
    return _one_by_one(hashes, max_distance)


def _one_by_one(hashes: NDArray[np.uint8], max_distance: int) -> IntArray:
    """Compare every two hashes, in blocks of rows that bound the memory."""
    block_size = max(1, _PAIRS_AT_ONCE // max(1, len(hashes)))
    words = np.ascontiguousarray(hashes).view(np.uint64)
    found = []
    for start in range(0, len(words), block_size):
        block, rest = words[start : start + block_size], words[start:]
        distance = np.zeros((len(block), len(rest)), dtype=np.uint16)
        for word in range(words.shape[1]):
            distance += np.bitwise_count(block[:, word, None] ^ rest[None, :, word])
        first, second = np.nonzero(distance <= max_distance)
        below = first < second
        first, second = first[below], second[below]
        found.append(np.column_stack([first + start, second + start, distance[first, second]]))
    return np.concatenate(found).astype(np.int64) if found else np.empty((0, 3), dtype=np.int64)


def _by_pieces(hashes: NDArray[np.uint8], pieces: Sequence[_Piece], max_distance: int) -> IntArray:
    """Compare those that nearly agree in a piece; a pair counts where it does so first."""
    words = np.ascontiguousarray(hashes).view(np.uint64)
    reach = max_distance // len(pieces)
    found = [np.empty((0, 3), dtype=np.int64)]
    for number, piece in enumerate(pieces):
        table = _Table.of(hashes, piece)
        ordered = words[table.order]  # neighbours in the table are neighbours in memory
        for first, second in table.pairs(reach):
            differing = ordered[first] ^ ordered[second]
            distance = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
            near = np.flatnonzero(distance <= max_distance)
            for earlier in pieces[:number]:
                bits = np.bitwise_count(differing[near] & earlier.mask).sum(axis=1, dtype=np.int64)
                near = near[bits > reach]
            ends = np.sort(
                np.column_stack([table.order[first[near]], table.order[second[near]]]), axis=1
            )
            found.append(np.column_stack([ends, distance[near]]))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


@dataclass(frozen=True)
class _Piece:
    """Some bits of a hash.

    Attributes:
        bits: Their places.
        mask: (4,) words of a hash, with ones at these places.
    """

    bits: tuple[int, ...]
    mask: NDArray[np.uint64]


def _pieces(max_distance: int) -> list[_Piece]:
    """Deal the bits out: more than half as many pieces as bits may differ, so one has at most one.

    Neighbouring bits of a perceptual hash go together; dealt out in turn they are apart.
    """
    count = max(_LEAST_PIECES, max_distance // 2 + 1)
    pieces = []
    for number in range(count):
        bits = tuple(range(number, _BITS, count))
        ones = np.zeros(_BITS, dtype=bool)
        ones[list(bits)] = True
        pieces.append(_Piece(bits, np.packbits(ones).view(np.uint64)))
    return pieces


@dataclass(frozen=True)
class _Table:
    """Hashes in the order of one piece.

    Attributes:
        order: (n,) positions of the hashes.
        keys: (n,) the pieces, ascending.
        width: Bits of a piece.
        starts: (2**width + 1,) where each value of a piece begins.
    """

    order: IntArray
    keys: IntArray
    width: int
    starts: IntArray

    @classmethod
    def of(cls, hashes: NDArray[np.uint8], piece: _Piece) -> _Table:
        """Make the table of one piece."""
        keys = np.zeros(len(hashes), dtype=np.int64)
        for bit in piece.bits:
            byte, place = divmod(bit, 8)
            keys = keys << 1 | (hashes[:, byte] >> (7 - place)) & 1
        width = len(piece.bits)
        order = np.argsort(keys, kind="stable")
        starts = np.zeros(2**width + 1, dtype=np.int64)
        np.cumsum(np.bincount(keys, minlength=2**width), out=starts[1:])
        return cls(order, keys[order], width, starts)

    def num_pairs(self, reach: int) -> int:
        """Count the pairs that `pairs` gives."""
        return sum(int((ends - begins).sum()) for _, begins, ends in self._ranges(reach))

    def pairs(self, reach: int) -> Iterator[tuple[IntArray, IntArray]]:
        """Give all pairs whose pieces differ in at most `reach` bits, 0 or 1, by place in order."""
        for places, begins, ends in self._ranges(reach):
            lengths = ends - begins
            kept = np.flatnonzero(lengths)
            totals = np.cumsum(lengths[kept])
            start, done = 0, 0
            while start < len(kept):
                stop = int(np.searchsorted(totals, done + _PAIRS_AT_ONCE, side="right"))
                stop = max(stop, start + 1)
                some = kept[start:stop]
                yield _spread(places[some], begins[some], lengths[some])
                start, done = stop, int(totals[stop - 1])

    def _ranges(self, reach: int) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """For places in order, give the range of places that each makes pairs with."""
        places = np.arange(len(self.keys))
        yield places, places + 1, self.starts[self.keys + 1]
        for bit in range(self.width if reach else 0):
            lower = places[self.keys >> bit & 1 == 0]  # the other half finds the same pairs
            partners = self.keys[lower] | 1 << bit
            yield lower, self.starts[partners], self.starts[partners + 1]


def _spread(places: IntArray, begins: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
    """Pair each place with every one of its range."""
    first = np.repeat(places, lengths)
    ended = np.cumsum(lengths)
    second = np.arange(len(first)) + np.repeat(begins - (ended - lengths), lengths)
    return first, second
