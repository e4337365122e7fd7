"""What a clinic refuses in a secure sum, from whomever it comes, and what a coordinator refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skinml.errors import IncompleteRunError, IntegrityError
from skinml.federated.secure_aggregation import SecureSum, posted
from skinml.federated.secure_clinic import SecureClinic, list_of
from skinml.federated.secure_keys import Keyring, opened_seeds
from skinml.federated.secure_masks import add_mask, bound_to
from skinml.federated.secure_session import joined, parted, signed
from skinml.federated.secure_shares import combine
from tests.federated.secure_world import Book, Federation, SlowBook

A, B, C, D = (f"clinic-{place}" for place in range(4))


@pytest.fixture
def federation():
    return Federation(4, 3)


@pytest.fixture
def masked(federation):
    """An attempt in which all four clinics have sent their masked sums."""
    attempt = federation.attempt()
    shared = federation.share(attempt)
    messages = {name: federation.mask(attempt, shared, name) for name in federation.clinics}
    return attempt, shared, messages


def agreements(federation, attempt, shared, names, signers):
    return [federation.clinics[n].agree(attempt, shared.letters[n], names) for n in signers]


def changed(payload, place=-1):
    bent = bytearray(payload)
    bent[place] ^= 1
    return bytes(bent)


ALTERED = {
    "altered": lambda m: replace(m, payload=changed(m.payload)),
    "truncated": lambda m: replace(m, payload=m.payload[:-1]),
    "unsigned": lambda m: replace(m, signature=bytes(64)),
    "misaddressed": lambda m: replace(m, sender=B),
    "of another step": lambda m: replace(m, step="other"),
    "of a stranger": lambda m: replace(m, sender="stranger"),
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_a_clinic_takes_no_changed_advert(federation, change):
    adverts = [change(federation.adverts[0]), *federation.adverts[1:]]
    with pytest.raises(IntegrityError):
        federation.clinics[D].share(federation.attempt(), adverts)


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_a_coordinator_takes_no_changed_shares_sums_or_unmaskings(federation, masked, change):
    attempt, shared, messages = masked
    sent = federation.clinics[A].share(attempt, federation.adverts)
    with pytest.raises(IntegrityError):
        posted(attempt, {A: change(sent)} | dict.fromkeys((B, C), sent))
    total = SecureSum(attempt, shared, federation.size)
    with pytest.raises(IntegrityError):
        total.add(change(messages[A]))
    for message in messages.values():
        total.add(message)
    signatures = agreements(federation, attempt, shared, total.survivors, federation.clinics)
    unmasked = {
        n: federation.clinics[n].unmask(attempt, federation.adverts, shared.letters[n], signatures)
        for n in federation.clinics
    }
    with pytest.raises(IntegrityError):
        total.open(unmasked | {A: change(unmasked[A])})


@pytest.mark.parametrize("other", [(1, 2), (2, 1)], ids=["attempt", "round"])
def test_a_message_of_another_attempt_or_round_is_not_taken(federation, masked, other):
    _, shared, messages = masked
    with pytest.raises(IntegrityError):
        SecureSum(federation.attempt(*other), shared, federation.size).add(messages[A])


def test_a_message_of_another_run_is_not_taken(federation, masked):
    attempt, shared, messages = masked
    elsewhere = replace(attempt, session=replace(federation.session, run="run-2"))
    with pytest.raises(IntegrityError):
        SecureSum(elsewhere, shared, federation.size).add(messages[A])


def test_the_same_sum_is_not_added_twice(federation, masked):
    attempt, shared, messages = masked
    total = SecureSum(attempt, shared, federation.size)
    total.add(messages[A])
    with pytest.raises(IntegrityError, match="one masked sum"):
        total.add(messages[A])


def test_keys_that_were_swapped_for_the_coordinators_own_are_refused(federation):
    """It holds no registered signing key, so that it cannot stand between two clinics."""
    forger = Ed25519PrivateKey.generate()
    own = Keyring(A, bytes(32)).public(federation.attempt(0, 1))
    forged = signed(forger, federation.attempt(0, 1), A, "keys", joined([own.sealing, own.masking]))
    with pytest.raises(IntegrityError, match="signed by"):
        federation.clinics[B].share(federation.attempt(), [forged, *federation.adverts[1:]])


@pytest.mark.parametrize(
    "change", [lambda a: a[1:], lambda a: [*a, a[0]], lambda a: a[:-1] + a[:1]]
)
def test_a_list_of_keys_without_every_participant_once_is_refused(federation, change):
    with pytest.raises(IntegrityError):
        federation.clinics[B].share(federation.attempt(), change(federation.adverts))


def test_another_set_of_participants_is_another_session(federation):
    """A coordinator that tells one clinic of fewer participants gets nothing that fits."""
    fewer = {n: k for n, k in federation.session.registered.items() if n != D}
    other = replace(federation.session, registered=fewer)
    with pytest.raises(IntegrityError):
        federation.clinics[A].share(
            federation.attempt(), [c.advertise() for c in lone_clinics(federation, other)]
        )


def lone_clinics(federation, session):
    return [replace(federation.clinics[n], session=session) for n in session.registered]


def test_a_letter_for_somebody_else_is_refused(federation):
    attempt = federation.attempt()
    shared = federation.share(attempt)
    letters = dict(shared.letters[A]) | {B: shared.letters[C][B]}
    with pytest.raises(IntegrityError, match="letter of clinic clinic-1"):
        federation.clinics[A].mask(attempt, federation.adverts, letters, no_sum)


def test_a_letter_of_another_attempt_is_refused(federation):
    old = federation.share(federation.attempt(1, 1)).letters[A]
    attempt = federation.attempt(1, 2)
    letters = dict(federation.share(attempt).letters[A]) | {B: old[B]}
    with pytest.raises(IntegrityError, match="letter of clinic clinic-1"):
        federation.clinics[A].mask(attempt, federation.adverts, letters, no_sum)


def no_sum():
    raise AssertionError("computed although the request was refused")


def test_below_the_threshold_no_sum_is_computed(federation):
    attempt = federation.attempt()
    letters = federation.share(attempt).letters[A]
    few = {name: letters[name] for name in (A, B)}
    with pytest.raises(IntegrityError, match="letters of 3 clinics"):
        federation.clinics[A].mask(attempt, federation.adverts, few, no_sum)


def test_asked_the_same_again_a_clinic_sends_the_identical_message_and_computes_nothing(
    federation, masked
):
    attempt, shared, messages = masked
    again = federation.clinics[A].mask(attempt, federation.adverts, shared.letters[A], no_sum)
    assert again == messages[A]
    assert federation.clinics[A].share(attempt, federation.adverts) == federation.clinics[A].share(
        attempt, federation.adverts
    )


def test_with_other_letters_a_second_masked_sum_of_an_attempt_is_refused(federation, masked):
    attempt, shared, _ = masked
    fewer = {n: letter for n, letter in shared.letters[A].items() if n != D}
    with pytest.raises(IntegrityError, match="asked once"):
        federation.clinics[A].mask(attempt, federation.adverts, fewer, no_sum)


def test_two_lists_of_survivors_that_differ_by_one_clinic_are_not_both_signed(federation, masked):
    """The difference of their sums would be one clinic's."""
    attempt, shared, _ = masked
    agreements(federation, attempt, shared, [A, B, C, D], [A])
    with pytest.raises(IntegrityError, match="asked once"):
        agreements(federation, attempt, shared, [A, B, C], [A])


