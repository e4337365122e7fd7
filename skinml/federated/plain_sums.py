"""Plain sums of clinics' arrays: taken in as they arrive, and the same in whatever order they come.

Floating-point addition rounds, so that its result depends on the order. Here each number is cut in
two, at a fixed place: multiples of 2**-20, and the rest rounded to multiples of 2**-62. Both parts
are added without any rounding, as whole numbers of their unit.
"""

from __future__ import annotations

import numpy as np

from skinml.privacy.mechanism import Mechanism
from skinml.records import Arrays, FloatArray
from skinml.training.learner import Round

_UNIT, _FINE = 2.0**20, 2.0**62  # units in one
_CUT = 2.0**33  # from here on every float64 is a multiple of 2**-20 already


class PlainSum:
    """The sum of a round's releases over the clinics.

    Args:
        round_: The round.

    Guarantees:
        It holds two numbers for each number of a release, however many clinics are added. As long
        as clinics are at most 4,096 and every sum stays below 2**33 in size, the order in which
        they come changes no bit. Multiples of a grid down to 2**-62 are added exactly; of other
        numbers each is rounded by at most 2**-63.
    """

    def __init__(self, round_: Round) -> None:
        self._round = round_
        self._coarse = {r.name: np.zeros(r.shape) for r in round_.releases}
        self._fine = {r.name: np.zeros(r.shape) for r in round_.releases}

    def add(self, sums: Arrays) -> None:
        """Take in one clinic's arrays.

        Args:
            sums: One finite float64 array a release, of its shape.
        """
        for name, coarse in self._coarse.items():
            values = np.asarray(sums[name], dtype=np.float64)
            part = np.rint(np.clip(values, -_CUT, _CUT) * _UNIT) / _UNIT
            np.copyto(part, values, where=np.abs(values) >= _CUT)
            coarse += part
            np.subtract(values, part, out=part)
            part *= _FINE
            np.rint(part, out=part)
            part /= _FINE
            self._fine[name] += part

    def total(self, mechanism: Mechanism) -> dict[str, FloatArray]:
        """Give the sums.

        Args:
            mechanism: The coordinator's part of the noise.

        Returns:
            One array a release, with that noise.
        """
        return {
            release.name: mechanism.privatize(
                release, np.asarray(self._coarse[release.name] + self._fine[release.name])
            )
            for release in self._round.releases
        }
