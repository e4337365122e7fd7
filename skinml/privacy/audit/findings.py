"""What audits found, as plain numbers: what a report and the command line show.

A finding is flagged where it contradicts the promise. A finding that is not flagged proves no
guarantee: audits find faults and cannot show that there are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Local steps leave as weights in single precision, whose last digits are about a part in 30,000 of
# a clip; the faults that matter here are of tenths of it. Sums on the grid need none of this.
ROUNDING = 1e-3
# How sure the limit that raises a flag is.
FLAG_CONFIDENCE = 0.999

Change = Literal["removed", "copied"]
"""What was done to one patient: all records taken out, or all images 16 times as many."""


@dataclass(frozen=True)
class ReplayFinding:
    """How far one kind of release moved when one patient's records changed (tier T0).

    Attributes:
        recipe: Which recipe ran: a name of `privacy.recipe`, or the network's.
        trust: The trust model.
        change: What was done to the patient.
        release: The release's name, such as "gradient"; "schedule" for what must be equal on both
            sides.
        num_compared: How many pairs of releases were compared, over rounds, steps and patients.
        distance: Greatest L2 distance between the two sides' exact releases; 0 for "schedule".
        sensitivity: What the release declares; 0 for "schedule".
        problem: What differed that must be equal, in words; empty where nothing did.
        note: What a reader must know of how the recipe was replayed, such as "public images
            drawn"; empty where there is nothing.
    """

    recipe: str
    trust: str
    change: Change
    release: str
    num_compared: int
    distance: float
    sensitivity: float
    problem: str = ""
    note: str = ""

    @property
    def flagged(self) -> bool:
        """Whether one patient moved the release by more than it declares, or moved the schedule."""
        # Written so that a distance that is no number is flagged.
        within = self.distance <= self.sensitivity * (1 + ROUNDING)
        return bool(self.problem) or not within


@dataclass(frozen=True)
class CanaryFinding:
    """What planted patients ("canaries") betrayed of themselves in one run (tiers T1 and T2).

    Attributes:
        tier: "T1" sees all releases, "T2" the final model alone.
        recipe: Which recipe ran.
        trust: The trust model.
        seen: What the attacker saw, such as "the sum over all clinics".
        num_canaries: Planted patients, about half of them in training.
        epsilon: What the ledger says a canary may lose; infinite without a promise.
        delta: Delta of every epsilon here.
        auc: How well the canaries' scores tell who was in; 0.5 is chance.
        one_run_bound: Lower bound of epsilon by Steinke, Nasr and Jagielski 2023.
        refined_bound: Its refinement by Mahloujifar, Melis and Chaudhuri 2024, for Gaussians.
        estimate: Epsilon of the Gaussian mechanism that fits the scores best; NaN for T2, where
            nothing makes the scores Gaussian.
        lower_limit: The limit that raises the flag, at `confidence`: of the Gaussian fit for T1,
            of the one-run bound for T2.
        bound_confidence: How sure the two bounds are.
        confidence: How sure the lower limit is.
    """

    tier: Literal["T1", "T2"]
    recipe: str
    trust: str
    seen: str
    num_canaries: int
    epsilon: float
    delta: float
    auc: float
    one_run_bound: float
    refined_bound: float
    estimate: float
    lower_limit: float
    bound_confidence: float = 0.95
    confidence: float = FLAG_CONFIDENCE

    @property
    def flagged(self) -> bool:
        """Whether even the lower limit lies above what the ledger says."""
        return self.lower_limit > self.epsilon


@dataclass(frozen=True)
class NotAudited:
    """A part of an audit that did not run.

    Attributes:
        tier: Which tier.
        what: What would have been audited, such as "recipe head, trust central".
        why: Why it was not, a whole sentence.
    """

    tier: str
    what: str
    why: str