@pytest.mark.parametrize("names", [[A, B], [B, C, D], [A, B, "stranger"], [B, A, C], [A, A, B, C]])
def test_a_list_that_is_no_proper_list_of_survivors_is_not_signed(federation, masked, names):
    attempt, shared, _ = masked
    with pytest.raises(IntegrityError, match="in a sum"):
        agreements(federation, attempt, shared, names, [A])


def test_no_share_is_given_before_enough_survivors_signed_the_same_list(federation, masked):
    attempt, shared, _ = masked
    some = agreements(federation, attempt, shared, [A, B, C], [A, B])
    other = agreements(federation, attempt, shared, [A, B, C, D], [D])
    for signatures in ([], some, [*some, *some], [*some, *other]):
        with pytest.raises(IntegrityError):
            federation.clinics[A].unmask(attempt, federation.adverts, shared.letters[A], signatures)


def test_a_clinic_that_signed_no_list_gives_no_share(federation, masked):
    attempt, shared, _ = masked
    signatures = agreements(federation, attempt, shared, [A, B, C, D], [B, C, D])
    with pytest.raises(IntegrityError, match="signed list"):
        federation.clinics[A].unmask(attempt, federation.adverts, shared.letters[A], signatures)


def test_the_coordinator_never_gets_both_shares_of_one_clinic(federation, masked):
    """It asks as if D had survived, and then as if not: every clinic answers the first alone."""
    attempt, shared, _ = masked
    everyone = agreements(federation, attempt, shared, [A, B, C, D], [A, B, C, D])
    for name in (A, B, C):
        clinic = federation.clinics[name]
        given = clinic.unmask(attempt, federation.adverts, shared.letters[name], everyone)
        with pytest.raises(IntegrityError):
            agreements(federation, attempt, shared, [A, B, C], [name])
        again = clinic.unmask(attempt, federation.adverts, shared.letters[name], everyone)
        assert again == given
        assert len(parted(given.payload)) == 4  # one share a clinic, of 16 bytes
        assert {len(share) for share in parted(given.payload)} == {16}


