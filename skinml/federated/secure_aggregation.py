"""The coordinator's side of a secure sum: it carries messages and learns the sum alone.

See `skinml.federated.secure_clinic` for the steps and docs/secure-aggregation.md for what each
message holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from skinml.errors import IncompleteRunError
from skinml.federated.secure_clinic import commitment
from skinml.federated.secure_keys import opened_seeds
from skinml.federated.secure_masks import Words, add_mask, bound_to
from skinml.federated.secure_session import Attempt, Signed, broken, parted, verified
from skinml.federated.secure_shares import combine


@dataclass(frozen=True)
class Posted:
    """What the clinics of U1 shared.

    Attributes:
        letters: For each recipient, from each sender, a ciphertext.
        seeds: Each sender's sealed pair seeds.
        commitments: Each sender's commitment to its self mask.
    """

    letters: Mapping[str, Mapping[str, bytes]]
    seeds: Mapping[str, bytes]
    commitments: Mapping[str, bytes]

    @property
    def senders(self) -> tuple[str, ...]:
        """The clinics of U1, in order."""
        return tuple(sorted(self.seeds))


def posted(attempt: Attempt, messages: Mapping[str, Signed]) -> Posted:
    """Sort what was shared by recipient.

    Args:
        attempt: The attempt.
        messages: Messages of step "shares" by sender.

    Returns:
        The letters.

    Raises:
        IncompleteRunError: If fewer than t clinics shared.
        IntegrityError: If a message is not its sender's for this attempt.
    """
    names = attempt.session.participants
    letters: dict[str, dict[str, bytes]] = {name: {} for name in messages}
    seeds, commitments = {}, {}
    for sender, message in messages.items():
        parts = parted(_from(sender, message, attempt, "shares"))
        if len(parts) != len(names) + 2:
            raise broken(f"a letter of clinic {sender} for each clinic", f"{len(parts) - 2}")
        seeds[sender], commitments[sender] = parts[0], parts[1]
        for name, letter in zip(names, parts[2:], strict=True):
            if name in letters:
                letters[name][sender] = letter
    _require_enough(attempt, len(seeds), "shared keys")
    return Posted(letters, seeds, commitments)


class _MaskedTotal:
    """Adds up masked sums as they arrive."""

    _step: ClassVar[str]

    def __init__(self, attempt: Attempt, senders: Iterable[str], size: int) -> None:
        self._attempt = attempt
        self._senders = frozenset(senders)
        self._total = np.zeros(size, np.uint64)
        self._survivors: set[str] = set()

    @property
    def survivors(self) -> tuple[str, ...]:
        """The clinics of U2, in order."""
        return tuple(sorted(self._survivors))

    def add(self, message: Signed) -> None:
        """Take in one clinic's masked sum.

        Args:
            message: Its masked sum.

        Raises:
            IntegrityError: If it is not its sender's for this attempt, comes twice, has another
                size, or its sender shared nothing before.
        """
        payload = verified(message, self._attempt, self._step)
        if message.sender not in self._senders or message.sender in self._survivors:
            raise broken("one masked sum of each clinic that shared", "another one")
        if len(payload) != 8 * len(self._total):
            raise broken(f"{len(self._total)} numbers of clinic {message.sender}", "another number")
        np.add(self._total, np.frombuffer(payload, "<u8"), out=self._total)
        self._survivors.add(message.sender)

    def require_enough(self) -> None:
        """Go on only where t clinics sent their sums.

        Raises:
            IncompleteRunError: If fewer did.
        """
        _require_enough(self._attempt, len(self._survivors), "sent their sums")


class PairedSum(_MaskedTotal):
    """Adds up the sums of all clinics under pairwise masks, which cancel out in the total.

    Args:
        attempt: The attempt, of a session in which all clinics are needed.
        size: Numbers in a sum.

    Guarantees:
        Memory does not grow with the number of clinics. Without every clinic's sum nothing is
        opened.
    """

    _step = "paired"

    def __init__(self, attempt: Attempt, size: int) -> None:
        super().__init__(attempt, attempt.session.participants, size)

    def open(self) -> Words:
        """Read the total.

        Returns:
            The sum of all clinics' numbers modulo 2**64.

        Raises:
            IncompleteRunError: If a clinic's is missing.
        """
        self.require_enough()
        return self._total.copy()


class SecureSum(_MaskedTotal):
    """Adds up masked sums, of which some may be missing, and opens the total.

    Args:
        attempt: The attempt.
        shared: What the clinics shared.
        size: Numbers in a sum.
        query: Digest of what the clinics were sent to compute it from.

    Guarantees:
        Memory does not grow with the number of clinics. Without t masked sums and t clinics'
        shares nothing is opened.
    """

    _step = "masked"

    def __init__(self, attempt: Attempt, shared: Posted, size: int, query: bytes = b"") -> None:
        super().__init__(attempt, shared.senders, size)
        self._shared = shared
        self._query = query

    def open(self, messages: Mapping[str, Signed]) -> Words:
        """Take the masks away.

        Args:
            messages: Messages of step "unmask" by sender.

        Returns:
            The sum of the survivors' numbers modulo 2**64.

        Raises:
            IncompleteRunError: If fewer than t clinics gave shares.
            IntegrityError: If a share is wrong, or a message not its sender's.
        """
        senders, attempt = self._shared.senders, self._attempt
        _require_enough(attempt, len(messages), "gave their shares")
        held = {}
        for sender, message in messages.items():
            held[sender] = parted(_from(sender, message, attempt, "unmask"))
            if sender not in self._survivors or len(held[sender]) != len(senders):
                raise broken(f"a share of each clinic from survivor {sender}", "another number")
        session = attempt.session
        secrets = combine(held, session.threshold, session.participants)
        total = self._total.copy()
        for name, secret in zip(senders, secrets, strict=True):
            if name in self._survivors:
                if commitment(secret) != self._shared.commitments[name]:
                    raise broken(
                        f"shares of the self mask that clinic {name} committed to", "others"
                    )
                add_mask(total, secret, plus=False)
                continue
            for survivor, seed in opened_seeds(
                secret, self._shared.seeds[name], attempt, name
            ).items():
                if survivor in self._survivors:
                    add_mask(total, bound_to(seed, self._query), plus=survivor > name)
        return total


def _from(sender: str, message: Signed, attempt: Attempt, step: str) -> bytes:
    if message.sender != sender:
        raise broken(f"a message of clinic {sender}", f"one of clinic {message.sender}")
    return verified(message, attempt, step)


def _require_enough(attempt: Attempt, found: int, what: str) -> None:
    least = attempt.session.threshold
    if found < least:
        raise IncompleteRunError(
            rule=f"at least {least} clinics in a secure sum (round {attempt.round})",
            got=f"{found} that {what}",
            do="Nothing was opened. Mend the missing clinics, or plan for more dropouts "
            "(privacy.tolerated_dropouts).",
        )
