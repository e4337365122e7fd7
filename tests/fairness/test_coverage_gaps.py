"""Simulations of what comparisons claim: how often a gap is shown where there is none.

A case fails only if the 99% lower Monte Carlo limit of that share is above 0.05.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest

from skinml.fairness.evaluation import evaluate_fairness
from skinml.fairness.settings import FairnessSettings, PrimaryComparison
from skinml.fairness.verdicts import RULED_OUT, SHOWN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

# Shown by --log-file-level=INFO --log-file=FILE.
LOG = logging.getLogger(__name__)
SIMULATIONS = 2000
# Images and malignant ones of each group: DDI, and the six types in a fifth of Fitzpatrick17k.
DDI = {"1-2": (208, 49), "3-4": (241, 74), "5-6": (207, 48)}
FITZPATRICK = {
    "I": (589, 91),
    "II": (962, 148),
    "III": (662, 91),
    "IV": (556, 60),
    "V": (307, 29),
    "VI": (127, 12),
}
# So many that of 17 comparisons one can be below 0.05 after correction.
OPTIONS = FairnessSettings(
    replicates=800, null_draws=400, groups=("skin_tone",), primary=PrimaryComparison()
)


def cohort(make, rng, sizes, *, images=1, icc=0.0, drop=0.0):
    """One truth a patient; scores alike in all groups, but for the drop in the last one."""
    tone = np.repeat(list(sizes), [num for num, _ in sizes.values()])
    malignant = np.concatenate([np.arange(num) < events for num, events in sizes.values()])
    patient = np.repeat(np.arange(len(tone)), images)
    tone, malignant = tone[patient], malignant[patient]
    latent = np.sqrt(icc) * rng.normal(size=patient[-1] + 1)[patient]
    latent += np.sqrt(1 - icc) * rng.normal(size=len(patient))
    apart = np.where(tone == list(sizes)[-1], 1.6 - drop, 1.6)
    scores = expit(latent + apart * (malignant - 0.5))
    return make.binary(scores, malignant, patient.astype(str), {"skin_tone": tone})


def claims(make, sizes, simulations=SIMULATIONS, **how):
    """Of the primary comparison and of the family, how often a gap is shown somewhere."""
    rng = np.random.default_rng(29)
    primary, family, ruled_out = [], [], []
    for _ in range(simulations):
        made = cohort(make, rng, sizes, **how)
        found = evaluate_fairness(made, threshold=0.5, settings=OPTIONS, rng=rng, figures=()).gaps
        every = (*found.gaps, *found.spreads)
        primary.append(any(each.verdict == SHOWN for each in every if each.primary))
        family.append(any(each.verdict == SHOWN for each in every if not each.primary))
        ruled_out.append(any(each.verdict == RULED_OUT for each in every))
    return {"primary": primary, "family": family, "ruled out": ruled_out}


def require_rare(shown):
    lower = binomtest(sum(shown), len(shown)).proportion_ci(0.98).low
    assert lower <= 0.05, f"shown in {np.mean(shown):.4f} of {len(shown)}"


@pytest.mark.parametrize(
    ("sizes", "how"),
    [(DDI, {}), (DDI, {"images": 3, "icc": 0.5}), (FITZPATRICK, {})],
    ids=["DDI", "DDI, three images a patient", "Fitzpatrick17k"],
)
def test_no_gap_is_shown_where_there_is_none(make, sizes, how):
    found = claims(make, sizes, **how)
    for name, shown in found.items():
        LOG.info("%s of %s %s: %.4f", name, list(sizes), how, np.mean(shown))
    require_rare(found["primary"])
    require_rare(found["family"])
    # And so few patients rule nothing out either.
    assert np.mean(found["ruled out"]) < 0.05


def test_a_great_gap_is_shown_at_the_sizes_of_ddi(make):
    found = claims(make, DDI, simulations=100, drop=1.3)
    assert np.mean(found["primary"]) > 0.9


def test_a_rule_without_correction_would_fail_this_suite(make):
    """The control: of nine uncorrected p-values one is below 0.05 far more often."""
    rng = np.random.default_rng(31)
    shown = []
    for _ in range(200):
        found = evaluate_fairness(
            cohort(make, rng, FITZPATRICK), threshold=0.5, settings=OPTIONS, rng=rng, figures=()
        ).gaps
        shown.append(any((each.p_value or 1) < 0.05 for each in found.gaps))
    assert np.mean(shown) > 0.15
