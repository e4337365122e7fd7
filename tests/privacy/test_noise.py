"""Where noise comes from: secret, normal, and never twice the same (pitfall P10).

The statistical tests have a fixed level of 1e-6, so that a true normal fails one of them about
once in a hundred thousand runs of this file.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtri

from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise, open_uniforms, secret_noise
from skinml.privacy.plan import Release

LEVEL = 1e-6
DRAWS = 200_000
Z = stats.norm.isf(LEVEL / 2)


def test_two_sources_share_nothing():
    first, second = (secret_noise().normal((1000,), 1.0) for _ in range(2))
    assert not np.isin(first, second).any()
    assert abs(np.corrcoef(first, second)[0, 1]) < Z / np.sqrt(1000)


def test_one_source_never_repeats_itself():
    source = secret_noise()
    drawn = np.concatenate([source.normal((500,), 1.0) for _ in range(4)])
    assert len(np.unique(drawn)) == 2000


def test_seeds_have_no_say_in_secret_noise():
    def drawn():
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002  # the global seed is what must not matter
        torch.manual_seed(7)
        return secret_noise().normal((50,), 1.0)

    assert not np.isin(drawn(), drawn()).any()


def test_drawing_moves_no_global_stream():
    before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002  # the global stream
    secret_noise().normal((50,), 1.0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002  # as above


def test_secret_noise_is_normal():
    drawn = secret_noise().normal((DRAWS,), 3.0) / 3.0
    assert stats.kstest(drawn, "norm").pvalue > LEVEL
    assert abs(drawn.mean()) < Z / np.sqrt(DRAWS)
    assert abs(drawn.var() - 1) < Z * np.sqrt(2 / DRAWS)
    assert abs((drawn**3).mean()) < Z * np.sqrt(15 / DRAWS)
    assert abs((drawn**4).mean() - 3) < Z * np.sqrt(96 / DRAWS)


def test_the_tails_are_there_and_symmetric():
    drawn = secret_noise().normal((DRAWS,), 1.0)
    for limit in (2.0, 3.0):
        above, below = int((drawn > limit).sum()), int((drawn < -limit).sum())
        assert stats.binomtest(above, DRAWS, stats.norm.sf(limit)).pvalue > LEVEL
        assert stats.binomtest(above, above + below, 0.5).pvalue > LEVEL


def test_neighbouring_draws_are_uncorrelated():
    drawn = secret_noise().normal((DRAWS,), 1.0)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < Z / np.sqrt(DRAWS)


def test_the_extreme_words_give_finite_and_symmetric_noise():
    """A word of all ones once rounded to 1, whose normal is infinite."""
    words = np.array([0, 2**12, 2**64 - 1 - 2**12, 2**64 - 1], dtype=np.uint64)
    uniform = open_uniforms(words)
    assert ((uniform > 0) & (uniform < 1)).all()
    assert np.array_equal(uniform + uniform[::-1], np.ones(4))
    assert np.isfinite(ndtri(uniform)).all()


def test_no_half_is_lost_to_rounding():
    words = (np.arange(2**10, dtype=np.uint64) + np.uint64(2**52 - 2**10)) << np.uint64(12)
    assert len(np.unique(open_uniforms(words))) == 2**10


def test_noise_has_the_shape_asked_for():
    assert secret_noise().normal((3, 0, 2), 1.0).shape == (3, 0, 2)
    assert secret_noise().normal((), 1.0).shape == ()
    assert np.array_equal(secret_noise().normal((2, 2), 0.0), np.zeros((2, 2)))


def test_fixed_noise_repeats_and_says_that_it_promises_nothing():
    sources = [fixed_noise(np.random.default_rng(3)) for _ in range(2)]
    first, second = (source.normal((9,), 2.0) for source in sources)
    assert np.array_equal(first, second)
    assert not sources[0].guarantee
    assert secret_noise().guarantee


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_mechanism_adds_its_share_of_the_releases_noise(share):
    release = Release("sum", "training", "train", 0.5, 4.0, (DRAWS,))
    mechanism = Mechanism(share)
    noisy = mechanism.privatize(release, np.full(DRAWS, 10.0))
    assert mechanism.std(release) == share * 0.5 * 4.0
    assert stats.kstest((noisy - 10) / mechanism.std(release), "norm").pvalue > LEVEL


def test_no_share_changes_nothing():
    release = Release("sum", "training", "train", 0.5, 4.0, (3,))
    assert Mechanism(0.0).privatize(release, np.arange(3.0)).tolist() == [0, 1, 2]


def test_each_release_opens_a_source_of_its_own():
    release = Release("sum", "training", "train", 1.0, 1.0, (100,))
    mechanism = Mechanism(1.0)
    first, second = (mechanism.privatize(release, np.zeros(100)) for _ in range(2))
    assert not np.isin(first, second).any()
