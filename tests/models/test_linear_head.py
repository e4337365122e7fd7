"""The linear head: bounded inputs, probabilities, decisions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax as scipy_softmax

from skinml.errors import DataError
from skinml.models.linear_head import LinearHead, head_inputs, item_features, softmax

# Below the least normal number a float32 has no digits left to be made brighter or darker.
finite = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
view_features = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=finite
)


@given(view_features)
def test_an_items_norm_is_the_root_of_its_share_of_views_that_are_not_zero(features):
    norms = np.linalg.norm(item_features(features), axis=1)
    shares = (features != 0).any(axis=2).mean(axis=1)
    np.testing.assert_allclose(norms, np.sqrt(shares), atol=1e-5)


@given(view_features, st.floats(1, 100))
def test_brightness_of_a_view_does_not_count(features, factor):
    np.testing.assert_allclose(
        item_features(features), item_features(features * np.float32(factor)), atol=1e-3
    )


def test_roots_keep_the_sign_and_views_stand_behind_one_another():
    got = item_features(np.array([[[4.0, 0.0], [-9.0, 16.0]]]))
    expected = np.array([[1.0, 0.0, -0.6, 0.8]]) / np.sqrt(2)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got.dtype == np.float32


def test_a_zero_row_stays_zero():
    assert not item_features(np.zeros((2, 3, 4), np.float32)).any()


def test_no_items_give_no_rows():
    assert item_features(np.zeros((0, 2, 4), np.float32)).shape == (0, 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_by_their_number(bad):
    features = np.ones((3, 1, 2))
    features[1, 0, 1] = bad
    with pytest.raises(DataError, match="num_items_with_nan_or_infinity=1"):
        item_features(features)


@pytest.mark.parametrize("shape", [(3, 4), (3, 0, 4), (3, 1, 0), (2, 2, 2, 2)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match="shape="):
        item_features(np.ones(shape))


@given(hnp.arrays(np.float32, (5, 3), elements=st.floats(-1, 1, width=32)))
def test_head_inputs_have_norm_one_beside_the_constant(features):
    centre = np.array([0.1, 0.0, -0.2])
    inputs = head_inputs(features, centre, bias_input=0.5)
    np.testing.assert_allclose(np.linalg.norm(inputs[:, :3], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(inputs[:, 3], 0.5)


def test_a_row_at_the_centre_leaves_the_constant_only():
    assert head_inputs(np.ones((1, 2)), np.ones(2), 0.25).tolist() == [[0.0, 0.0, 0.25]]


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    return LinearHead(rng.normal(size=4), rng.normal(size=(5, 3)), np.array([3.0, 0.0, -3.0]))


def test_probabilities_are_the_formula_written_out(head):
    features = np.random.default_rng(1).normal(size=(6, 4))
    rows = []
    for feature in features:
        direction = (feature - head.centre) / np.linalg.norm(feature - head.centre)
        rows.append(np.append(direction, 0.1) @ head.weight)
    scores = np.array(rows)
    np.testing.assert_allclose(
        head.probabilities(features), scipy_softmax(scores + head.offset, axis=1), atol=1e-6
    )
    assert head.probabilities(features).dtype == np.float64
    assert head.decisions(features).tolist() == scores.argmax(axis=1).tolist()


def test_decisions_leave_the_prior_out(head):
    features = np.random.default_rng(2).normal(size=(50, 4))
    assert (head.decisions(features) != head.probabilities(features).argmax(axis=1)).any()


def test_features_of_another_width_are_refused(head):
    with pytest.raises(DataError, match=r"shape=\(2, 7\)"):
        head.probabilities(np.ones((2, 7)))


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(DataError, match="shapes="):
        LinearHead(np.zeros(4), np.zeros((4, 3)), np.zeros(3))


def test_softmax_takes_scores_of_any_size():
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    np.testing.assert_allclose(softmax(logits), scipy_softmax(logits, axis=1))


@pytest.mark.parametrize("num_classes", [2, 7, 8])
@pytest.mark.parametrize("num_items", [3, 40, 301])
def test_no_item_moves_anothers_scores_in_one_bit(num_classes, num_items):
    """Blocked products round the last rows otherwise; counts of patients by score are released."""
    rng = np.random.default_rng(num_items)
    features = rng.normal(size=(num_items, 513)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    weight = rng.normal(size=(514, num_classes)).astype(np.float32)
    head = LinearHead(rng.normal(size=513) / 20, weight, np.zeros(num_classes))
    together = head.logits(features)
    alone = [head.logits(row[None])[0] for row in features]
    assert np.array_equal(together, alone)
    for left_out in (0, num_items // 2, num_items - 1):
        kept = np.arange(num_items) != left_out
        assert np.array_equal(head.logits(features[kept]), together[kept])


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-3, 1.0, 1e30])
def test_scores_are_those_of_double_precision_at_any_scale_of_the_weights(scale):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(50, 64)).astype(np.float32)
    weight = (scale * rng.normal(size=(65, 3))).astype(np.float32)
    centre = rng.normal(size=64)
    expected = head_inputs(features, centre).astype(np.float64) @ weight.astype(np.float64)
    got = LinearHead(centre, weight, np.zeros(3)).logits(features)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * scale + 1e-44)


def test_weights_that_are_not_finite_give_scores_that_are_not():
    weight = np.full((3, 2), np.nan, np.float32)
    got = LinearHead(np.zeros(2), weight, np.zeros(2)).logits(np.ones((1, 2), np.float32))
    assert not np.isfinite(got).any()
