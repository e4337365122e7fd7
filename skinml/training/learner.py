"""What a recipe must offer so that one loop can train it, at one clinic or across many.

state = learner.start()
for each round of learner.rounds:
    query = learner.query(round, state)            public, goes to the clinics
    at each clinic:
        sums = contributor.contribute(round, query, ...)   noise is already in them
    state = learner.advance(round, state, total of the sums, number of clinics)
model = learner.model(state)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release
from skinml.records import Arrays, Samples


@dataclass(frozen=True)
class Round:
    """One exchange between the coordinator and the clinics.

    Attributes:
        number: From 1.
        kind: Which part of the recipe it is, such as "statistics" or "gradient".
        releases: What leaves each clinic: one release an array of the reply.
    """

    number: int
    kind: str
    releases: tuple[Release, ...]


class Contributor(Protocol):
    """A clinic's side of a recipe, holding what it prepared from its own samples."""

    @property
    def not_finite(self) -> int:
        """Patients whose part of the last contribution was NaN or infinite and became zeros.

        Each patient counts once, however many images and local steps it was in. The number is
        exact: it is for the clinic's own log and never leaves the clinic.
        """

    def contribute(
        self, round_: Round, query: Arrays, mechanism: Mechanism, sampling: np.random.Generator
    ) -> Arrays:
        """Compute what leaves the clinic in one round.

        Args:
            round_: Which round.
            query: What the coordinator sent.
            mechanism: Adds this clinic's part of the noise.
            sampling: The clinic's secret stream for sampling patients, fresh for this release.

        Returns:
            One array for each of the round's releases, under the release's name.
        """


class Learner(Protocol):
    """A recipe: the coordinator's side, and how to open a clinic's side."""

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The whole schedule, known before the first round."""

    def start(self) -> Arrays:
        """Make the coordinator's state before the first round."""

    def query(self, round_: Round, state: Arrays) -> Arrays:
        """Choose what the clinics are sent."""

    def contributor(self, samples: Samples) -> Contributor:
        """Open a clinic's side on its training samples.

        Args:
            samples: The clinic's training samples; they never leave the contributor.
        """

    def advance(self, round_: Round, state: Arrays, total: Arrays, num_clinics: int) -> Arrays:
        """Take the sums of all clinics into the state."""

    def model(self, state: Arrays) -> Arrays:
        """Read the model's arrays from the final state."""
