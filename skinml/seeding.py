"""Named random streams: all randomness of skinml but privacy noise.

A stream depends on the root seed and on its own name, and on nothing else, so that a new stream
or a changed order of calls leaves every other stream as it was. Privacy noise never comes from
here: see `skinml.privacy.noise`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Seeds:
    """The root of a run's named random streams.

    Args:
        root: The seed from the config, zero or above.

    Guarantees:
        The same root and name give the same stream on every machine.
    """

    root: int

    def sequence(self, name: str) -> np.random.SeedSequence:
        """Derive the seed sequence of one stream.

        Args:
            name: The stream's name, such as "weights" or "partition/dirichlet".

        Returns:
            A seed sequence that depends on the root and the name only.
        """
        key = hashlib.sha256(name.encode()).digest()
        words = np.frombuffer(key, dtype="<u4").tolist()
        return np.random.SeedSequence(self.root, spawn_key=tuple(words))

    def stream(self, name: str) -> np.random.Generator:
        """Open one stream.

        Args:
            name: The stream's name.

        Returns:
            A generator at the beginning of the stream.
        """
        return np.random.Generator(np.random.Philox(self.sequence(name)))

    def integer(self, name: str) -> int:
        """Draw one seed for a library that wants a single number.

        Args:
            name: The stream's name.

        Returns:
            A number from 0 to 2**63 - 1.
        """
        return int(self.sequence(name).generate_state(1, np.uint64)[0] >> np.uint64(1))
