"""One patient's bound, whatever the patient's data are (pitfalls P5 and P9)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skinml.errors import ConfigError
from skinml.privacy.clipping import (
    class_bounds,
    clip_factors,
    clip_factors_by_class,
    clip_rows,
    mean_by_patient,
    modal_labels,
)

ANY = st.floats(allow_nan=True, allow_infinity=True)
ROUNDING = 1 + 1e-9


def matrices(dtype=np.float64, elements=ANY):
    shape = st.tuples(st.integers(0, 6), st.integers(1, 5))
    return hnp.arrays(dtype, shape, elements=elements)


@settings(deadline=None)
@given(matrices(), st.floats(1e-6, 1e6))
def test_no_row_passes_the_bound(rows, bound):
    clipped = clip_rows(rows, bound)
    assert np.isfinite(clipped).all()
    assert (np.linalg.norm(clipped, axis=1) <= bound * ROUNDING).all()


@settings(deadline=None)
@given(matrices(np.float32, st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_no_single_precision_row_passes_the_bound(rows):
    assert (np.linalg.norm(clip_rows(rows, 0.5), axis=1) <= 0.5 * ROUNDING).all()


@settings(deadline=None)
@given(matrices(elements=st.floats(-1e9, 1e9)))
def test_a_row_keeps_its_direction_and_short_rows_stay(rows):
    clipped = clip_rows(rows, 1.0)
    norms = np.linalg.norm(rows, axis=1)
    short = norms <= 1
    assert np.array_equal(clipped[short], rows[short])
    expected = rows[~short] / norms[~short, None]
    np.testing.assert_allclose(clipped[~short], expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([np.nan, 1.0], [0.0, 0.0]),
        ([np.inf, 1.0], [0.0, 0.0]),
        ([-np.inf, np.inf], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([1e30, 0.0], [2.0, 0.0]),
        ([0.0, -1e300], [0.0, 0.0]),  # its norm is infinite in double precision
        ([1e-320, 0.0], [1e-320, 0.0]),
    ],
)
def test_hostile_rows_contribute_zeros_and_leave_the_others_alone(row, expected):
    """P5: one bad image neither ends the run nor shows that it exists."""
    honest = [0.6, 0.8]
    clipped = clip_rows(np.array([honest, row, honest]), 2.0)
    np.testing.assert_allclose(clipped, [honest, expected, honest], rtol=1e-12)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf])
def test_a_bound_that_bounds_nothing_is_refused(bound):
    with pytest.raises(ConfigError, match="clip_norm"):
        clip_factors(np.ones(2), bound)


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.integers(0, 20), elements=ANY))
def test_factors_shrink_and_never_stretch(norms):
    factors = clip_factors(np.abs(norms), 0.5)
    assert ((factors >= 0) & (factors <= 1)).all()


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8))
def test_bounds_of_classes_are_in_proportion_and_together_the_whole(bound, weights):
    bounds = class_bounds(bound, weights)
    assert np.linalg.norm(bounds) == pytest.approx(bound, rel=1e-12)
    np.testing.assert_allclose(bounds / bounds[0], np.array(weights) / weights[0], rtol=1e-9)


@settings(deadline=None)
@given(matrices(), st.floats(1e-3, 1e3))
def test_each_column_is_shrunk_to_its_own_bound_and_hostile_rows_to_nothing(norms, bound):
    norms = np.abs(norms)
    bounds = class_bounds(bound, np.arange(1.0, norms.shape[1] + 1))
    factors = clip_factors_by_class(norms, bounds)
    honest = np.isfinite(norms).all(axis=1)
    assert not factors[~honest].any()
    shortened = norms[honest] * factors[honest]
    np.testing.assert_allclose(shortened, np.minimum(norms[honest], bounds), rtol=1e-11)


@pytest.mark.parametrize("copies", [1, 2, 6, 16])
def test_copies_of_a_patients_images_change_nothing(copies):
    """P9: replicated images buy no more weight."""
    rng = np.random.default_rng(0)
    rows, patients = rng.normal(size=(6, 4)), np.array(list("aabccc"))
    mine = patients == "c"
    more = np.concatenate([rows] + [rows[mine]] * (copies - 1))
    ids = np.concatenate([patients] + [patients[mine]] * (copies - 1))
    labels = np.array([0, 1, 1, 1, 1, 0])
    repeated = np.concatenate([labels] + [labels[mine]] * (copies - 1))
    malignant = np.array([False, True])
    means, position = mean_by_patient(rows, patients)
    again, where = mean_by_patient(more, ids)
    np.testing.assert_allclose(again, means, rtol=1e-12)
    assert np.array_equal(
        modal_labels(repeated, where, malignant), modal_labels(labels, position, malignant)
    )


def test_the_mean_by_patient_is_the_mean_by_patient():
    rng = np.random.default_rng(1)
    rows, patients = rng.normal(size=(40, 3)), rng.choice(list("zyxw"), 40)
    means, position = mean_by_patient(rows, patients)
    for place, name in enumerate(sorted(set(patients))):
        np.testing.assert_allclose(means[place], rows[patients == name].mean(axis=0))
        assert set(patients[position == place]) == {name}


def test_a_patient_with_a_broken_image_breaks_nobody_else():
    rows = np.array([[1.0, 0.0], [np.nan, 0.0], [0.0, 1.0]])
    means, _ = mean_by_patient(rows, np.array(["a", "b", "c"]))
    assert clip_rows(means, 1.0).tolist() == [[1, 0], [0, 0], [0, 1]]


def test_no_patients_give_no_rows():
    means, position = mean_by_patient(np.zeros((0, 3)), np.array([], dtype=str))
    assert means.shape == (0, 3)
    labels = modal_labels(np.zeros(0, int), position, np.array([False, True]))
    assert labels.shape == (0,)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 1], 0),
        ([0, 1], 1),  # a tie with a malignant class
        ([0, 2], 2),
        ([0, 3], 0),  # a tie of two benign ones: the first
        ([2, 1], 1),  # a tie of two malignant ones: the first
        ([3, 3, 0, 0, 1], 0),  # one malignant image is no tie with two
        ([3], 3),
    ],
)
def test_ties_of_labels_go_to_malignant_then_to_the_first(labels, expected):
    malignant = np.array([False, True, True, False])
    chosen = modal_labels(np.array(labels), np.zeros(len(labels), np.intp), malignant)
    assert chosen.tolist() == [expected]
