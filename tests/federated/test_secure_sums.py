"""Secure sums: equal to plain ones whatever clinics are lost, and closed below the threshold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from skinml.errors import ConfigError, IncompleteRunError, IntegrityError
from skinml.federated.secure_aggregation import PairedSum
from skinml.federated.secure_masks import LARGEST, from_ring, mask, require_unmasked, to_ring
from skinml.federated.secure_session import Attempt, Session, joined, parted
from tests.federated.secure_world import STEPS, Federation

LEVEL = 1e-6


def plain_sum(federation, names):
    total = np.zeros(federation.size, np.uint64)
    for name in names:
        total += federation.inputs[name]
    return total


def require_truth(federation, attempt, lost):
    """The sum is the plain one of those who sent theirs, or too few stayed and nothing opened."""
    enough = all(len(federation.staying(lost, s)) >= federation.threshold for s in federation.steps)
    if not enough:
        with pytest.raises((IncompleteRunError, IntegrityError)):
            federation.sum(attempt, lost)
        return
    total, survivors = federation.sum(attempt, lost)
    sent = "paired" if federation.session.all_needed else "masked"
    assert survivors == tuple(sorted(federation.staying(lost, sent)))
    assert np.array_equal(total, plain_sum(federation, survivors))


def every_pattern(k, threshold):
    federation = Federation(k, threshold)
    places = range(len(federation.steps) + 1)
    for number, steps in enumerate(itertools.product(places, repeat=k), start=1):
        lost = dict(zip(federation.clinics, steps, strict=True))
        require_truth(federation, federation.attempt(1, number), lost)


@pytest.mark.parametrize(
    ("k", "threshold"), [(2, 2), (3, 2), (3, 3), (4, 4), (5, 5), (6, 6), (9, 9)]
)
def test_every_pattern_of_losses_at_every_step_gives_the_plain_sum_or_nothing(k, threshold):
    every_pattern(k, threshold)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "threshold"), [(4, 3), (5, 3), (5, 4), (6, 4), (6, 5)])
def test_every_pattern_of_losses_of_more_clinics_gives_the_plain_sum_or_nothing(k, threshold):
    every_pattern(k, threshold)


def test_thirty_clinics_of_whom_nine_are_lost_on_the_way():
    federation = Federation(30, 21)
    names = list(federation.clinics)
    lost = {name: place % len(STEPS) for place, name in enumerate(names[::4])}
    lost |= {names[1]: 1}
    require_truth(federation, federation.attempt(), lost)


@pytest.mark.parametrize("threshold", [2, 3])
def test_masks_are_fresh_in_every_round_and_every_attempt(threshold):
    federation = Federation(3, threshold)
    attempts = (federation.attempt(*each) for each in ((1, 1), (1, 2), (2, 1)))
    assert len({federation.sent(attempt, "clinic-0").payload for attempt in attempts}) == 3


@pytest.mark.parametrize("threshold", [2, 3])
def test_a_masked_sum_looks_uniform_whatever_the_input(threshold):
    """Each byte value and each bit as often as the others, for an input of zeros."""
    federation = Federation(3, threshold, size=50_000)
    federation.inputs["clinic-0"] = np.zeros(federation.size, np.uint64)
    payload = federation.sent(federation.attempt(), "clinic-0").payload
    counts = np.bincount(np.frombuffer(payload, np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > LEVEL
    words = np.frombuffer(payload, "<u8")
    assert stats.kstest(words / 2.0**64, "uniform", method="asymp").pvalue > LEVEL
    bits = np.unpackbits(np.frombuffer(payload, np.uint8).reshape(-1, 8), axis=1)
    chances = [stats.binomtest(int(n), federation.size, 0.5).pvalue for n in bits.sum(axis=0)]
    assert min(chances) > LEVEL / len(chances)


@pytest.mark.parametrize("threshold", [2, 3])
def test_two_clinics_masked_sums_tell_nothing_of_their_difference(threshold):
    """The third clinic's masks stay in what two of them send together."""
    federation = Federation(3, threshold, size=20_000)
    for name in federation.clinics:
        federation.inputs[name] = np.zeros(federation.size, np.uint64)
    attempt = federation.attempt()
    first, second = (
        np.frombuffer(federation.sent(attempt, n).payload, "<u8") for n in ("clinic-0", "clinic-1")
    )
    for together in (first + second, first - second):
        assert stats.kstest(together / 2.0**64, "uniform", method="asymp").pvalue > LEVEL