def test_an_attempt_is_over_once_a_later_one_was_answered(federation, masked):
    attempt, shared, _ = masked
    everyone = agreements(federation, attempt, shared, [A, B, C, D], [A, B, C, D])
    federation.share(federation.attempt(1, 2))
    with pytest.raises(IntegrityError, match="not older"):
        federation.clinics[A].unmask(attempt, federation.adverts, shared.letters[A], everyone)


def test_what_was_answered_survives_a_crash(federation, masked):
    """A clinic opened anew on the same book holds to what it sent."""
    attempt, shared, messages = masked
    reborn = SecureClinic(
        federation.session,
        Keyring(A, federation.clinics[A].keyring.secret),
        federation.clinics[A].signing_key,
        federation.clinics[A].book,
    )
    assert reborn.mask(attempt, federation.adverts, shared.letters[A], no_sum) == messages[A]


def forget(federation):
    """Every clinic loses its book and advertises anew, as where a run is resumed."""
    federation.clinics = {n: replace(c, book=Book()) for n, c in federation.clinics.items()}
    federation.adverts = [clinic.advertise() for clinic in federation.clinics.values()]


def revealed(federation, attempt, shared, total, names):
    """What a coordinator puts together from the shares that it is given."""
    names = tuple(names)
    signatures = agreements(federation, attempt, shared, total.survivors, names)
    held = {
        n: parted(
            federation.clinics[n]
            .unmask(attempt, federation.adverts, shared.letters[n], signatures)
            .payload
        )
        for n in names
    }
    order = federation.session.participants
    return dict(zip(shared.senders, combine(held, federation.threshold, order), strict=True))


def test_a_clinic_that_lost_its_book_takes_no_part_under_the_keys_of_before(federation, masked):
    attempt, shared, _ = masked
    forgetful = replace(federation.clinics[A], book=Book())
    with pytest.raises(IntegrityError, match="the keys that clinic clinic-0 has"):
        forgetful.share(attempt, federation.adverts)
    with pytest.raises(IntegrityError, match="the keys that clinic clinic-0 has"):
        forgetful.mask(attempt, federation.adverts, shared.letters[A], no_sum)


def test_where_books_were_lost_an_attempts_number_that_comes_back_opens_no_sum(federation):
    """The first time a clinic drops out, which opens its pair seeds; then it takes part."""
    attempt = federation.attempt()
    shared = federation.share(attempt)
    total = SecureSum(attempt, shared, federation.size)
    for name in (B, C, D):
        total.add(federation.mask(attempt, shared, name))
    secret = revealed(federation, attempt, shared, total, (B, C, D))[A]
    seeds = opened_seeds(secret, shared.seeds[A], attempt, A)

    forget(federation)
    shared = federation.share(attempt)
    messages = {n: federation.mask(attempt, shared, n) for n in federation.clinics}
    total = SecureSum(attempt, shared, federation.size)
    for message in messages.values():
        total.add(message)
    own = revealed(federation, attempt, shared, total, federation.clinics)[A]
    bare = np.frombuffer(messages[A].payload, "<u8").copy()
    add_mask(bare, own, plus=False)
    for name, seed in seeds.items():
        add_mask(bare, bound_to(seed, b""), plus=name < A)
    assert not np.array_equal(bare, federation.inputs[A])


def test_where_books_were_lost_letters_of_before_are_opened_no_more(federation):
    """Shares of before would give one kind of share where the other was given already."""
    attempt = federation.attempt()
    before = federation.share(attempt)
    forget(federation)
    federation.share(attempt)
    with pytest.raises(IntegrityError, match="a letter of clinic"):
        federation.mask(attempt, before, A)


def test_a_wrong_share_is_seen_before_the_sum_is_read(federation, masked):
    attempt, shared, messages = masked
    total = SecureSum(attempt, shared, federation.size)
    for message in messages.values():
        total.add(message)
    everyone = agreements(federation, attempt, shared, total.survivors, federation.clinics)
    unmasked = {
        n: federation.clinics[n].unmask(attempt, federation.adverts, shared.letters[n], everyone)
        for n in (A, B, C)
    }
    shares = parted(unmasked[A].payload)
    shares[2] = changed(shares[2])
    key = federation.clinics[A].signing_key
    unmasked[A] = signed(key, attempt, A, "unmask", joined(shares))
    with pytest.raises(IntegrityError, match="committed to"):
        total.open(unmasked)


def test_a_masked_sum_alone_cannot_be_opened_by_fewer_than_the_threshold(federation, masked):
    attempt, shared, messages = masked
    total = SecureSum(attempt, shared, federation.size)
    for message in messages.values():
        total.add(message)
    everyone = agreements(federation, attempt, shared, total.survivors, federation.clinics)
    two = {
        n: federation.clinics[n].unmask(attempt, federation.adverts, shared.letters[n], everyone)
        for n in (A, B)
    }
    with pytest.raises(IncompleteRunError, match="gave their shares"):
        total.open(two)


