"""Comparisons of groups from noised counts: oracles without noise, claims with it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import beta, binomtest
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import confint_proportions_2indep

from skinml.fairness.count_tables import BINS, NoisyTable, layout_of
from skinml.fairness.counted_gaps import counted_gaps
from skinml.fairness.released_counts import estimates_of
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.verdicts import CANNOT_TELL, SHOWN
from skinml.records import Labels

# Shown by --log-file-level=INFO --log-file=FILE.
LOG = logging.getLogger(__name__)
CLASSES = Labels(("benign", "malignant"), (False, True))
NAMES = ("1-2", "3-4", "5-6")
LAYOUT = layout_of({"skin_tone": NAMES})
OPTIONS = FairnessSettings(groups=("skin_tone",), null_draws=200, reference={"skin_tone": "3-4"})
BENIGN, MALIGNANT = (
    np.diff(law.cdf(np.linspace(0, 1, BINS + 1))) for law in (beta(1, 3), beta(3, 2))
)


def drawn(rng, sizes, law=MALIGNANT, worse=None):
    """(4, 2, bins) patients of three tones and of nobody knows which; the last may differ."""
    table = np.zeros(LAYOUT.shape)
    for place, (benign, malignant) in enumerate(sizes):
        own = worse if worse is not None and place == len(sizes) - 1 else law
        table[place, 0] = rng.multinomial(benign, BENIGN)
        table[place, 1] = rng.multinomial(malignant, own)
    return table


def gaps_of(table, std, options=OPTIONS, seed=0, threshold=0.5, classes=CLASSES):
    return counted_gaps(
        table,
        LAYOUT,
        std=std,
        threshold=threshold,
        classes=classes,
        settings=options,
        rng=np.random.default_rng(seed),
    )


SIZES = [(159, 49), (167, 74), (159, 48)]


def test_without_noise_differences_are_newcombes_and_those_of_scikit_learn():
    table = drawn(np.random.default_rng(0), SIZES)
    found = {(gap.metric, gap.group): gap for gap in gaps_of(table, 0.0).gaps}
    hits = table[:, 1, BINS // 2 :].sum(axis=1)
    for place, name in ((0, "1-2"), (2, "5-6")):
        gap = found["sensitivity", name].difference
        low, high = confint_proportions_2indep(
            hits[place], SIZES[place][1], hits[1], SIZES[1][1], compare="diff", method="newcomb"
        )
        assert gap.value == pytest.approx(hits[place] / SIZES[place][1] - hits[1] / SIZES[1][1])
        assert (gap.low, gap.high) == pytest.approx((low, high), abs=2e-4)
    middles = np.tile(np.arange(BINS), 2)
    truth = np.repeat([0, 1], BINS)
    areas = [roc_auc_score(truth, middles, sample_weight=each.ravel()) for each in table[:3]]
    assert found["auroc", "5-6"].difference.value == pytest.approx(areas[2] - areas[1])


def test_noise_widens_and_its_draws_by_chance_have_it_too():
    table = drawn(np.random.default_rng(1), [(900, 300)] * 3)
    clear, noisy = gaps_of(table, 0.0), gaps_of(table, 6.0)
    for one, two in zip(clear.gaps, noisy.gaps, strict=True):
        width = two.difference.high - two.difference.low
        assert width > 1.05 * (one.difference.high - one.difference.low)
        assert two.detectable > one.detectable
    for one, two in zip(clear.spreads, noisy.spreads, strict=True):
        assert two.null.mean > 1.05 * one.null.mean


def test_what_noise_drowns_has_no_gap_and_says_so():
    found = gaps_of(drawn(np.random.default_rng(2), [(40, 12)] * 3), 30.0)
    assert {gap.verdict for gap in found.gaps} == {CANNOT_TELL}
    assert any("too few patients beside the noise" in gap.reason for gap in found.gaps)


def test_a_great_gap_is_shown_through_noise():
    weak = np.diff(beta(2, 4).cdf(np.linspace(0, 1, BINS + 1)))
    rng = np.random.default_rng(3)
    table = drawn(rng, [(2000, 700)] * 3, worse=weak)
    found = gaps_of(table + 4 * rng.normal(size=table.shape), 4.0)
    shown = {(gap.metric, gap.group) for gap in found.gaps if gap.verdict == SHOWN}
    assert {("auroc", "5-6"), ("sensitivity", "5-6")} <= shown
    assert not any(group == "1-2" for _, group in shown)


def test_unknown_tones_are_not_compared_and_other_attributes_are_named():
    found = gaps_of(
        drawn(np.random.default_rng(4), SIZES),
        1.0,
        OPTIONS.model_copy(update={"groups": ("skin_tone", "sex")}),
    )
    assert {gap.group for gap in found.gaps} == {"1-2", "5-6"}
    assert "sex" in found.not_compared


def test_a_threshold_off_the_bins_leaves_only_what_needs_none():
    found = gaps_of(drawn(np.random.default_rng(5), SIZES), 1.0, threshold=0.31)
    assert {gap.metric for gap in found.gaps} == {"auroc"}
    assert "sensitivity" in found.not_compared


def test_classes_of_one_kind_are_not_compared():
    kind = Labels(("a", "b"), (False, False))
    assert gaps_of(drawn(np.random.default_rng(6), SIZES), 1.0, classes=kind).gaps == ()


def noise_multiplier(epsilon, delta):
    """Balle and Wang 2018: the least noise of a Gaussian release of sensitivity 1."""

    def spent(sigma):
        return ndtr(1 / (2 * sigma) - epsilon * sigma) - np.exp(epsilon) * ndtr(
            -1 / (2 * sigma) - epsilon * sigma
        )

    return brentq(lambda sigma: spent(sigma) - delta, 0.1, 50)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("sources", [1, 10])
@pytest.mark.parametrize("num_positives", [12, 48, 200])
def test_at_epsilon_1_intervals_hold_the_truth(num_positives, sources):
    """2,000 releases of two attributes; an interval of everything is no claim."""
    std = noise_multiplier(1.0, 1e-5) * np.sqrt(2 * sources)
    rng = np.random.default_rng(num_positives + sources)
    edge = BINS // 2
    truth = {
        "sensitivity": MALIGNANT[edge:].sum(),
        "specificity": BENIGN[:edge].sum(),
        "auroc": MALIGNANT @ (np.cumsum(BENIGN) - BENIGN / 2),
    }
    held: dict[str, list[bool]] = {name: [] for name in truth}
    simulations = 2000
    for _ in range(simulations):
        counts = np.stack(
            [rng.multinomial(4 * num_positives, BENIGN), rng.multinomial(num_positives, MALIGNANT)]
        )
        table = NoisyTable(counts + std * rng.normal(size=counts.shape), std)
        found = estimates_of(table, 0.5, CLASSES, OPTIONS)
        for name, value in truth.items():
            if found[name].low is not None:
                held[name].append(found[name].low <= value <= found[name].high)
    bound = 0.90 if num_positives < 30 else 0.93
    for name, each in held.items():
        share = np.mean(each) if each else np.nan
        LOG.info(
            "%s, %d positives, %d sources, noise %.1f: %.4f of %d",
            name, num_positives, sources, std, share, len(each),
        )  # fmt: skip
    for name, each in held.items():
        silent = simulations - len(each)
        upper = binomtest(sum(each) + silent, simulations).proportion_ci(0.98).high
        assert upper >= bound, f"{name} held {sum(each)} of {len(each)}, {silent} undefined"
        if len(each) > simulations / 2:
            assert binomtest(sum(each), len(each)).proportion_ci(0.98).high >= bound, name


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_gap_is_shown_through_noise_where_there_is_none():
    """DDI's sizes three times over, 2,000 releases at epsilon 3 of one attribute."""
    std = noise_multiplier(3.0, 1e-5)
    rng = np.random.default_rng(11)
    sizes = [(3 * benign, 3 * malignant) for benign, malignant in SIZES]
    primary, family = [], []
    for _ in range(2000):
        table = drawn(rng, sizes)
        noised = table + std * rng.normal(size=table.shape)
        found = gaps_of(noised, std, seed=int(rng.integers(2**31)))
        every = (*found.gaps, *found.spreads)
        primary.append(any(each.verdict == SHOWN for each in every if each.primary))
        family.append(any(each.verdict == SHOWN for each in every if not each.primary))
    LOG.info("noise %.1f: primary %.4f, family %.4f", std, np.mean(primary), np.mean(family))
    for shown in (primary, family):
        assert binomtest(sum(shown), len(shown)).proportion_ci(0.98).low <= 0.05
