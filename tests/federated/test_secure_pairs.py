"""Sums of all clinics under pairwise masks alone: what is refused, and what nobody can take off."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import stats

from skinml.errors import IncompleteRunError, IntegrityError
from skinml.federated import secure_session
from skinml.federated.secure_aggregation import PairedSum
from skinml.federated.secure_clinic import SecureClinic, roster_of
from skinml.federated.secure_keys import Keyring
from skinml.federated.secure_masks import add_mask, bound_to
from skinml.federated.step_book import book_secret
from tests.federated.secure_world import Book, Federation, SlowBook
from tests.federated.test_secure_attacks import ALTERED, no_sum

A, B, C, D = (f"clinic-{place}" for place in range(4))
LEVEL = 1e-6


@pytest.fixture
def federation():
    return Federation(4, 4)


def opened(federation, messages, attempt):
    total = PairedSum(attempt, federation.size)
    for message in messages:
        total.add(message)
    return total.open()


def plain(federation):
    return sum(federation.inputs.values(), np.zeros(federation.size, np.uint64))


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_no_changed_message_is_taken(federation, change):
    attempt = federation.attempt()
    with pytest.raises(IntegrityError):
        PairedSum(attempt, federation.size).add(change(federation.pair(attempt, A)))
    adverts = [change(federation.adverts[0]), *federation.adverts[1:]]
    with pytest.raises(IntegrityError):
        federation.clinics[B].pair(attempt, adverts, no_sum)


def test_a_message_of_another_attempt_round_run_or_size_is_not_taken(federation):
    attempt = federation.attempt()
    sent = federation.pair(attempt, A)
    elsewhere = replace(attempt, session=replace(federation.session, run="run-2"))
    places = [federation.attempt(1, 2), federation.attempt(2, 1), elsewhere]
    for place, size in [*((each, 3) for each in places), (attempt, 4)]:
        with pytest.raises(IntegrityError):
            PairedSum(place, size).add(sent)


def test_the_same_sum_is_not_added_twice_and_none_is_read_before_all_are_there(federation):
    attempt = federation.attempt()
    total = PairedSum(attempt, federation.size)
    for name in (A, B, C):
        total.add(federation.pair(attempt, name))
    with pytest.raises(IntegrityError, match="one masked sum"):
        total.add(federation.pair(attempt, A))
    with pytest.raises(IncompleteRunError, match="3 that sent their sums"):
        total.open()
    total.add(federation.pair(attempt, D))
    assert np.array_equal(total.open(), plain(federation))


@pytest.mark.parametrize("change", [lambda a: a[1:], lambda a: [*a, a[0]]])
def test_a_list_of_keys_without_every_participant_once_is_refused(federation, change):
    with pytest.raises(IntegrityError):
        federation.clinics[B].pair(federation.attempt(), change(federation.adverts), no_sum)


def test_where_all_are_needed_no_secret_is_shared_out(federation):
    """What is masked pairwise alone is bare as soon as a clinic's pair seeds are given up."""
    attempt, clinic = federation.attempt(), federation.clinics[A]
    with pytest.raises(IntegrityError, match="'paired' alone"):
        clinic.share(attempt, federation.adverts)


def test_where_some_may_drop_out_no_sum_leaves_under_pairwise_masks_alone():
    federation = Federation(4, 3)
    with pytest.raises(IntegrityError, match="any but 'paired'"):
        federation.clinics[A].pair(federation.attempt(), federation.adverts, no_sum)


def test_asked_the_same_again_a_clinic_sends_the_identical_message_and_computes_nothing(federation):
    attempt, clinic = federation.attempt(), federation.clinics[A]
    sent = federation.pair(attempt, A)
    assert clinic.pair(attempt, federation.adverts, no_sum) == sent
    reborn = SecureClinic(  # as after a crash
        federation.session,
        Keyring(A, clinic.keyring.secret),
        clinic.signing_key,
        clinic.book,
    )
    assert reborn.pair(attempt, federation.adverts, no_sum) == sent


def test_in_an_attempt_a_clinic_answers_one_question(federation):
    """Neither with another model, nor with other keys of a peer that lost its book."""
    attempt = federation.attempt()
    federation.pair(attempt, A)
    with pytest.raises(IntegrityError, match="asked once"):
        federation.clinics[A].pair(attempt, federation.adverts, no_sum, b"another")
    anew = replace(federation.clinics[B], book=Book()).advertise()
    adverts = [federation.adverts[0], anew, *federation.adverts[2:]]
    with pytest.raises(IntegrityError, match="asked once"):
        federation.clinics[A].pair(attempt, adverts, no_sum)


def test_an_attempt_is_over_once_a_later_one_was_answered(federation):
    federation.pair(federation.attempt(1, 2), A)
    with pytest.raises(IntegrityError, match="not older"):
        federation.clinics[A].pair(federation.attempt(1, 1), federation.adverts, no_sum)


