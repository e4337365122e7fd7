"""From requests of the closed schema to the steps of a secure sum, and what is posted with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from skinml.federated.messages import Request
from skinml.federated.secure_clinic import SecureClinic, names_of
from skinml.federated.secure_masks import Words
from skinml.federated.secure_session import (
    Attempt,
    Signed,
    broken,
    joined,
    packed,
    parted,
    unpacked,
)
from skinml.records import Arrays


def answer_step(secure: SecureClinic, request: Request, compute: Callable[[], Words]) -> Signed:
    """Do one step after the keys were advertised.

    Args:
        secure: The clinic's side.
        request: What the coordinator asks.
        compute: Computes the round's noised sums modulo 2**64.

    Returns:
        The signed message.

    Raises:
        IntegrityError: If the step is unknown or breaks the protocol.
    """
    attempt = Attempt(secure.session, request.round, request.attempt)
    if request.step == "shares":
        return secure.share(attempt, read_messages(request.post["adverts"]))
    if request.step == "paired":
        adverts, query = read_messages(request.post["adverts"]), query_digest(request.query)
        return secure.pair(attempt, adverts, compute, query)
    letters = read_letters(request.post["letters"])
    if request.step == "masked":
        adverts, query = read_messages(request.post["adverts"]), query_digest(request.query)
        return secure.mask(attempt, adverts, letters, compute, query)
    if request.step == "survivors":
        return secure.agree(attempt, letters, names_of(request.post["survivors"]))
    return secure.unmask(
        attempt,
        read_messages(request.post["adverts"]),
        letters,
        read_messages(request.post["agreements"]),
    )


def query_digest(query: Arrays) -> bytes:
    """Name what the coordinator sent, so that clinics can hold each other to the same.

    Args:
        query: Its arrays.

    Returns:
        SHA-256 of names, types, shapes and values.
    """
    parts = [
        part
        for name, values in sorted(query.items())
        for part in (name.encode(), f"{values.dtype.str}{values.shape}".encode(), values.tobytes())
    ]
    return hashlib.sha256(joined(parts)).digest()


def write_messages(messages: Iterable[Signed]) -> bytes:
    """Put signed messages into one byte string."""
    return joined([packed(message) for message in messages])


def read_messages(content: bytes) -> list[Signed]:
    """Read what `write_messages` wrote; nothing is verified yet."""
    return [unpacked(part) for part in parted(content)]


def write_letters(letters: Mapping[str, bytes]) -> bytes:
    """Put letters into one byte string, in the order of their senders."""
    return joined([part for name in sorted(letters) for part in (name.encode(), letters[name])])


def read_letters(content: bytes) -> dict[str, bytes]:
    """Read what `write_letters` wrote.

    Args:
        content: The bytes.

    Returns:
        Letters by sender.

    Raises:
        IntegrityError: If they do not come in pairs of a name and a letter, each name once.
    """
    parts = parted(content)
    names = [part.decode(errors="replace") for part in parts[::2]]
    if len(parts) % 2 or len(set(names)) != len(names):
        raise broken("letters with one sender each", f"{len(parts)} parts")
    return dict(zip(names, parts[1::2], strict=True))
