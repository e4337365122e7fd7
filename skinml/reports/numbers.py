"""How the report writes numbers: counts, figures with their interval, epsilon, delta."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import isfinite

from skinml.records import Estimate

UNDEFINED = "undefined"


def count(number: int) -> str:
    """Write a count.

    Args:
        number: The count.

    Returns:
        The digits in groups of three.

    >>> count(13984)
    '13,984'
    """
    return f"{number:,}"


def about(number: int, std: float) -> str:
    """Write a count that may have been noised.

    Args:
        number: The count.
        std: Standard deviation of its noise; 0 where it is exact.

    Returns:
        The count, with "about" where it is noised; nobody can be fewer than none, so that what
        noise took below 0 is written as 0.

    >>> about(40, 0.0), about(-3, 5.2)
    ('40', 'about 0')
    """
    return f"about {count(max(number, 0))}" if std else count(number)


def figure(value: float | None, decimals: int) -> str:
    """Write a number, or the word for none.

    Args:
        value: The number; None where it is undefined.
        decimals: Digits after the point.

    Returns:
        The rounded number or "undefined".

    >>> figure(0.9046, 3), figure(None, 3), figure(-0.001, 2)
    ('0.905', 'undefined', '0.00')
    """
    return UNDEFINED if value is None else _rounded(value, decimals)


def _rounded(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    # What rounds to nothing has no sign.
    return text if text.strip("-0.,") else text.removeprefix("-")


def interval(estimate: Estimate, decimals: int) -> str:
    """Write an estimate's interval, or why there is none.

    Args:
        estimate: The estimate.
        decimals: Digits after the point.

    Returns:
        "LOW to HIGH", a one-sided form, or the estimate's reason; empty where nothing is known.

    >>> interval(Estimate(0.9, 0.8812, 0.92), 2)
    '0.88 to 0.92'
    """
    if estimate.low is not None and estimate.high is not None:
        return f"{_rounded(estimate.low, decimals)} to {_rounded(estimate.high, decimals)}"
    if estimate.low is not None:
        return f"at least {_rounded(estimate.low, decimals)}"
    if estimate.high is not None:
        return f"at most {_rounded(estimate.high, decimals)}"
    return estimate.reason or ("" if estimate.value is None else "no interval")


def epsilon(value: float | None) -> str:
    """Write an epsilon, never smaller than it is.

    Args:
        value: The epsilon; None or infinite without a guarantee.

    Returns:
        Two decimals, rounded up; "no guarantee" where there is none.

    >>> epsilon(2.9913), epsilon(None)
    ('3.00', 'no guarantee')
    """
    if value is None or not isfinite(value):
        return "no guarantee"
    return at_most(value, 2)


def at_most(value: float, decimals: int) -> str:
    """Write an upper limit, never smaller than it is.

    Args:
        value: The limit, finite.
        decimals: Digits after the point.

    Returns:
        The number rounded up.

    >>> at_most(95.201, 1)
    '95.3'
    """
    # A limit of 3 computed as 3.0000000000004 shall still read 3.00.
    exact = Decimal(repr(round(value, 9)))
    return str(exact.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_CEILING))


def at_least(value: float, decimals: int) -> str:
    """Write a lower limit, never greater than it is.

    Args:
        value: The limit, finite.
        decimals: Digits after the point.

    Returns:
        The number rounded down.

    >>> at_least(1.2247, 2), at_least(0.9999999999999999, 2)
    ('1.22', '1.00')
    """
    # Shares of noise that add up to 1 but for the last digit of a float shall still read 1.00.
    exact = Decimal(repr(round(value, 9)))
    return str(exact.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_FLOOR))


def delta(value: float) -> str:
    """Write a delta.

    Args:
        value: The delta, from 0 to 1.

    Returns:
        Scientific notation with as few digits as it takes.

    >>> delta(1e-5), delta(2.5e-6)
    ('1e-05', '2.5e-06')
    """
    return f"{value:.2g}"
