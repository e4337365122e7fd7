"""Encrypted files of arrays: a growing store of rows named by digest, and whole sealed tables.

Layout of a store: one plain line that names the format and the version of the rows, then blocks.
A block is a frame (8 bytes of length and a 16-byte keyed digest of it) and as many sealed bytes.
Inside: a JSON line of type and shape, 32 bytes of digest a row, the rows.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from skinml.errors import DataError, EnvironmentProblem, IntegrityError, require_same_length
from skinml.stewardship.encryption import keyed_digest, seal, unseal

DIGEST_BYTES = 32
_MAGIC = b"skinml-store-1 "
_LENGTH_BYTES = 8
_FRAME_BYTES = _LENGTH_BYTES + 16
_PIECE_BYTES = 64 * 2**20


class FeatureStore:
    """An append-only encrypted file of rows, each under the digest of the image it came from.

    Rows are features (d,) or prepared images (height, width, 3); all of one type and shape. Two
    processes may append to one store: each takes in what the other wrote.

    Args:
        path: The file; made at the first `append`.
        key: 32 bytes from `skinml.stewardship.encryption.new_key`.
        version: What the rows were made by, such as `Backbone.version`. Not secret.

    Raises:
        DataError: If the file holds rows of another version.
        EnvironmentProblem: If the file cannot be read.
        IntegrityError: If the file was changed or belongs to another key.

    Guarantees:
        A row is on the disk when `append` returns. A block that a crash cut short is dropped and
        written over. A changed byte is noticed before any row of its block is used. Blocks cut
        off at the end are not noticed: they count as not computed yet.
    """

    def __init__(self, path: Path, key: bytes, version: str) -> None:
        self.path = path
        self.version = version
        self._key = key
        self._header = _MAGIC + json.dumps(version).encode() + b"\n"
        self._blocks: list[NDArray[Any]] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._end = 0
        if path.exists():
            try:
                with path.open("rb") as file:
                    self._read_on(file)
            except OSError as error:
                raise _refused(path, error) from error

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, digest: object) -> bool:
        return digest in self._places

    def take(self, digests: Sequence[bytes]) -> NDArray[Any]:
        """Look rows up.

        Args:
            digests: n digests, each in the store; one may come twice.

        Returns:
            (n, ...) a copy of the rows in the order asked for.

        Raises:
            DataError: If a digest is not in the store, or no digest is given.
        """
        num_missing = sum(digest not in self._places for digest in digests)
        if num_missing or not digests:
            raise DataError(
                rule="digests of rows in the store",
                got=f"num_missing={num_missing} of {len(digests)}",
                do="Compute and append the missing rows first.",
            )
        rows = np.empty((len(digests), *self._blocks[0].shape[1:]), self._blocks[0].dtype)
        for place, digest in enumerate(digests):
            block, row = self._places[digest]
            rows[place] = self._blocks[block][row]
        return rows

    def append(self, digests: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Write rows to the end of the file as one block.

        Args:
            digests: n digests of 32 bytes each. Where one is in the store already, the store
                keeps the row that it has.
            rows: (n, ...), of the type and shape of the rows that are there.

        Raises:
            DataError: If lengths, types or shapes do not fit.
            EnvironmentProblem: If the file cannot be written.
            IntegrityError: If another process changed the file in another way than by appending.

        Guarantees:
            On return the block is on the disk. Whatever interrupts it, the earlier blocks stay.
        """
        self._check_rows(digests, rows)
        plaintext = _packed(digests, rows)
        try:
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._read_on(file)
                self._check_rows(digests, rows)
                self._write_block(file, plaintext)
        except OSError as error:
            raise _refused(self.path, error) from error
        self._index(digests, rows.copy())

    def _write_block(self, file: BinaryIO, plaintext: bytes) -> None:
        """Write the header where there is none, then one block, over whatever a crash left."""
        file.truncate(self._end)
        file.seek(self._end)
        if self._end == 0:
            file.write(self._header)
        sealed = seal(self._key, plaintext, context=self._context(len(self._blocks)))
        file.write(self._frame(len(self._blocks), len(sealed)) + sealed)
        file.flush()
        os.fsync(file.fileno())
        self._end = file.tell()

    def _read_on(self, file: BinaryIO) -> None:
        """Take in the blocks from where reading last ended."""
        size = os.fstat(file.fileno()).st_size
        if size < self._end:
            raise self._changed("shorter than it was")
        file.seek(self._end)
        if self._end == 0:
            header = file.read(len(self._header))
            if header != self._header:
                if size < len(self._header) and self._header.startswith(header):
                    return  # a crash cut the very first write short
                raise self._other_header(header)
            self._end = len(self._header)
        while self._end + _FRAME_BYTES <= size:
            frame = file.read(_FRAME_BYTES)
            length = int.from_bytes(frame[:_LENGTH_BYTES], "little")
            if frame != self._frame(len(self._blocks), length):
                raise self._changed("a changed byte or another key")
            if self._end + _FRAME_BYTES + length > size:
                return  # a crash cut the last block short
            self._index(*self._opened(file.read(length)))
            self._end += _FRAME_BYTES + length

    def _opened(self, sealed: bytes) -> tuple[list[bytes], NDArray[Any]]:
        """Decrypt the next block."""
        try:
            plaintext = unseal(self._key, sealed, context=self._context(len(self._blocks)))
        except IntegrityError:
            raise self._changed("a changed byte or another key") from None
        return _unpacked(plaintext)

    def _index(self, digests: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Make one block's rows findable."""
        number = len(self._blocks)
        self._blocks.append(rows)
        for row, digest in enumerate(digests):
            self._places.setdefault(digest, (number, row))

    def _context(self, number: int) -> bytes:
        """Bind a block to the version and to its place."""
        return self._header + f"block {number}".encode()

    def _frame(self, number: int, length: int) -> bytes:
        """Make what stands before a block; its digest tells a changed length from a cut file."""
        prefix = length.to_bytes(_LENGTH_BYTES, "little")
        tag = bytes.fromhex(keyed_digest(self._key, self._context(number) + b" frame " + prefix))
        return prefix + tag[: _FRAME_BYTES - _LENGTH_BYTES]

    def _check_rows(self, digests: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Refuse rows that do not fit the store."""
        require_same_length(digests=digests, rows=rows)
        like = self._blocks[0] if self._blocks else rows
        fits = rows.dtype == like.dtype and rows.shape[1:] == like.shape[1:]
        if not fits or not digests or any(len(digest) != DIGEST_BYTES for digest in digests):
            raise DataError(
                rule=f"rows of type {like.dtype} and shape {like.shape[1:]} under digests of "
                f"{DIGEST_BYTES} bytes",
                got=f"num_rows={len(rows)}, type={rows.dtype}, shape={rows.shape[1:]}",
                do="Use one store for each kind of rows.",
            )

    def _other_header(self, header: bytes) -> DataError | IntegrityError:
        """Tell a store of another version from a file that is none."""
        if not header.startswith(_MAGIC):
            return self._changed("another beginning")
        return DataError(
            rule=f"a store of version {self.version}",
            got=f"another version in {self.path}",
            do="Use one file for each version, as `store_path` names them.",
        )

    def _changed(self, got: str) -> IntegrityError:
        """Build the error for a store that somebody or something changed."""
        return IntegrityError(
            rule="a store as skinml wrote it, opened with its own key",
            got=f"{got} in {self.path}",
            do="Check which key belongs to it. It can be deleted: its rows are computed again.",
        )


def store_path(folder: Path, version: str) -> Path:
    """Name the file of a store so that each version has its own.

    Args:
        folder: Where a clinic keeps its stores.
        version: The version of the rows.

    Returns:
        A path in the folder.

    >>> store_path(Path("cache"), "small images/64px").name
    'small-images-64px.store'
    """
    words = "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in version)
    return folder / f"{words}.store"


def write_sealed_arrays(
    path: Path, key: bytes, arrays: Mapping[str, NDArray[Any]], context: str
) -> None:
    """Write named arrays to one encrypted file.

    Args:
        path: The file; one that is there is replaced.
        key: 32 bytes from `skinml.stewardship.encryption.new_key`.
        arrays: Numbers, truth values or fixed-width text; never objects.
        context: What the arrays are, such as "predictions of run 7"; reading needs the same.

    Raises:
        DataError: If an array holds objects.
        EnvironmentProblem: If the file cannot be written.

    Guarantees:
        The file is written whole or not at all, with mode 0600.
    """
    objects = sorted(name for name, value in arrays.items() if value.dtype.hasobject)
    if objects:
        raise DataError(
            rule="arrays of numbers or fixed-width text",
            got=f"objects in array={objects[0]}",
            do="Convert the array, text with `.astype(str)`.",
        )
    plain = io.BytesIO()
    np.savez(plain, allow_pickle=False, **dict(arrays))
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                for piece in _sealed_pieces(key, plain, context):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(path, error) from error


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
    try:
        with path.open("rb") as file:
            plain = _opened_pieces(key, file, context)
    except OSError as error:
        raise _refused(path, error) from error
    except IntegrityError:
        raise IntegrityError(
            rule="a file of arrays as skinml wrote it, opened with its own key",
            got=f"a changed byte, another key or another purpose in {path}",
            do="Check which key belongs to it, or make the file again.",
        ) from None
    with np.load(plain, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def _sealed_pieces(key: bytes, plain: io.BytesIO, context: str) -> Iterator[bytes]:
    """Seal a file in pieces, since one seal holds 2 GiB at most; the last piece says so."""
    view = plain.getbuffer()
    num_pieces = -(-len(view) // _PIECE_BYTES)
    for number in range(num_pieces):
        piece = bytes(view[number * _PIECE_BYTES : (number + 1) * _PIECE_BYTES])
        final = b"1" if number == num_pieces - 1 else b"0"
        sealed = seal(key, piece, context=_piece_context(context, number, final))
        yield final + len(sealed).to_bytes(_LENGTH_BYTES, "little") + sealed


def _opened_pieces(key: bytes, file: BinaryIO, context: str) -> io.BytesIO:
    """Unseal a file in pieces; one that is cut short, or goes on behind the last, fails."""
    plain = io.BytesIO()
    left = os.fstat(file.fileno()).st_size
    number, final = 0, b"0"
    while left or final != b"1":
        final = file.read(1)
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        left -= 1 + _LENGTH_BYTES + length
        # A length beyond the file's end is never read: it could be any number.
        sealed = file.read(length) if left >= 0 else b""
        plain.write(unseal(key, sealed, context=_piece_context(context, number, final)))
        number += 1
    plain.seek(0)
    return plain


def _piece_context(context: str, number: int, final: bytes) -> bytes:
    """Bind a piece to the file's purpose, to its place, and to being the last or not."""
    return f"skinml-arrays-1 {json.dumps(context)} {number} ".encode() + final


def _packed(digests: Sequence[bytes], rows: NDArray[Any]) -> bytes:
    """Lay out the inside of a block."""
    dtype = rows.dtype.newbyteorder("<").str
    header = json.dumps([dtype, rows.shape]).encode() + b"\n"
    return header + b"".join(digests) + np.ascontiguousarray(rows, dtype=dtype).tobytes()


def _unpacked(plaintext: bytes) -> tuple[list[bytes], NDArray[Any]]:
    """Read the inside of a block, which is authentic by now."""
    header, _, content = plaintext.partition(b"\n")
    dtype, shape = json.loads(header)
    names = shape[0] * DIGEST_BYTES
    digests = [content[at : at + DIGEST_BYTES] for at in range(0, names, DIGEST_BYTES)]
    return digests, np.frombuffer(content, dtype=dtype, offset=names).reshape(shape)


def _refused(path: Path, error: OSError) -> EnvironmentProblem:
    """Build the error of a file operation that the system refused."""
    return EnvironmentProblem(
        rule="a cache that can be read and written",
        got=f"path={path} ({error.strerror})",
        do="Check its permissions and the space on the disk.",
    )