@pytest.mark.parametrize(
    ("k", "threshold", "colluding"),
    [(1, 1, 0), (2, 1, 0), (101, 101, 0), (4, 2, 0), (5, 3, 1), (4, 5, 0), (3, 2, 2), (3, 3, 3)],
)
def test_terms_under_which_a_coordinator_could_open_two_sums_are_refused(k, threshold, colluding):
    with pytest.raises(ConfigError):
        Session("run", {f"c{n}": bytes(32) for n in range(k)}, threshold, colluding)


def test_the_terms_decide_every_digest():
    keys = {f"c{n}": bytes([n]) * 32 for n in range(4)}
    terms = [("a", keys, 3, 0), ("b", keys, 3, 0), ("a", keys, 4, 0), ("a", keys, 4, 1)]
    terms.append(("a", keys | {"c0": bytes([9]) * 32}, 3, 0))
    contexts = [Attempt(Session(*each), 1, 1).context for each in terms]
    contexts += [Attempt(Session(*terms[0]), r, n).context for r, n in ((1, 2), (2, 1))]
    assert len(set(contexts)) == len(contexts)


def test_grid_values_survive_the_ring_and_sums_do_not_wrap():
    grid = 2.0**-28
    values = np.array([0.0, grid, -grid, LARGEST * grid, -LARGEST * grid, -3.25])
    assert np.array_equal(from_ring(to_ring(values, grid), grid), values)
    hundred = np.zeros(6, np.uint64)
    for _ in range(100):
        hundred += to_ring(values, grid)
    assert np.array_equal(from_ring(hundred, grid), 100 * values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.3, 2.0**25])
def test_what_does_not_fit_the_ring_is_not_sent(bad):
    with pytest.raises(IntegrityError, match="secure sum"):
        to_ring(np.array([0.0, bad]), 2.0**-28)


def test_a_seed_gives_one_mask_and_another_seed_another():
    assert np.array_equal(mask(bytes(16), 40)[:20], mask(bytes(16), 20))
    assert not np.isin(mask(bytes(16), 100), mask(b"1" * 16, 100)).any()


@pytest.mark.parametrize("cut", [1, 3, 5, 7])
def test_a_truncated_list_is_refused(cut):
    with pytest.raises(IntegrityError, match="truncated"):
        parted(joined([b"abc", b"defg"])[:-cut])


def test_masks_that_are_left_in_a_total_are_seen():
    federation = Federation(3, 3, size=100)
    attempt = federation.attempt()
    for name in federation.clinics:
        federation.inputs[name] = to_ring(np.full(100, -LARGEST * 2.0**-28), 2.0**-28)
    total, one_other = (PairedSum(attempt, 100) for _ in range(2))
    for name in federation.clinics:
        sent = federation.pair(attempt, name)
        total.add(sent)
        if name != "clinic-0":
            one_other.add(sent)
    words = total.open()
    require_unmasked(words, 3)
    assert np.array_equal(from_ring(words, 2.0**-28), np.full(100, -3 * LARGEST * 2.0**-28))
    with pytest.raises(IntegrityError, match="cancel out"):
        require_unmasked(words, 2)  # larger than two clinics' can be
    asked_otherwise = PairedSum(federation.attempt(1, 2), 100)
    for name in federation.clinics:
        query = b"another" if name == "clinic-0" else b""
        asked_otherwise.add(federation.pair(federation.attempt(1, 2), name, query))
    with pytest.raises(IntegrityError, match="cancel out"):
        require_unmasked(asked_otherwise.open(), 3)
    with pytest.raises(IncompleteRunError, match="2 that sent"):
        one_other.open()
