"""How attempts at a round are numbered, and how people read the numbers.

Each process of the coordinator that takes up a run begins behind all numbers of the one before
it, so that no clinic ever answers it with what it computed for that one.
"""

from __future__ import annotations

MOST_ATTEMPTS = 10
"""Attempts at a round by one process of the coordinator."""


def first_attempt(life: int) -> int:
    """Number a process's first attempt at a round.

    Args:
        life: Which process of the coordinator it is, from 1.

    Returns:
        The number.

    >>> first_attempt(1), first_attempt(2)
    (1, 11)
    """
    return 1 + (life - 1) * MOST_ATTEMPTS


def attempt_words(number: int) -> str:
    """Say which attempt it is.

    Args:
        number: The attempt's number, from 1.

    Returns:
        The number alone in the first process's life; else which life, and which attempt in it.

    >>> attempt_words(2), attempt_words(11)
    ('2', 'life 2, attempt 1')
    """
    life, attempt = divmod(number - 1, MOST_ATTEMPTS)
    return f"life {life + 1}, attempt {attempt + 1}" if life else str(attempt + 1)
