"""Simulated comparisons of arms: how often noise is said to fall harder where it falls alike.

What a run draws by chance moves each group's figure in its own way, so that seeds differ in the
gap; on average over seeds both groups lose alike. A case fails only if the 99% lower Monte Carlo
limit of a false answer's share is above 0.05.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest, norm

from skinml.fairness.arms import ArmRuns, compare_arms
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.verdicts import RULED_OUT, SHOWN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

# Shown by --log-file-level=INFO --log-file=FILE.
LOG = logging.getLogger(__name__)
SIMULATIONS = 2000
OPTIONS = FairnessSettings(replicates=300, reference={"skin_tone": "4-5"}, margin=0.05)
APART = 1.6
# Patients of each group: the test patients of derm_tone, half of them malignant, and many.
FEW, MANY = {"0-2": 90, "4-5": 190}, {"0-2": 700, "4-5": 700}


def simulated(make, rng, sizes, *, private=2, seeds=3, luck=0.25, cost=0.0):
    """An arm without noise, and arms whose every run shifts each group's malignant scores anew.

    Args:
        luck: Standard deviation of that shift, in units of the scores' spread.
        cost: How much lower malignant scores of the first group are in the private arms.
    """
    dark = np.repeat([True, False], list(sizes.values()))
    malignant = np.arange(len(dark)) % 2 == 0
    seen = APART * malignant + rng.normal(size=len(dark))
    tone = np.where(dark, *sizes)

    def run(shift, noise):
        scores = seen + malignant * shift + noise * rng.normal(size=len(dark))
        return make.binary(expit(scores - 1), malignant, None, {"skin_tone": tone})

    bare = run(0.0, 0.0)
    arms = [ArmRuns("none", tuple(range(seeds)), (bare,) * seeds, (0.5,) * seeds)]
    for number in range(private):
        shifts = [np.where(dark, *rng.normal(0, luck, 2)) - cost * dark for _ in range(seeds)]
        runs = tuple(run(shift, 0.3) for shift in shifts)
        arms.append(ArmRuns(f"arm {number}", tuple(range(seeds)), runs, (0.5,) * seeds))
    return compare_arms(arms, attributes=["skin_tone"], settings=OPTIONS, rng=rng)


def shares(make, sizes, answer, simulations=SIMULATIONS, **how):
    """In how many simulations the gap's change got an answer in some arm."""
    rng = np.random.default_rng(41)
    given = [
        any(each.verdict == answer for each in found.changes if each.question == "gap")
        for found in (simulated(make, rng, sizes, **how) for _ in range(simulations))
    ]
    LOG.info("%s at %s, %s: %.4f", answer, sizes, how, np.mean(given))
    return given


def require_rare(given):
    lower = binomtest(sum(given), len(given)).proportion_ci(0.98).low
    assert lower <= 0.05, f"answered so in {np.mean(given):.4f} of {len(given)}"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_noise_that_falls_alike_is_not_said_to_fall_harder_on_one_group(make, seeds):
    require_rare(shares(make, FEW, SHOWN, seeds=seeds))


def test_a_cost_as_large_as_the_margin_is_not_ruled_out(make):
    luck, noise = 0.05, 0.3
    spread = np.sqrt(2 * (1 + noise**2) + luck**2)
    both = norm.cdf(APART / spread)
    cost = APART - spread * norm.ppf(both - OPTIONS.margin)
    require_rare(shares(make, MANY, RULED_OUT, private=1, luck=luck, cost=cost))


def test_noise_that_falls_on_one_group_is_found(make):
    given = shares(make, MANY, SHOWN, simulations=100, luck=0.05, cost=0.7)
    assert np.mean(given) > 0.9


def test_one_seed_would_take_its_luck_for_the_noises_doing(make):
    """The control: the answer is then of these models, and says so."""
    given = shares(make, FEW, SHOWN, simulations=300, seeds=1)
    assert np.mean(given) > 0.1
