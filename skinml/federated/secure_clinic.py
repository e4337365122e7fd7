"""A clinic's side of a secure sum: steps, each answered once an attempt.

advertise   once a run: public keys

Where every clinic is needed in every sum, one step:

pair        the noised sum under pairwise masks, which cancel out in the sum of all

Where some may drop out, four:

share       shares of the attempt's two secrets, sealed to each peer
mask        the noised sum under a self mask and pairwise masks
agree       which clinics' sums are in it, signed
unmask      for each clinic one share: of its self mask, or of its pair seeds, never of both
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skinml.federated.secure_keys import (
    Keyring,
    PublicKeys,
    derived,
    new_secret,
    sealed,
    sealed_seeds,
    unsealed,
)
from skinml.federated.secure_masks import Words, add_mask, bound_to
from skinml.federated.secure_session import (
    Attempt,
    Session,
    Signed,
    broken,
    joined,
    parted,
    signed,
    verified,
)
from skinml.federated.secure_shares import split
from skinml.federated.step_book import Answers, StepBook, answer_once, answers_of, book_secret

SELF_MASK, SEEDS = b"self mask", b"seeds"

# Kept beside the answers of an attempt: the self mask's seed.
_OWN = "own"


@dataclass(frozen=True)
class SecureClinic:
    """Answers the steps of one run's secure sums.

    Attributes:
        session: The terms that the clinic approved.
        keyring: Its secrets for the run; what it uses follows from them and from its book's own.
        signing_key: Its registered signing key.
        book: What it has answered.

    Guarantees:
        Each step of an attempt is answered once, also by several processes at a time; asked the
        same again it sends the identical message, asked anything else it refuses, and attempts
        older than the latest are over. No coordinator gets both kinds of share of one clinic in
        one attempt from t honest clinics. What is masked pairwise alone is so where no pair seed is
        ever shared out. Without its book a clinic computes no sum for secrets
        that it shared out before, and has other keys: what peers or the coordinator keep of an
        attempt from before opens nothing of an attempt of the same number. Sums for different
        queries do not add up: their pairwise masks differ.

    Source:
        Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine
        learning", CCS, Figure 4; the differences stand in docs/secure-aggregation.md.
    """

    session: Session
    keyring: Keyring
    signing_key: Ed25519PrivateKey
    book: StepBook
    _rings: dict[bytes, Keyring] = field(default_factory=dict, repr=False, compare=False)

    @property
    def _me(self) -> str:
        return self.keyring.clinic

    def _ring(self, secret: bytes) -> Keyring:
        """Derive the keys that live as long as the book, from its secret.

        Pair seeds follow from keys and attempt. A coordinator that learned them, because the clinic
        dropped out, would have them again where the book was lost and the attempt's number came
        back, and could take both masks off the clinic's sum.
        """
        if secret not in self._rings:
            both = derived(self.keyring.secret, [b"book", secret], len(self.keyring.secret))
            self._rings[secret] = Keyring(self._me, both)
        return self._rings[secret]

    def _known(
        self, secret: bytes, attempt: Attempt, adverts: Sequence[Signed]
    ) -> tuple[Keyring, dict[str, PublicKeys]]:
        """Read everybody's keys; this clinic's must be those that it has."""
        ring, roster = self._ring(secret), roster_of(self.session, adverts)
        if roster[self._me] != ring.public(attempt):
            raise broken(
                f"the keys that clinic {self._me} has",
                "keys from before it lost its book of answers",
            )
        return ring, roster

    def advertise(self) -> Signed:
        """Publish the clinic's keys; the same whenever asked in this run, while it has its book."""
        start = Attempt(self.session, 0, 1)
        keys = self._ring(book_secret(self.book)).public(start)
        payload = joined([keys.sealing, keys.masking])
        return signed(self.signing_key, start, self._me, "keys", payload)

    def share(self, attempt: Attempt, adverts: Sequence[Signed]) -> Signed:
        """Share out the attempt's two secrets.

        Args:
            attempt: The attempt.
            adverts: What every participant advertised.

        Returns:
            For the coordinator: the sealed pair seeds, a commitment to the self mask, and a
            ciphertext for each peer.

        Raises:
            IntegrityError: If the keys are not those of all participants, or the step was
                answered before on another request.
        """
        secret = book_secret(self.book)
        ring, roster = self._known(secret, attempt, adverts)

        def make(kept: Answers) -> bytes:
            names = self.session.participants
            secrets = {what: new_secret() for what in (SELF_MASK, SEEDS)}
            kept[_OWN] = ("", secrets[SELF_MASK])
            shares = {w: split(s, self.session.threshold, names) for w, s in secrets.items()}
            letters = [
                sealed(
                    ring.channel(attempt, roster[name], self._me, name),
                    joined([shares[SELF_MASK][name], shares[SEEDS][name]]),
                    attempt.context,
                )
                for name in names
            ]
            seeds = sealed_seeds(ring, attempt, roster, secrets[SEEDS])
            return joined([seeds, commitment(secrets[SELF_MASK]), *letters])

        return self._once(secret, attempt, "shares", _digest(_rows(roster)), make)

    def mask(
        self,
        attempt: Attempt,
        adverts: Sequence[Signed],
        letters: Mapping[str, bytes],
        compute: Callable[[], Words],
        query: bytes = b"",
    ) -> Signed:
        """Send the clinic's sum under its masks.

        Args:
            attempt: The attempt.
            adverts: What every participant advertised.
            letters: From each clinic of U1 the ciphertext for this one.
            compute: Computes the noised sum modulo 2**64: called only if nothing was sent yet.
            query: Digest of what the coordinator sent to compute it from.

        Returns:
            The masked sum.

        Raises:
            IntegrityError: If fewer than t clinics shared, a letter is not what its sender
                sealed, or the step was answered before on another request.
        """
        secret = book_secret(self.book)
        ring, roster = self._known(secret, attempt, adverts)
        self._opened(attempt, ring, roster, letters)

        def make(kept: Answers) -> bytes:
            if _OWN not in kept:
                raise broken(
                    f"a self mask that clinic {self._me} shared out before its sum",
                    "an attempt of which its book of answers knows nothing",
                )
            total = compute().copy()
            add_mask(total, kept[_OWN][1], plus=True)
            there = {name: roster[name] for name in letters}
            self._add_pair_masks(total, attempt, ring, there, query)
            return total.astype("<u8").tobytes()

        asked = f"{_digest(_names_digest(letters))} {query.hex()}"
        return self._once(secret, attempt, "masked", asked, make)

    def pair(
        self,
        attempt: Attempt,
        adverts: Sequence[Signed],
        compute: Callable[[], Words],
        query: bytes = b"",
    ) -> Signed:
        """Send the clinic's sum under the masks that it shares with each other clinic.

        Nobody may drop out of such a sum, so that no mask is ever given up: without one clinic's
        message the others' stay uniform, and a late one finds its masks as secret as before. The
        self mask of the longer way is there to keep that so where masks are given up.

        Args:
            attempt: The attempt.
            adverts: What every participant advertised.
            compute: Computes the noised sum modulo 2**64: called only if nothing was sent yet.
            query: Digest of what the coordinator sent to compute it from.

        Returns:
            The masked sum.

        Raises:
            IntegrityError: If clinics may drop out of this run's sums, the keys are not those of
                all participants, or the step was answered before on another request.
        """
        secret = book_secret(self.book)
        ring, roster = self._known(secret, attempt, adverts)

        def make(_: Answers) -> bytes:
            total = compute().copy()
            self._add_pair_masks(total, attempt, ring, roster, query)
            return total.astype("<u8").tobytes()

        asked = f"{_digest(_rows(roster))} {query.hex()}"
        return self._once(secret, attempt, "paired", asked, make)

    def agree(
        self, attempt: Attempt, letters: Mapping[str, bytes], survivors: Sequence[str]
    ) -> Signed:
        """Sign which clinics' sums are in the total.

        Args:
            attempt: The attempt.
            letters: The same letters as for `mask`.
            survivors: The clinics of U2.

        Returns:
            The signed list.

        Raises:
            IntegrityError: If the clinic sent no masked sum among these letters, the list is not
                t or more of their senders with this clinic, or another list was signed before.
        """
        secret = book_secret(self.book)
        self._require_masked(attempt, letters)
        names = list(survivors)
        if (
            names != sorted(set(names))
            or not set(names) <= set(letters)
            or self._me not in names
            or len(names) < self.session.threshold
        ):
            raise broken(
                f"{self.session.threshold} or more clinics that shared, clinic {self._me} among "
                "them, in a sum",
                f"{len(names)} names",
            )
        payload = list_of(names)
        return self._once(secret, attempt, "survivors", _digest([payload]), lambda _: payload)

    def unmask(
        self,
        attempt: Attempt,
        adverts: Sequence[Signed],
        letters: Mapping[str, bytes],
        agreements: Sequence[Signed],
    ) -> Signed:
        """Give one share of each clinic: of the self mask of survivors, of the others' seeds.

        Args:
            attempt: The attempt.
            adverts: What every participant advertised.
            letters: The same letters as for `mask`.
            agreements: The survivors' signatures under the list.

        Returns:
            The shares.

        Raises:
            IntegrityError: If fewer than t survivors signed the list that this clinic signed.
        """
        secret = book_secret(self.book)
        self._require_masked(attempt, letters)
        shares = self._opened(attempt, *self._known(secret, attempt, adverts), letters)
        step = self._answers(attempt).get("survivors")
        if step is None:
            raise broken("a signed list of survivors before any share", "none")
        agreed = step[1]
        signers = {m.sender for m in agreements if verified(m, attempt, "survivors") == agreed}
        survivors = names_of(agreed)
        if len(signers & set(survivors)) < self.session.threshold:
            raise broken(
                f"{self.session.threshold} survivors who signed the same list",
                f"{len(signers)} signatures",
            )

        def make(_: Answers) -> bytes:
            chosen = [shares[n][0 if n in survivors else 1] for n in sorted(shares)]
            return joined(chosen)

        return self._once(secret, attempt, "unmask", _digest([agreed]), make)

    def _add_pair_masks(
        self,
        total: Words,
        attempt: Attempt,
        ring: Keyring,
        roster: Mapping[str, PublicKeys],
        query: bytes,
    ) -> None:
        """Add the mask shared with each other clinic of a roster, or take it away, in place."""
        for name in sorted(roster):
            if name != self._me:
                seed = ring.pair_seed(attempt, roster[name])
                add_mask(total, bound_to(seed, query), plus=self._me < name)

    def _opened(
        self,
        attempt: Attempt,
        ring: Keyring,
        roster: Mapping[str, PublicKeys],
        letters: Mapping[str, bytes],
    ) -> dict[str, tuple[bytes, bytes]]:
        """Open each peer's letter: its share of the self mask and of the seeds' key."""
        if not set(letters) <= set(roster) or self._me not in letters:
            raise broken("letters from clinics of the run, this one's among them", "others")
        if len(letters) < self.session.threshold:
            raise broken(
                f"letters of {self.session.threshold} clinics or more", f"{len(letters)} letters"
            )
        opened = {}
        for name, letter in letters.items():
            key = ring.channel(attempt, roster[name], name, self._me)
            parts = parted(unsealed(key, letter, attempt.context, f"a letter of clinic {name}"))
            if len(parts) != len((SELF_MASK, SEEDS)):
                raise broken(f"two shares in the letter of clinic {name}", f"{len(parts)}")
            opened[name] = (parts[0], parts[1])
        return opened

    def _require_masked(self, attempt: Attempt, letters: Mapping[str, bytes]) -> None:
        done = self._answers(attempt).get("masked")
        if done is None or done[0].split(" ")[0] != _digest(_names_digest(letters)):
            raise broken(
                f"the letters with which clinic {self._me} masked its sum in this attempt", "others"
            )

    def _once(
        self,
        secret: bytes,
        attempt: Attempt,
        step: str,
        request: str,
        make: Callable[[Answers], bytes],
    ) -> Signed:
        # A pair seed that masks a sum by itself must never be among those that are shared out.
        if (step == "paired") != self.session.all_needed:
            way = "'paired' alone" if self.session.all_needed else "any but 'paired'"
            dropouts = len(self.session.registered) - self.session.threshold
            raise broken(f"of the steps {way}, where {dropouts} may drop out", f"step '{step}'")
        place = (attempt.round, attempt.number)
        payload = answer_once(self.book, self._me, place, step, request, make, secret)
        return signed(self.signing_key, attempt, self._me, step, payload)

    def _answers(self, attempt: Attempt) -> Answers:
        return answers_of(self.book, self._me, (attempt.round, attempt.number))


