"""What one Gaussian costs, exactly: delta at an epsilon and the reverse, without a grid."""

from __future__ import annotations

from math import exp, log, sqrt

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr


def gaussian_delta(mu: float, eps: float) -> float:
    """Compute delta of a mechanism with Gaussian differential privacy mu, in closed form.

    Args:
        mu: Sensitivity over noise standard deviation, above zero.
        eps: Epsilon, zero or above.

    Returns:
        The smallest delta.

    Source:
        Balle and Wang 2018, arXiv:1805.06530, Theorem 8.

    Example:
        >>> round(gaussian_delta(0.2681, 1.0), 7)
        1e-05
    """
    # The second term in logarithms: e^eps overflows before its product with the tail does.
    tail = exp(eps + float(log_ndtr(-eps / mu - mu / 2)))
    return float(ndtr(-eps / mu + mu / 2)) - tail


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Compute epsilon of a mechanism with Gaussian differential privacy mu, in closed form.

    Args:
        mu: Sensitivity over noise standard deviation, above zero.
        delta: Delta to read epsilon at, above 0 and below 1.

    Returns:
        The smallest epsilon, zero or above.

    Source:
        Balle and Wang 2018, arXiv:1805.06530, Theorem 8.

    Example:
        >>> round(gaussian_epsilon(0.7191, 1e-5), 3)
        3.0
    """
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    # Beyond this the normal's tail alone is below delta (Chernoff).
    most = mu**2 / 2 + mu * (sqrt(-2 * log(delta)) + 1)
    return float(brentq(lambda eps: gaussian_delta(mu, eps) - delta, 0.0, most, xtol=1e-12))
