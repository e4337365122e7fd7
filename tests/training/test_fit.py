"""The loop: every round once, in order, and nothing private in its history."""

from __future__ import annotations

import numpy as np
import pytest

from skinml.errors import IncompleteRunError
from skinml.privacy.plan import Release
from skinml.records import Labels, Samples
from skinml.training.evaluate import evaluate
from skinml.training.fit import Exchanged, fit
from skinml.training.learner import Round

RELEASES = (Release("a", "training", "train", 1.0, 1.0, (2,)),)


class Counting:
    """The smallest recipe: it adds up what it is told."""

    rounds = tuple(Round(number, "sum", RELEASES) for number in (1, 2, 3))

    def start(self):
        return {"total": np.zeros(2)}

    def query(self, round_, state):
        return {"total": state["total"], "number": np.array(round_.number)}

    def contributor(self, samples):
        raise NotImplementedError

    def advance(self, round_, state, total, num_clinics):
        return {"total": state["total"] + total["a"] / num_clinics}

    def model(self, state):
        return {"model": state["total"]}


def test_every_round_is_exchanged_once_in_order_with_the_state_of_the_last():
    seen = []

    def exchange(round_, query):
        seen.append((round_.number, query["total"].tolist(), int(query["number"])))
        return Exchanged({"a": np.array([2.0, 4.0])}, 2)

    fitted = fit(Counting(), exchange)
    assert seen == [(1, [0, 0], 1), (2, [1, 2], 2), (3, [2, 4], 3)]
    assert fitted.arrays["model"].tolist() == [3, 6]


def test_the_history_holds_functions_of_the_released_sums_only():
    """P14: two figures a round, which whoever saw the sums can compute."""
    sums = [np.array([3.0, 4.0]), np.array([0.0, 0.0]), np.array([5.0, 12.0])]
    heard = []
    fitted = fit(
        Counting(),
        lambda round_, query: Exchanged({"a": sums[round_.number - 1]}, 4),
        lambda number, figures: heard.append((number, figures)),
    )
    expected = [{"num_clinics": 4.0, "update_norm": norm} for norm in (5.0, 0.0, 13.0)]
    assert list(fitted.history) == expected
    assert heard == list(enumerate(expected, start=1))


def test_a_broken_exchange_breaks_the_fit():
    def exchange(round_, query):
        if round_.number == 2:
            raise IncompleteRunError(rule="all clinics", got="two", do="Mend it.")
        return Exchanged({"a": np.ones(2)}, 1)

    with pytest.raises(IncompleteRunError):
        fit(Counting(), exchange)


def test_no_samples_are_scored_without_asking_the_model():
    classes = Labels(("benign", "malignant"), (False, True))
    nobody = Samples(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0, str))

    def score(inputs):
        raise AssertionError("nobody is there to be scored")

    made = evaluate(score, classes, nobody)
    assert made.probabilities.shape == (0, 2)
    assert len(made) == 0
