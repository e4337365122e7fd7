"""Epsilons of patients at many clinics: hundreds and more, exact, and without a grid's memory."""

from __future__ import annotations

import mpmath
import pytest

from skinml.privacy.accounting import CERTIFICATE_GRID, epsilon
from skinml.privacy.events import GaussianEvent


def true_delta(mu, eps):
    """Balle and Wang 2018, Theorem 8, with a hundred digits."""
    with mpmath.workdps(100):
        mu, eps = mpmath.mpf(mu), mpmath.mpf(eps)
        first = mpmath.ncdf(mu / 2 - eps / mu)
        return float(first - mpmath.exp(eps) * mpmath.ncdf(-mu / 2 - eps / mu))


@pytest.mark.parametrize("mu", [8.1, 40.0, 400.0])
def test_a_great_epsilon_is_the_least_that_holds_up_to_the_grid(mu):
    eps = epsilon([GaussianEvent(1 / mu)], 1e-5)
    assert true_delta(mu, eps) <= 1e-5 * (1 + 1e-6)
    assert true_delta(mu, eps - 3 * CERTIFICATE_GRID) > 1e-5


def test_where_the_closed_form_takes_over_epsilon_goes_on_rising():
    found = [epsilon([GaussianEvent(1 / (8 + step))], 1e-5) for step in (-1e-3, 1e-3)]
    assert found[0] < found[1] < found[0] + 0.1
