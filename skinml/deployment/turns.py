"""When a clinic whose data are not ready is asked again: soon at first, then ever more seldom.

Each attempt to make data ready writes into the clinic's audit log, which only grows.
"""

from __future__ import annotations

from collections.abc import Set
from math import inf

QUICK = 6
LONGEST_S = 300.0
_FIRST_S = 5.0
_LOST_S = 3.0


class Turns:
    """Keeps of each clinic how often it failed, and when it may be asked again.

    >>> turns = Turns()
    >>> for _ in range(QUICK):
    ...     turns.failed("north", 0.0)
    >>> turns.may("north", 0.0), turns.may("north", 5.0)
    (False, True)
    """

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._next: dict[str, float] = {}
        self._lost: dict[str, float] = {}

    def may(self, clinic: str, now: float) -> bool:
        """Tell whether a clinic may be asked.

        Args:
            clinic: Its name.
            now: Seconds of a clock that only goes forward.

        Returns:
            Whether its time has come.
        """
        return now >= self._next.get(clinic, -inf)

    def failed(self, clinic: str, now: float, *, for_good: bool = False) -> None:
        """Note that a clinic could not make its data ready.

        Args:
            clinic: Its name.
            now: The time.
            for_good: Whether its policy or its budget said no; then it is asked no more.
        """
        count = self._failures[clinic] = self._failures.get(clinic, 0) + 1
        pause = min(_FIRST_S * 2.0 ** min(count - QUICK, 30), LONGEST_S) if count >= QUICK else 0.0
        self._next[clinic] = inf if for_good else now + pause

    def unreached(self, clinic: str, now: float) -> None:
        """Note that a clinic's node was not there to be asked.

        Args:
            clinic: Its name.
            now: The time.
        """
        self._next[clinic] = now + _LOST_S

    def forget(self, clinic: str) -> None:
        """Begin anew with a clinic that is ready.

        Args:
            clinic: Its name.
        """
        self._failures.pop(clinic, None)
        self._next.pop(clinic, None)

    def note_lost(self, clinics: Set[str], now: float) -> None:
        """Note whose nodes are not there at this moment.

        Args:
            clinics: Their names; all others are there.
            now: The time.
        """
        self._lost = {name: self._lost.get(name, now) for name in clinics}

    def lost_s(self, clinic: str, now: float) -> float:
        """Tell for how long a clinic's node has not been there.

        Args:
            clinic: Its name.
            now: The time.

        Returns:
            Seconds; 0 where it is there.
        """
        return now - self._lost.get(clinic, now)
