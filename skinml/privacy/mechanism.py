"""The one place where noise joins a sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skinml.privacy.noise import NoiseSource, secret_noise
from skinml.privacy.plan import Release
from skinml.records import FloatArray


@dataclass(frozen=True)
class Mechanism:
    """Adds one party's part of the noise to a sum.

    Attributes:
        share: This party's standard deviation in multiples of sensitivity times noise multiplier
            (see `skinml.privacy.trust.noise_rule`); 0 adds none.
        open_source: Opens a noise source; called once a release.
    """

    share: float
    open_source: Callable[[], NoiseSource] = secret_noise

    def std(self, release: Release) -> float:
        """Compute this party's noise for a release.

        Args:
            release: The planned release.

        Returns:
            Standard deviation in the units of the sum.
        """
        return self.share * release.noise_std

    def privatize(self, release: Release, exact: FloatArray) -> FloatArray:
        """Add this party's noise to a sum of clipped contributions.

        Args:
            release: What is about to leave.
            exact: The exact sum, of any shape, whose L2 sensitivity is the release's; multiples of
                the release's grid where it has one.

        Returns:
            The sum with noise, float64; on the grid where there is one.

        Raises:
            ConfigError: If the noise does not fit the grid.

        Guarantees:
            With the parts of all parties, the release is the mechanism of its event.
        """
        source, std = self.open_source(), self.std(release)
        if release.grid:
            return exact + source.on_grid(exact.shape, std, release.grid)
        return exact + source.normal(exact.shape, std)