def test_lists_of_clinics_are_read_as_written():
    assert list_of([A, B]) == joined([A.encode(), B.encode()])


def at_once(*calls):
    """What each call gives or raises, all begun at the same time."""

    def outcome(call):
        try:
            return call()
        except IntegrityError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(outcome, calls))


@pytest.fixture
def slow(federation):
    for name, clinic in federation.clinics.items():
        federation.clinics[name] = replace(clinic, book=SlowBook())
    federation.adverts = [clinic.advertise() for clinic in federation.clinics.values()]
    return federation


def test_two_processes_that_are_asked_at_once_send_one_masked_sum(slow):
    """The difference of two sums under one mask would be bare."""
    attempt, computed = slow.attempt(), []
    letters = slow.share(attempt).letters[A]

    def compute():
        computed.append(len(computed))
        return slow.inputs[A] + np.uint64(len(computed))

    def ask():
        return slow.clinics[A].mask(attempt, slow.adverts, letters, compute)

    first, second = at_once(ask, ask)
    assert first == second
    assert computed == [0]


def test_of_two_lists_of_survivors_that_arrive_at_once_one_is_signed(slow):
    attempt = slow.attempt()
    shared = slow.share(attempt)
    for name in slow.clinics:
        slow.mask(attempt, shared, name)
    answers = at_once(
        lambda: slow.clinics[A].agree(attempt, shared.letters[A], [A, B, C, D]),
        lambda: slow.clinics[A].agree(attempt, shared.letters[A], [A, B, C]),
    )
    assert sum(isinstance(answer, IntegrityError) for answer in answers) == 1


def test_an_older_attempt_that_ends_late_does_not_bring_the_book_back(slow):
    """Were its answer saved last, the later attempt could be asked for once more."""
    old, new = slow.attempt(1, 1), slow.attempt(1, 2)
    clinic = slow.clinics[A]
    at_once(lambda: clinic.share(old, slow.adverts), lambda: clinic.share(new, slow.adverts))
    assert clinic.share(new, slow.adverts) == clinic.share(new, slow.adverts)
    with pytest.raises(IntegrityError, match="not older"):
        clinic.share(old, slow.adverts)


def opened(federation, queries):
    attempt = federation.attempt()
    shared = federation.share(attempt)
    total = SecureSum(attempt, shared, federation.size, queries[B])
    for name, clinic in federation.clinics.items():
        letters, compute = shared.letters[name], lambda name=name: federation.inputs[name]
        if queries.get(name) is not None:
            sent = clinic.mask(attempt, federation.adverts, letters, compute, queries[name])
            total.add(sent)
    survivors = total.survivors
    everyone = agreements(federation, attempt, shared, survivors, survivors)
    unmasked = {
        n: federation.clinics[n].unmask(attempt, federation.adverts, shared.letters[n], everyone)
        for n in survivors
    }
    return total.open(unmasked)


@pytest.mark.parametrize("lost", [None, D])
def test_sums_for_different_queries_do_not_add_up(federation, lost):
    """One model for A, and for all others one that makes their sums zero: nothing is opened."""
    for name in (B, C, D):
        federation.inputs[name][:] = 0
    same = {name: b"model" for name in federation.clinics if name != lost}
    total = opened(federation, same | {A: b"another"})
    assert not (total == federation.inputs[A]).any()


@pytest.mark.parametrize("lost", [None, D])
def test_sums_for_the_same_query_add_up(federation, lost):
    same = {name: b"model" for name in federation.clinics if name != lost}
    plain = sum(federation.inputs[name] for name in same)
    assert np.array_equal(opened(federation, same), plain)


def test_with_another_query_a_second_masked_sum_of_an_attempt_is_refused(federation, masked):
    attempt, shared, _ = masked
    letters = shared.letters[A]
    with pytest.raises(IntegrityError, match="asked once"):
        federation.clinics[A].mask(attempt, federation.adverts, letters, no_sum, b"another")


def test_where_a_book_was_lost_neither_a_nonce_nor_a_self_mask_is_used_twice(federation):
    attempt = federation.attempt()
    clinic = federation.clinics[A]
    others = [c.advertise() for n, c in federation.clinics.items() if n != A]
    reborn = [replace(clinic, book=Book()) for _ in range(2)]
    sent = [parted(c.share(attempt, [c.advertise(), *others]).payload) for c in reborn]
    assert sent[0][1] != sent[1][1]  # the commitment to the self mask
    for place in (0, 2, 3, 4, 5):  # the sealed seeds and the letters begin with their nonces
        assert sent[0][place][:12] != sent[1][place][:12]