def test_two_processes_that_are_asked_at_once_send_one_sum(federation):
    """The difference of two sums under one mask would be bare."""
    federation.clinics[A] = replace(federation.clinics[A], book=SlowBook())
    federation.adverts[0] = federation.clinics[A].advertise()
    attempt, computed = federation.attempt(), []

    def compute():
        computed.append(len(computed))
        return federation.inputs[A] + np.uint64(len(computed))

    def ask(_):
        return federation.clinics[A].pair(attempt, federation.adverts, compute)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, range(2))
    assert first == second
    assert computed == [0]


def test_sums_for_different_queries_do_not_add_up(federation):
    """One model for A, and for all others one that makes their sums zero: nothing is opened."""
    attempt = federation.attempt()
    for name in (B, C, D):
        federation.inputs[name][:] = 0
    sent = [federation.pair(attempt, n, b"another" if n == A else b"model") for n in (A, B, C, D)]
    assert not (opened(federation, sent, attempt) == federation.inputs[A]).any()


def test_who_lost_its_book_has_other_masks_for_an_attempts_number_that_comes_back(federation):
    attempt = federation.attempt()
    before = {name: federation.pair(attempt, name) for name in federation.clinics}
    federation.clinics[A] = replace(federation.clinics[A], book=Book())
    with pytest.raises(IntegrityError, match="the keys that clinic clinic-0 has"):
        federation.clinics[A].pair(attempt, federation.adverts, no_sum)
    federation.adverts[0] = federation.clinics[A].advertise()
    again = federation.pair(attempt, A)
    masks = [
        np.frombuffer(each.payload, "<u8") - federation.inputs[A] for each in (before[A], again)
    ]
    assert not (masks[0] == masks[1]).any()
    mixed = [again, *(before[name] for name in (B, C, D))]
    assert not (opened(federation, mixed, attempt) == plain(federation)).any()


class LostBook(Book):
    """Lost, as when a run is over, by the time that its lock is taken."""

    def locked(self):
        self.content = b""
        return super().locked()


@pytest.mark.parametrize("threshold", [3, 4])
def test_who_loses_its_book_after_its_keys_were_looked_at_computes_nothing(threshold):
    """Else another sum would leave under the masks of one that left before."""
    federation = Federation(4, threshold)
    attempt, clinic = federation.attempt(), federation.clinics[A]
    letters = federation.share(attempt).letters[A] if threshold == 3 else {}
    book = LostBook()
    book.content = clinic.book.content
    losing = replace(clinic, book=book)
    ask = partial(losing.pair, attempt, federation.adverts, no_sum)
    if threshold == 3:
        ask = partial(losing.mask, attempt, federation.adverts, letters, no_sum)
    with pytest.raises(IntegrityError, match="book of answers that clinic clinic-0"):
        ask()


def test_a_release_that_answers_in_another_way_has_other_keys(federation, monkeypatch):
    """A clinic that is brought up to date in the middle of a run repeats no mask of before."""
    monkeypatch.setattr(secure_session, "_DOMAIN", b"skinml secure aggregation 1\n")
    before = replace(federation.clinics[A], session=replace(federation.session)).advertise()
    assert before.payload != federation.adverts[0].payload
    with pytest.raises(IntegrityError):
        federation.clinics[B].pair(federation.attempt(), [before, *federation.adverts[1:]], no_sum)


def test_two_of_four_who_help_the_coordinator_learn_the_sum_of_the_others_and_nothing_else():
    """C and D take off all masks that they know: A's and B's sums look uniform, but add up."""
    federation = Federation(4, 4, colluding=2, size=50_000)
    for name in federation.clinics:
        federation.inputs[name] = np.full(federation.size, ord(name[-1]), np.uint64)
    attempt = federation.attempt()
    roster = roster_of(federation.session, federation.adverts)
    left = {}
    for name in (A, B):
        words = np.frombuffer(federation.pair(attempt, name).payload, "<u8").copy()
        for helper in (C, D):
            clinic = federation.clinics[helper]
            ring = clinic._ring(book_secret(clinic.book))
            seed = ring.pair_seed(attempt, roster[name])
            add_mask(words, bound_to(seed, b""), plus=name > helper)
        left[name] = words
        uniform = stats.kstest(words / 2.0**64, "uniform", method="asymp")
        assert uniform.pvalue > LEVEL
    both = federation.inputs[A] + federation.inputs[B]
    assert np.array_equal(left[A] + left[B], both)


def test_what_all_but_one_send_together_looks_uniform():
    federation = Federation(4, 4, size=50_000)
    for name in federation.clinics:
        federation.inputs[name] = np.zeros(federation.size, np.uint64)
    attempt = federation.attempt()
    together = np.zeros(federation.size, np.uint64)
    for name in (A, B, C):
        together += np.frombuffer(federation.pair(attempt, name).payload, "<u8")
    assert stats.kstest(together / 2.0**64, "uniform", method="asymp").pvalue > LEVEL
    bits = np.unpackbits(together.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=0)
    chances = [stats.binomtest(int(n), federation.size, 0.5).pvalue for n in bits]
    assert min(chances) > LEVEL / len(chances)
