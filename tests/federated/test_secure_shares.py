"""Shares of secrets: put together as pycryptodome does it, from whoever gave theirs."""

from __future__ import annotations

import os
from itertools import combinations

import numpy as np
import pytest
from Crypto.Protocol.SecretSharing import Shamir

from skinml.errors import IntegrityError
from skinml.federated.secure_shares import combine, split

EDGES = (bytes(16), b"\xff" * 16, b"\x80" + bytes(15), bytes(15) + b"\x01")


def dealt(k, threshold, secrets):
    """Names, and by name its share of each secret."""
    names = [f"clinic-{place:03d}" for place in range(k)]
    shares = [split(secret, threshold, names) for secret in secrets]
    return names, {name: [each[name] for each in shares] for name in names}


@pytest.mark.parametrize(("k", "threshold"), [(1, 1), (2, 2), (5, 3), (6, 6)])
def test_every_group_of_threshold_holders_gets_the_secrets_back(k, threshold):
    secrets = [*EDGES, os.urandom(16)]
    names, shares = dealt(k, threshold, secrets)
    for group in combinations(names, threshold):
        assert combine({name: shares[name] for name in group}, threshold, names) == secrets


def test_the_combination_is_that_of_pycryptodome_for_any_bytes_as_shares():
    """Also where the shares belong to no secret that anybody dealt out."""
    rng = np.random.default_rng(5)
    names = [f"clinic-{place:03d}" for place in range(100)]
    for threshold in (1, 2, 7, 30):
        group = sorted(rng.choice(names, threshold, replace=False).tolist())
        shares = {name: [rng.bytes(16) for _ in range(3)] for name in group}
        expected = [
            Shamir.combine([(names.index(name) + 1, shares[name][at]) for name in group])
            for at in range(3)
        ]
        assert combine(shares, threshold, names) == expected


def test_a_hundred_clinics_secrets_come_back_from_the_last_of_them():
    secrets = [os.urandom(16) for _ in range(3)]
    names, shares = dealt(100, 67, secrets)
    last = {name: shares[name] for name in reversed(names[33:])}
    assert combine(last, 67, names) == secrets


def test_fewer_shares_than_the_threshold_fit_every_secret():
    """With t - 1 shares given, each value of one more leads to another secret."""
    names, shares = dealt(3, 3, [os.urandom(16)])
    two = {name: shares[name] for name in names[:2]}
    guesses = {bytes(15) + bytes([guess]) for guess in range(256)}
    found = {combine(two | {names[2]: [guess]}, 3, names)[0] for guess in guesses}
    assert len(found) == len(guesses)


@pytest.mark.parametrize(
    "change",
    [
        lambda shares: shares.popitem(),
        lambda shares: shares.update({"clinic-001": shares["clinic-001"][:1]}),
        lambda shares: shares.update({"clinic-001": [b"short", shares["clinic-001"][1]]}),
    ],
)
def test_missing_and_cut_shares_are_refused(change):
    names, shares = dealt(3, 3, [os.urandom(16), os.urandom(16)])
    change(shares)
    with pytest.raises(IntegrityError, match="share"):
        combine(shares, 3, names)
