"""Who is in a noisy step: a patient's draw is the patient's own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from skinml.errors import ConfigError
from skinml.privacy.dpsgd_sampling import draw_sample, rows_by_patient

SECRET = bytes(range(32))
PATIENTS = np.array([f"patient {i % 200}" for i in range(900)])


def drawn(patients, *, step=0, prob=0.3, secret=SECRET, max_images=3):
    """Each sampled patient's images, counted within the patient, and the key of its views."""
    rows = rows_by_patient(patients)
    sample = draw_sample(rows, secret=secret, step=step, sampling_prob=prob, max_images=max_images)
    by_patient = {}
    for one in sample:
        (patient,) = {str(name) for name in patients[one.rows]}
        within = np.searchsorted(rows[patient], one.rows).tolist()
        by_patient[patient] = (within, one.key)
    return by_patient


def test_every_row_belongs_to_its_patient_once():
    rows = rows_by_patient(PATIENTS)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(900))
    assert all((PATIENTS[own] == name).all() for name, own in rows.items())
    assert rows_by_patient(PATIENTS[:0]) == {}


@pytest.mark.parametrize("step", [0, 1, 70])
@pytest.mark.parametrize("gone", ["patient 0", "patient 57", "patient 199"])
def test_without_one_patient_all_others_are_drawn_as_before(gone, step):
    """What the replay of neighbouring cohorts, and the independence of the draws, rest on."""
    whole, less = drawn(PATIENTS, step=step), drawn(PATIENTS[gone != PATIENTS], step=step)
    assert less == {patient: how for patient, how in whole.items() if patient != gone}
    assert 0 < len(less) < 199


def test_the_order_of_the_manifest_moves_nobodys_draw():
    order = np.random.default_rng(0).permutation(len(PATIENTS))
    assert drawn(PATIENTS).keys() == drawn(PATIENTS[order]).keys()


def test_another_step_or_secret_draws_another_sample():
    samples = [drawn(PATIENTS), drawn(PATIENTS, step=1), drawn(PATIENTS, secret=b"other")]
    assert len({tuple(sample) for sample in samples}) == 3
    assert drawn(PATIENTS) == samples[0]


@pytest.mark.parametrize("prob", [0.02, 0.3, 0.9])
def test_patients_are_drawn_with_the_planned_chance(prob):
    """P6: over 200 patients and 50 steps; level 1e-6."""
    hits = sum(len(drawn(PATIENTS, step=step, prob=prob)) for step in range(50))
    assert stats.binomtest(hits, 200 * 50, prob).pvalue > 1e-6


def test_two_patients_are_drawn_independently():
    """The joint draw of two patients over steps fits the product of their chances."""
    pairs = np.array(
        [
            [f"patient {i}" in drawn(PATIENTS[:2], step=s, prob=0.5) for i in (0, 1)]
            for s in range(2000)
        ]
    )
    both = int(pairs.all(axis=1).sum())
    assert stats.binomtest(both, 2000, 0.25).pvalue > 1e-6


def test_a_chance_of_one_takes_all_and_of_zero_nobody():
    assert len(drawn(PATIENTS, prob=1.0)) == 200
    assert drawn(PATIENTS, prob=0.0) == {}
    with pytest.raises(ConfigError):
        drawn(PATIENTS, prob=1.1)


def test_no_more_images_than_planned_and_each_has_the_same_chance():
    patients = np.array(["a"] * 7)
    counts = np.zeros(7)
    for step in range(2000):
        ((within, _),) = drawn(patients, step=step, prob=1.0, max_images=3).values()
        assert len(within) == len(set(within)) == 3
        counts[within] += 1
    assert stats.chisquare(counts).pvalue > 1e-6


def test_the_views_of_a_patient_have_a_stream_of_their_own():
    keys = [key for _, key in drawn(PATIENTS, prob=1.0).values()]
    assert len(set(keys)) == 200
