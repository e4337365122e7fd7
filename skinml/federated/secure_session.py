"""Who takes part in secure sums under which numbers, and messages that are bound to it.

Symbols of all `secure_*` files, after Bonawitz et al. 2017: k clinics, of which t suffice for a
sum and c may collude; U1 sent shares, U2 sent masked inputs, U3 agreed on U2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from skinml.errors import ConfigError, IntegrityError
from skinml.privacy.trust import MOST_CLINICS

# With two, each still learns the other's part with its share of the noise; with three nobody does.
LEAST_CLINICS = 2
# A new number wherever an attempt is answered in another way: keys and masks are others then, so
# that no sum leaves under a mask under which a clinic of an older release sent another one.
_DOMAIN = b"skinml secure aggregation 2\n"


def require_terms(clinics: int, threshold: int, colluding: int) -> None:
    """Refuse terms under which a secure sum would not protect what it shall.

    Args:
        clinics: The number k of clinics.
        threshold: The number t that suffices for a sum.
        colluding: The number c that may pool what they know.

    Raises:
        ConfigError: If k is not from 2 to 100, or c < t <= k or 2 t > k + c does not hold.

    Source:
        Bonawitz et al. 2017, section 5.2, for the bound against a coordinator that lies.
    """
    k, t, c = clinics, threshold, colluding
    if not LEAST_CLINICS <= k <= MOST_CLINICS:
        raise ConfigError(
            rule=f"from {LEAST_CLINICS} to {MOST_CLINICS} clinics in a secure sum "
            "(privacy.trust=distributed)",
            got=f"{k} clinics",
            do="Choose privacy.trust=local for fewer clinics, or divide a greater federation.",
        )
    if not (c < t <= k and 2 * t > k + c):
        raise ConfigError(
            rule="t survivors with c < t <= k and 2 t > k + c, so that no coordinator can open "
            "two sums of one attempt",
            got=f"k={k} clinics, t={t}, c={c}",
            do="Lower privacy.tolerated_dropouts or privacy.colluding_clinics.",
        )


@dataclass(frozen=True)
class Session:
    """The public terms of a run's secure sums, the same at the coordinator and at every clinic.

    Attributes:
        run: The run's id.
        registered: Each participant's public signing key (32 bytes), as registered.
        threshold: The number t of clinics without whom no sum is opened.
        colluding: The number c of clinics that may pool what they know.
    """

    run: str
    registered: Mapping[str, bytes] = field(hash=False)
    threshold: int
    colluding: int = 0

    def __post_init__(self) -> None:
        require_terms(len(self.registered), self.threshold, self.colluding)

    @property
    def participants(self) -> tuple[str, ...]:
        """The clinics in the order that numbers their shares."""
        return tuple(sorted(self.registered))

    @property
    def all_needed(self) -> bool:
        """Whether every sum is of all clinics, t = k: then one message of each suffices."""
        return self.threshold == len(self.registered)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all terms: whatever is signed or derived is bound to it."""
        values = [self.run.encode(), _whole(self.threshold), _whole(self.colluding)]
        for name in self.participants:
            values += [name.encode(), self.registered[name]]
        return hashlib.sha256(_DOMAIN + joined(values)).digest()


@dataclass(frozen=True)
class Attempt:
    """One try at one round.

    Attributes:
        session: The terms.
        round: The round's number, from 1; 0 while keys are advertised.
        number: The attempt, from 1: a new one has fresh masks and fresh noise.
    """

    session: Session
    round: int
    number: int

    @property
    def context(self) -> bytes:
        """What everything in this attempt is bound to."""
        return self.session.digest + _whole(self.round) + _whole(self.number)


@dataclass(frozen=True)
class Signed:
    """What one clinic sends in one step.

    Attributes:
        sender: The clinic.
        step: Which step.
        payload: What it says.
        signature: Ed25519 signature by the clinic's registered key, 64 bytes.
    """

    sender: str
    step: str
    payload: bytes
    signature: bytes


def signed(
    key: Ed25519PrivateKey, attempt: Attempt, sender: str, step: str, payload: bytes
) -> Signed:
    """Sign what a clinic sends.

    Args:
        key: The clinic's registered signing key.
        attempt: What it is bound to.
        sender: The clinic.
        step: The step.
        payload: What it says.

    Returns:
        The message.
    """
    signature = key.sign(_to_sign(attempt, sender, step, payload))
    return Signed(sender, step, payload, signature)


def verified(message: Signed, attempt: Attempt, step: str) -> bytes:
    """Check who says what, in which attempt and step.

    Args:
        message: What arrived.
        attempt: The attempt that it must belong to.
        step: The step that it must belong to.

    Returns:
        The payload.

    Raises:
        IntegrityError: If the sender is no participant, or the signature is not theirs for this
            payload in this step of this attempt.

    Guarantees:
        Replayed from another run, round, attempt or step, altered or sent under another name, no
        message is taken.
    """
    key = attempt.session.registered.get(message.sender)
    if key is None or message.step != step:
        raise broken(f"a message of step '{step}' from a clinic of the run", "another one")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(
            message.signature, _to_sign(attempt, message.sender, step, message.payload)
        )
    except InvalidSignature:
        raise broken(
            f"a message of step '{step}' signed by clinic {message.sender} for this run, round "
            "and attempt",
            "another signature or content",
        ) from None
    return message.payload


def packed(message: Signed) -> bytes:
    """Write a signed message as bytes."""
    return joined(
        [message.sender.encode(), message.step.encode(), message.payload, message.signature]
    )


def unpacked(content: bytes) -> Signed:
    """Read what `packed` wrote.

    Args:
        content: The bytes.

    Returns:
        The message, not yet verified.

    Raises:
        IntegrityError: If it is none.
    """
    parts = parted(content)
    if len(parts) != 4:
        raise broken("a signed message of four parts", f"{len(parts)} parts")
    try:
        return Signed(parts[0].decode(), parts[1].decode(), parts[2], parts[3])
    except UnicodeDecodeError:
        raise broken("names in a signed message that can be read", "others") from None


def broken(rule: str, got: str) -> IntegrityError:
    """Describe a step that was not followed.

    Args:
        rule: What the protocol asks.
        got: What came instead, free of secrets.

    Returns:
        The error.
    """
    return IntegrityError(
        rule=rule, got=got, do="Nothing was opened. Find out who changed it, then begin anew."
    )


def joined(values: Sequence[bytes]) -> bytes:
    """Put byte strings behind one another so that they can be told apart again.

    Args:
        values: The strings, each below 4 GiB.

    Returns:
        Each with its length in front.

    Example:
        >>> parted(joined([b"a", b"", b"bc"]))
        [b'a', b'', b'bc']
    """
    return b"".join(_whole(len(value)) + value for value in values)


def parted(whole: bytes) -> list[bytes]:
    """Undo `joined`.

    Args:
        whole: What `joined` gave.

    Returns:
        The strings.

    Raises:
        IntegrityError: If the lengths do not come out even.
    """
    values, start = [], 0
    while start < len(whole):
        end = start + 4 + int.from_bytes(whole[start : start + 4], "big")
        if start + 4 > len(whole) or end > len(whole):
            raise broken("a whole message", "a truncated one")
        values.append(whole[start + 4 : end])
        start = end
    return values


def _to_sign(attempt: Attempt, sender: str, step: str, payload: bytes) -> bytes:
    return _DOMAIN + joined([attempt.context, sender.encode(), step.encode(), payload])


def _whole(number: int) -> bytes:
    return number.to_bytes(4, "big")