def secure_clinic(
    session: Session, clinic: str, secret: bytes, signing_key: bytes, book: StepBook
) -> SecureClinic:
    """Open a clinic's side from plain bytes.

    Args:
        session: The terms that the clinic approved.
        clinic: Its name.
        secret: 32 secret bytes, for this run alone.
        signing_key: Its registered Ed25519 private key, 32 bytes.
        book: What it has answered.

    Returns:
        The clinic's side.
    """
    key = Ed25519PrivateKey.from_private_bytes(signing_key)
    return SecureClinic(session, Keyring(clinic, secret), key, book)


def roster_of(session: Session, adverts: Sequence[Signed]) -> dict[str, PublicKeys]:
    """Check and read what the participants advertised.

    Args:
        session: The terms.
        adverts: One message of step "keys" from each participant.

    Returns:
        Each participant's public keys.

    Raises:
        IntegrityError: If one is missing, doubled or not signed, or two share a key.
    """
    start = Attempt(session, 0, 1)
    roster = {}
    for message in adverts:
        parts = parted(verified(message, start, "keys"))
        if message.sender in roster or [len(part) for part in parts] != [32, 32]:
            raise broken(f"one pair of public keys of clinic {message.sender}", "another number")
        roster[message.sender] = PublicKeys(*parts)
    keys = [key for pair in roster.values() for key in (pair.sealing, pair.masking)]
    if set(roster) != set(session.participants) or len(set(keys)) != len(keys):
        raise broken("different public keys of every clinic of the run", f"{len(roster)} clinics")
    return roster


def commitment(secret: bytes) -> bytes:
    """Commit to a self mask, so that a wrong share is seen before the sum is read.

    Args:
        secret: 16 bytes.

    Returns:
        32 bytes that tell nothing of it.
    """
    return derived(secret, [b"commitment"], 32)


def list_of(names: Sequence[str]) -> bytes:
    """Write a list of clinics."""
    return joined([name.encode() for name in names])


def names_of(payload: bytes) -> tuple[str, ...]:
    """Read a list of clinics."""
    return tuple(part.decode() for part in parted(payload))


def _names_digest(letters: Mapping[str, bytes]) -> list[bytes]:
    return [part for name in sorted(letters) for part in (name.encode(), letters[name])]


def _rows(roster: Mapping[str, PublicKeys]) -> list[bytes]:
    return [key for name in sorted(roster) for key in (roster[name].sealing, roster[name].masking)]


def _digest(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(joined(list(parts))).hexdigest()
