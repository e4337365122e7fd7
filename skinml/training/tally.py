"""Counting patients in one round: a recipe whose model is a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release
from skinml.privacy.quantise import GRID
from skinml.records import Arrays, IntArray, Samples
from skinml.training.learner import Round

COUNTING = "counting"
"""The kind of the one round."""


@dataclass(frozen=True)
class TallyLearner:
    """A recipe that asks once how many patients are in each cell.

    Attributes:
        release: What leaves each clinic.
        units: What a patient counts in each table, in units of `GRID`.

    Guarantees:
        A patient is in one cell of each table, or in none of any, whatever data the patient has.
    """

    release: Release
    units: int

    @property
    def rounds(self) -> tuple[Round, ...]:
        """One round."""
        return (Round(1, COUNTING, (self.release,)),)

    def start(self) -> Arrays:
        """Begin with nothing."""
        return {}

    def query(self, round_: Round, state: Arrays) -> Arrays:
        """Send nothing."""
        del round_, state
        return {}

    def contributor(self, samples: Samples) -> Tally:
        """Open a clinic's side.

        Args:
            samples: One for each patient; its inputs are the patient's cells, one a table.

        Returns:
            What counts them.
        """
        return Tally(samples.inputs, self.units)

    def advance(self, round_: Round, state: Arrays, total: Arrays, num_clinics: int) -> Arrays:
        """Take the sums as they are."""
        del round_, state, num_clinics
        return dict(total)

    def model(self, state: Arrays) -> Arrays:
        """Give the sums."""
        return state


@dataclass(frozen=True, repr=False)
class Tally:
    """A clinic's patients, one row each. Per patient: never log.

    Attributes:
        cells: (n, tables) the cell of each patient in each table.
        units: What a patient counts in each table, in units of `GRID`.
    """

    cells: IntArray
    units: int

    @property
    def not_finite(self) -> int:
        """None: cells are whole numbers."""
        return 0

    def contribute(
        self, round_: Round, query: Arrays, mechanism: Mechanism, sampling: np.random.Generator
    ) -> Arrays:
        """Count, and add this clinic's part of the noise.

        Args:
            round_: The round.
            query: Not used.
            mechanism: Adds the noise.
            sampling: Not used: every patient is counted.

        Returns:
            The noised counts under the release's name.
        """
        del query, sampling
        (release,) = round_.releases
        counts = np.bincount(self.cells.ravel(), minlength=release.shape[0])
        return {release.name: mechanism.privatize(release, counts * (self.units * GRID))}
