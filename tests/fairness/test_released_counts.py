"""Figures from noised counts: what one patient moves, oracles without noise, coverage with it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import isqrt

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score, roc_auc_score

from skinml.errors import ConfigError, DataError
from skinml.fairness.count_tables import (
    BINS,
    NoisyTable,
    group_tables,
    layout_of,
    patient_table,
)
from skinml.fairness.intervals import wilson
from skinml.fairness.released_counts import (
    NOT_COUNTED,
    OFF_EDGE,
    ONE_KIND,
    TOO_NOISY,
    counted_results,
    estimates_of,
)
from skinml.fairness.settings import FairnessSettings
from skinml.records import Labels, Predictions

CLASSES = Labels(("benign", "malignant"), (False, True))
THREE = Labels(("nevus", "melanoma", "carcinoma"), (False, True, True))
SETTINGS = FairnessSettings()
LAYOUT = layout_of({"skin_tone": ("light", "dark"), "sex": ("female", "male", "other")})
UNITS = 2**20


def predictions(scores, malignant, patients=None, **groups) -> Predictions:
    scores, labels = np.asarray(scores, float), np.asarray(malignant, int)
    names = np.arange(len(scores)).astype(str) if patients is None else np.asarray(patients, str)
    groups = {name: np.asarray(values, str) for name, values in groups.items()}
    both = np.stack([1 - scores, scores], axis=1)
    return Predictions(CLASSES, labels, both, (scores > 0.5).astype(int), names, groups)


def cohort(rng, patients=40, unheard=True) -> Predictions:
    """Patients with one to five items that differ in score, truth and even in group."""
    ids = np.repeat(np.arange(patients), rng.integers(1, 6, patients)).astype(str)
    n = len(ids)
    tones = ["light", "dark", "unknown"] + (["a clinic's own word"] if unheard else [])
    return predictions(
        rng.random(n),
        rng.random(n) < 0.4,
        ids,
        skin_tone=rng.choice(tones, n),
        sex=rng.choice(["female", "male", "other"], n),
    )


def without(made: Predictions, patient: str) -> Predictions:
    keep = made.patients != patient
    return Predictions(
        made.classes,
        made.labels[keep],
        made.probabilities[keep],
        made.decisions[keep],
        made.patients[keep],
        {name: values[keep] for name, values in made.groups.items()},
    )


@pytest.mark.parametrize("seed", range(5))
def test_removing_any_patient_moves_the_table_by_at_most_its_bound(seed):
    """T0 on neighbouring cohorts: L1 by attribute, L2 over all cells together, in integers."""
    made = cohort(np.random.default_rng(seed))
    columns = len(LAYOUT.columns)
    units = isqrt(2**56 // columns)
    whole = patient_table(made, LAYOUT, units)
    starts = np.cumsum([0, *(len(names) for _, names in LAYOUT.columns)])
    for patient in np.unique(made.patients):
        moved = (whole - patient_table(without(made, patient), LAYOUT, units)).astype(object)
        assert (moved >= 0).all()
        for first, last in pairwise(starts):
            assert units - 5 <= moved[first:last].sum() <= units
        assert (moved**2).sum() <= 2**56


def test_a_patient_with_one_item_moves_the_table_by_all_of_the_bound():
    """Nothing of the budget is left unused, and a greater weight would pass it."""
    one = predictions([0.3], [1], skin_tone=["dark"], sex=["male"])
    moved = patient_table(one, LAYOUT, isqrt(2**56 // 2)).astype(object)
    assert 0.999999 < (moved**2).sum() / 2**56 <= 1


def test_a_patients_cells_do_not_depend_on_the_others():
    rng = np.random.default_rng(3)
    made = cohort(rng)
    alone = [
        patient_table(without_all_but(made, patient), LAYOUT, UNITS)
        for patient in np.unique(made.patients)
    ]
    assert (np.sum(alone, axis=0) == patient_table(made, LAYOUT, UNITS)).all()


def without_all_but(made, patient):
    for other in np.unique(made.patients):
        if other != patient:
            made = without(made, other)
    return made


def test_words_outside_the_public_vocabulary_count_as_unknown():
    made = predictions([0.9, 0.1], [1, 0], skin_tone=["mauve", "light"], sex=["male", ""])
    table = patient_table(made, LAYOUT, 1)
    assert LAYOUT.groups[2] == ("skin_tone", "unknown")
    assert table[2].sum() == 1
    assert table[-1].sum() == 1
    assert patient_table(predictions([0.9], [1]), LAYOUT, 1)[2, 1, 14] == 1


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf, -0.1, 1.0, 1.1])
def test_no_score_makes_the_count_fail_or_lose_a_patient(score):
    assert patient_table(predictions([score], [1]), LAYOUT, 7).sum() == 14


def test_tables_of_clinics_add_up_to_the_pooled_table():
    rng = np.random.default_rng(0)
    made = cohort(rng)
    first = np.isin(made.patients, np.unique(made.patients)[::2])
    parts = [made, made]
    for place, mask in enumerate((first, ~first)):
        for patient in np.unique(made.patients[~mask]):
            parts[place] = without(parts[place], patient)
    sums = sum(patient_table(part, LAYOUT, UNITS) for part in parts)
    assert (sums == patient_table(made, LAYOUT, UNITS)).all()


@pytest.mark.parametrize("threshold", [3 / 16, 0.5, 11 / 16])
def test_without_noise_the_figures_are_those_of_scikit_learn_on_binned_scores(threshold):
    rng = np.random.default_rng(4)
    truth = rng.random(600) < 0.3
    scores = np.where(
        truth, beta(3, 2).rvs(600, random_state=1), beta(2, 3).rvs(600, random_state=2)
    )
    table = patient_table(predictions(scores, truth), layout_of({}), 1)[0].astype(float)
    found = estimates_of(NoisyTable(table, 0.0), threshold, CLASSES, SETTINGS)
    alarms, binned = scores >= threshold, np.floor(scores * BINS)
    expected = {
        "auroc": roc_auc_score(truth, binned),
        "sensitivity": recall_score(truth, alarms),
        "specificity": recall_score(~truth, ~alarms),
        "ppv": precision_score(truth, alarms),
        "npv": precision_score(~truth, ~alarms),
        "balanced_accuracy": balanced_accuracy_score(truth, alarms),
        "observed_to_expected": truth.sum() / ((binned + 0.5) / BINS).sum(),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-9), name
    low, high = wilson(float((truth & alarms).sum()), float(truth.sum()))
    assert (found["sensitivity"].low, found["sensitivity"].high) == pytest.approx(
        (low, high), abs=1e-4
    )


def test_groups_without_noise_are_counted_exactly_and_noise_makes_them_agree():
    rng = np.random.default_rng(2)
    table = patient_table(cohort(rng), LAYOUT, 60).astype(float)
    everybody, groups = group_tables(table, LAYOUT, 0.0)
    assert np.allclose(everybody.counts, table[:3].sum(axis=0))
    assert np.allclose([each.counts for each in groups], table)
    noised = table + rng.normal(size=table.shape)
    everybody, groups = group_tables(noised, LAYOUT, 1.0)
    for part in (groups[:3], groups[3:]):
        assert np.allclose(sum(each.counts for each in part), everybody.counts)


def test_the_noise_of_joined_tables_is_what_they_say():
    rng = np.random.default_rng(6)
    drawn = [group_tables(rng.normal(size=LAYOUT.shape), LAYOUT, 1.0) for _ in range(150)]
    for pick in (lambda d: d[0], lambda d: d[1][0], lambda d: d[1][4]):
        seen = np.std([pick(each).counts for each in drawn])
        assert seen == pytest.approx(pick(drawn[0]).std, rel=0.06)
        assert pick(drawn[0]).std < 1.5


@pytest.mark.parametrize(
    ("counts", "threshold", "classes", "name", "reason"),
    [
        (np.full((2, BINS), 20.0), 0.3, CLASSES, "sensitivity", OFF_EDGE),
        (np.full((2, BINS), 20.0), 0.5, CLASSES, "ece", NOT_COUNTED),
        (np.full((2, BINS), 20.0), 0.5, THREE, "balanced_accuracy", NOT_COUNTED),
        (np.full((2, BINS), 20.0), 0.5, THREE, "auroc", NOT_COUNTED),
        (np.full((2, BINS), 20.0), 0.5, Labels(("a", "b"), (False, False)), "ppv", ONE_KIND),
        (np.full((2, BINS), 0.5), 0.5, CLASSES, "auroc", TOO_NOISY),
        (np.full((2, BINS), -2.0), 0.5, CLASSES, "specificity", TOO_NOISY),
        (np.zeros((2, BINS)), 0.5, CLASSES, "observed_to_expected", TOO_NOISY),
    ],
)
def test_what_the_counts_cannot_tell_is_undefined_and_says_why(
    counts, threshold, classes, name, reason
):
    found = estimates_of(NoisyTable(counts, 3.0), threshold, classes, SETTINGS)[name]
    assert (found.value, found.low, found.high, found.reason) == (None, None, None, reason)


def test_many_classes_keep_what_malignant_or_not_can_tell():
    found = estimates_of(NoisyTable(np.full((2, BINS), 40.0), 1.0), 0.5, THREE, SETTINGS)
    assert found["malignancy_auroc"].value == pytest.approx(0.5)
    assert found["sensitivity"].value == pytest.approx(0.5)


def test_negative_counts_stay_in_the_estimate_and_only_its_range_is_cut():
    counts = np.full((2, BINS), 10.0)
    counts[1, :8] = -1.0
    found = estimates_of(NoisyTable(counts, 2.0), 0.5, CLASSES, SETTINGS)["sensitivity"]
    assert found.value == found.high == 1.0
    assert 0.5 < found.low < 1.0
    shifted = counts.copy()
    shifted[1, 0], shifted[1, 1] = -6.0, 4.0  # the same sum: nothing was clipped before adding
    other = estimates_of(NoisyTable(shifted, 2.0), 0.5, CLASSES, SETTINGS)["sensitivity"]
    assert other == found


@pytest.mark.parametrize("wrong", [np.zeros((1, 2, 3)), np.full(LAYOUT.shape, np.nan)])
def test_counts_of_another_shape_or_not_finite_are_refused(wrong):
    with pytest.raises(DataError, match="finite counts of shape"):
        counted_results(wrong, LAYOUT, std=1.0, threshold=0.5, classes=CLASSES, settings=SETTINGS)


def test_no_units_and_no_bins_are_refused():
    with pytest.raises(ConfigError):
        patient_table(predictions([0.5], [1]), LAYOUT, 0)
    with pytest.raises(ConfigError):
        layout_of({}, bins=0)


def test_every_group_of_the_vocabulary_is_told_whether_anybody_is_in_it_or_not():
    overall, groups = counted_results(
        patient_table(predictions([0.2], [0]), LAYOUT, 1).astype(float),
        LAYOUT,
        std=2.0,
        threshold=0.5,
        classes=CLASSES,
        settings=SETTINGS,
    )
    assert [(each.attribute, each.group) for each in groups] == list(LAYOUT.groups)
    assert (overall.num_images, overall.num_patients) == (None, 1)
    assert overall.count_std > 0


LAWS = {  # scores of the benign and of the malignant
    "usual": (beta(1, 3), beta(3, 2)),
    "near zero": (beta(0.5, 6), beta(1, 2)),
    "weak": (beta(2, 3), beta(2.4, 2.6)),
    "sharp": (beta(1, 10), beta(8, 2)),
}


def true_figures(cells, alarm):
    """All figures of the law itself: cells (2, bins) of chances."""
    benign, malignant = cells
    middles = (np.arange(BINS) + 0.5) / BINS
    below = np.cumsum(benign) - benign / 2
    shares = {
        "sensitivity": malignant[alarm].sum() / malignant.sum(),
        "specificity": benign[~alarm].sum() / benign.sum(),
    }
    return shares | {
        "auroc": (malignant * below).sum() / (malignant.sum() * benign.sum()),
        "ppv": malignant[alarm].sum() / cells[:, alarm].sum(),
        "npv": benign[~alarm].sum() / cells[:, ~alarm].sum(),
        "balanced_accuracy": sum(shares.values()) / 2,
        "observed_to_expected": malignant.sum() / (middles @ (benign + malignant)),
    }


def covered(law, patients, prevalence, std, draws, seed=0):
    """For each figure how often its interval holds the truth, and how often there is one."""
    edges = np.linspace(0, 1, BINS + 1)
    parts = [np.diff(each.cdf(edges)) for each in LAWS[law]]
    cells = np.stack([(1 - prevalence) * parts[0], prevalence * parts[1]])
    edge = 3 if law == "near zero" else 8
    truth, rng = true_figures(cells, np.arange(BINS) >= edge), np.random.default_rng(seed)
    found = {name: [] for name in truth}
    for _ in range(draws):
        exact = rng.multinomial(patients, cells.ravel()).reshape(2, BINS)
        noised = exact + rng.normal(size=exact.shape) * std
        made = estimates_of(NoisyTable(noised, std), edge / BINS, CLASSES, SETTINGS)
        for name, value in truth.items():
            each = made[name]
            found[name].append(None if each.low is None else each.low <= value <= each.high)
    return found


def require_coverage(found, least):
    """Undefined claims nothing; where most draws make a claim, the claims alone must hold too."""
    for name, held in found.items():
        said = [each for each in held if each is not None]
        assert sum(each is not False for each in held) >= least * len(held), name
        if len(said) > len(held) / 2:
            assert sum(said) >= least * len(said), name


def test_intervals_hold_sampling_and_noise_together():
    require_coverage(covered("usual", 300, 0.3, 2.0, 40), 0.80)


def test_intervals_that_left_out_the_noise_would_be_seen():
    """The control: the same draws, told that the noise is smaller."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(60):
        counts = np.full((2, BINS), 10.0) + rng.normal(size=(2, BINS)) * 6
        made = estimates_of(NoisyTable(counts, 0.01), 0.5, CLASSES, SETTINGS)["sensitivity"]
        missed += made.low is not None and not made.low <= 0.5 <= made.high
    assert missed > 60 * 0.15


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("patients", [60, 300, 1500])
def test_nominal_95_percent_hold_at_least_92(law, patients):
    """400 draws for each share of malignancy and each noise; 0.92 over all, no one far below."""
    together: dict[str, list[bool | None]] = {}
    for prevalence in (0.2, 0.5):
        for std in (1.5, 4.0):
            found = covered(law, patients, prevalence, std, 400, seed=patients)
            # Of 336 shares of 400 draws some stray by four standard deviations of their own.
            require_coverage(found, 0.90)
            for name, held in found.items():
                together.setdefault(name, []).extend(held)
    require_coverage(together, 0.92)


def test_settings_choose_the_level():
    table = NoisyTable(np.full((2, BINS), 10.0), 1.0)
    wide = estimates_of(table, 0.5, CLASSES, SETTINGS)["auroc"]
    narrow = estimates_of(table, 0.5, CLASSES, FairnessSettings(level=0.8))["auroc"]
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
    assert replace(narrow, level=0.95) != wide
