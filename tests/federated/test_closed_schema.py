"""What travels: exactly the planned things, checked by both sides."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from skinml.errors import (
    IncompleteRunError,
    IntegrityError,
)
from skinml.federated.clinic import Clinic
from skinml.federated.coordinator import exchange_with, grid_asker
from skinml.federated.messages import pack_request, unpack_reply

NAMES = ("north", "south", "studied")
RUN, ROUNDS, FEATURES = "run-1", 4, 5


@pytest.mark.parametrize(
    "asked",
    [
        {"run": "run-2"},
        {"number": 0},
        {"number": -1},
        {"number": ROUNDS + 3},
        {"participants": ("north", "studied")},
        {"participants": ("south",)},
        {"participants": (*NAMES, "newcomer")},
    ],
    ids=str,
)
def test_what_was_not_approved_is_not_answered(make, asked):
    world = make()
    arguments = {"number": 2, "query": world.start_query(2)} | asked
    with pytest.raises(IntegrityError, match="approved"):
        Clinic(world.setups["south"]).answer(world.request(**arguments))
    assert world.ledger("south") == ()


def changed(query, name, value):
    return {key: values for key, values in query.items() if key != name} | (
        {} if value is None else {name: value}
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", None),
        ("more", np.zeros(3)),
        ("weight", np.zeros((2, 2), np.float32)),
        ("weight", np.zeros((FEATURES + 1, 2), np.float64)),
        ("weight", np.full((FEATURES + 1, 2), np.nan, np.float32)),
        ("centre", np.full(FEATURES, np.inf, np.float32)),
    ],
)
def test_a_query_of_another_form_is_refused_before_anything_is_spent(make, name, value):
    """P5 and P14: a NaN in the query could single out whether there are patients at all."""
    world = make()
    query = changed(world.start_query(2), name, value)
    with pytest.raises(IntegrityError):
        Clinic(world.setups["south"]).answer(world.request(2, query))
    assert world.ledger("south") == ()


class Answering:
    """A recipe whose contributor answers with given sums."""

    def __init__(self, learner, change):
        self.learner, self.change = learner, change

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def contributor(self, items):
        self.inner = self.learner.contributor(items)
        return self

    @property
    def not_finite(self):
        return self.inner.not_finite

    def contribute(self, *arguments):
        return self.change(dict(self.inner.contribute(*arguments)))


SUMS = {
    "more fields": lambda sums: sums | {"num_patients": np.array([17.0])},
    "fewer fields": lambda sums: {},
    "another shape": lambda sums: {name: np.append(v, 1.0) for name, v in sums.items()},
    "single precision": lambda sums: {name: v.astype(np.float32) for name, v in sums.items()},
    "not a number": lambda sums: {name: v * np.nan for name, v in sums.items()},
    "infinite": lambda sums: {name: v + np.inf for name, v in sums.items()},
}


@pytest.mark.parametrize("kind", SUMS)
def test_nothing_but_the_planned_sums_leaves_a_clinic(make, kind):
    """P14: what is not in the plan is in no ledger."""
    world = make()
    world.change("south", learner=Answering(world.learner, SUMS[kind]))
    with pytest.raises(IntegrityError, match="south"):
        Clinic(world.setups["south"]).answer(world.request(2))
    with pytest.raises(IntegrityError):
        world.run()


def sums_of(content):
    return {name: array.numpy() for name, array in content.array_records["sums"].items()}


def with_sums(change):
    def apply(content):
        arrays = {name: Array(values) for name, values in change(sums_of(content)).items()}
        return RecordDict(
            {
                "reply": content.config_records["reply"],
                "sums": ArrayRecord(arrays),
                "problem": content.config_records["problem"],
            }
        )

    return apply


def with_record(name, values):
    def apply(content):
        records = dict(content.items())
        records[name] = values
        return RecordDict(records)

    return apply


def broken_array(content):
    broken = Array(dtype="float64", shape=(3,), stype="numpy.ndarray", data=b"no array")
    return with_record("sums", ArrayRecord({"label_counts": broken}))(content)


REPLIES = {
    **{f"sums: {kind}": with_sums(change) for kind, change in SUMS.items()},
    "another round": with_record("reply", ConfigRecord({"clinic": "south", "round": 4})),
    "another clinic": with_record("reply", ConfigRecord({"clinic": "north", "round": 1})),
    "no number": with_record("reply", ConfigRecord({"clinic": "south", "round": "one"})),
    "more in the header": with_record(
        "reply", ConfigRecord({"clinic": "south", "round": 1, "num_patients": 17})
    ),
    "another record": with_record("metrics", ConfigRecord({"loss": 0.3})),
    "a record of another type": with_record("reply", ArrayRecord({})),
    "half a problem": with_record("problem", ConfigRecord({"code": 3})),
    "a wordy code": with_record(
        "problem", ConfigRecord({"code": "x", "rule": "a", "got": "b", "do": "c"})
    ),
    "no array": broken_array,
    "nothing": lambda content: RecordDict({}),
}


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_of_another_form_counts_as_missing(make, kind):
    world = make()
    terms = world.terms()
    ask = grid_asker(world.grid(change=REPLIES[kind]), terms, Event())
    with pytest.raises(IncompleteRunError, match="south"):
        exchange_with(ask, terms, world.record, world.learner.rounds[0], {})
    (first,) = world.record.participation
    assert (first.took_part, tuple(first.missing)) == (("north", "studied"), ("south",))


def test_the_honest_reply_passes_the_same_grid(make):
    """The control of the test above."""
    world = make()
    terms = world.terms()
    ask = grid_asker(world.grid(change=with_sums(dict)), terms, Event())
    exchange_with(ask, terms, world.record, world.learner.rounds[0], {})
    assert world.record.participation[0].took_part == NAMES


def malformed_requests():
    header = {"run": RUN, "round": 1, "attempt": 1, "participants": list(NAMES)}
    yield "nothing", RecordDict({})
    yield "no query", RecordDict({"request": ConfigRecord(header)})
    for key, value in {"noise": 0.0, "round": "one", "attempt": 1.5, "participants": "all"}.items():
        records = {"request": ConfigRecord(header | {key: value}), "query": ArrayRecord({})}
        yield f"{key}={value}", RecordDict(records)
    yield "types", RecordDict({"request": ArrayRecord({}), "query": ConfigRecord({})})


@pytest.mark.parametrize("content", [pytest.param(c, id=i) for i, c in malformed_requests()])
def test_a_request_of_another_form_is_refused_at_the_clinic(make, content):
    """A coordinator cannot slip a wish into a request, such as less noise."""
    world = make()
    grid = world.grid()
    (number,) = grid.push_messages([Message(content, 3, "train")])
    (reply,) = grid.pull_messages([number])
    assert unpack_reply(reply.content).problem["code"] == 5
    assert world.ledger("south") == ()


def test_an_honest_request_is_answered_by_the_same_grid(make):
    """The control of the test above."""
    world = make()
    grid = world.grid()
    (number,) = grid.push_messages([Message(pack_request(world.request(1)), 3, "train")])
    (reply,) = grid.pull_messages([number])
    assert set(unpack_reply(reply.content).sums) == {"label_counts", "feature_sum"}


def test_hostile_finite_weights_cannot_make_a_clinic_fail_for_one_patient_only(make):
    """An overflow that only one patient causes must not show as a missing answer."""
    world = make("none")
    model = dict(world.learner.model(world.learner.start()))
    model["weight"] = np.full_like(model["weight"], np.finfo(np.float32).max)
    model["weight"][:, 1] *= -1
    answer = Clinic(world.setups["south"]).answer(world.request(ROUNDS + 2, model))
    assert answer["validation_scores"].sum() == 20  # every validation patient is counted
