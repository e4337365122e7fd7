"""Whole federated runs over the local grid, with the real client app and the real ledgers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from threading import Event

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from skinml.errors import (
    BudgetExceededError,
    ConfigError,
    DataError,
    IncompleteRunError,
    IntegrityError,
)
from skinml.federated.client_app import client_app, close_clinics
from skinml.federated.clinic import Clinic, ClinicSetup, require_budget, schedule
from skinml.federated.coordinator import Record, RunTerms, exchange_with, grid_asker
from skinml.federated.local_grid import LocalGrid
from skinml.federated.messages import Request, pack_request, unpack_reply
from skinml.models.linear_head import LinearHead
from skinml.privacy.accounting import epsilon
from skinml.privacy.ledger import Ledger, spent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release, gaussian_releases
from skinml.privacy.settings import BudgetSettings, PrivacySettings
from skinml.privacy.trust import noise_rule
from skinml.records import Labels, Predictions, Samples, join_samples
from skinml.training.evaluate import evaluate
from skinml.training.fit import Exchanged, fit
from skinml.training.head import HeadLearner
from skinml.training.settings import HeadSettings

CLASSES = Labels(("benign", "malignant"), (False, True))
NAMES = ("north", "south", "studied")
FEATURES, ROUNDS = 5, 4
RUN = "run-1"


def samples(seed, count=40):
    rng = np.random.default_rng(seed)
    inputs = np.abs(rng.normal(size=(count, FEATURES)))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    labels = (inputs[:, 0] > 0.4).astype(int)
    patients = np.array([f"{seed}-{i // 2}" for i in range(count)])
    return Samples(inputs.astype(np.float32), labels, patients)


def predict(arrays, items) -> Predictions:
    head = LinearHead(arrays["centre"], arrays["weight"], arrays["offset"])
    return evaluate(lambda x: (head.probabilities(x), head.decisions(x)), CLASSES, items)


@dataclass
class World:
    """Clinics, their ledgers, and one coordinator."""

    privacy: PrivacySettings
    setups: dict[str, ClinicSetup]
    learner: HeadLearner
    validation: Release
    record: Record

    def change(self, name, **changes):
        self.setups[name] = replace(self.setups[name], **changes)

    def terms(self, **changes):
        coordinator = Mechanism(noise_rule(self.privacy, len(NAMES)).coordinator)
        return replace(RunTerms(RUN, NAMES, 0, 5.0, coordinator), **changes)

    def open(self, node):
        name = NAMES[node["partition-id"]]
        if name not in self.setups:
            raise ConfigError(rule="a clinic of the run", got="another", do="Enrol it.")
        return Clinic(self.setups[name])

    def grid(self, nodes=len(NAMES)):
        close_clinics()
        return LocalGrid(client_app(self.open), [{"partition-id": i} for i in range(nodes)])

    def run(self, **changes):
        """All rounds; gives the model and the released validation scores."""
        terms = self.terms(**changes)
        ask = grid_asker(self.grid(), terms, Event())
        exchange = partial(exchange_with, ask, terms, self.record)
        fitted = fit(self.learner, exchange)
        last = schedule(self.learner, self.validation)[-1]
        return fitted, exchange(last, fitted.arrays).total[self.validation.name]

    def ledger(self, name):
        return Ledger(self.setups[name].ledger.path, name).entries()


@pytest.fixture
def make(tmp_path):
    def build(trust="distributed", kept=None, **changes):
        privacy = PrivacySettings(trust=trust, **changes)
        learner = HeadLearner(
            HeadSettings(rounds=ROUNDS, learning_rate=1.0), privacy, CLASSES, FEATURES, len(NAMES)
        )
        score = Release("validation_scores", "validation", "validation", 1.0, 0.0, (2, 64))
        validation = gaussian_releases(privacy, [(score, 1.0)])[0]
        stored = {} if kept is None else kept
        setups = {
            name: ClinicSetup(
                name=name,
                run=RUN,
                learner=learner,
                validation=validation,
                samples={
                    split: samples(10 * place + part)
                    for part, split in enumerate(("train", "validation", "test"))
                },
                predict=predict,
                keep=lambda split, made, name=name: stored.__setitem__((name, split), made),
                ledger=Ledger(tmp_path / name / "ledger.jsonl", name),
                mechanism=Mechanism(noise_rule(privacy, len(NAMES)).clinic),
                privacy=privacy,
                split_key_id="k",
                sampling_root=1,
                simulated=True,
            )
            for place, name in enumerate(NAMES)
        }
        return World(privacy, setups, learner, validation, Record())

    yield build
    close_clinics()


@pytest.mark.parametrize("trust", ["none", "central", "distributed", "local"])
def test_a_whole_run_leaves_a_model_and_one_entry_a_release(make, trust):
    kept = {}
    world = make(trust, kept)
    fitted, scores = world.run()
    assert all(np.isfinite(values).all() for values in fitted.arrays.values())
    assert scores.shape == (2, 64)
    names = ["label_counts", "feature_sum", *["gradient"] * ROUNDS, "validation_scores"]
    planned = [r for x in schedule(world.learner, world.validation) for r in x.releases]
    for name in NAMES:
        entries = world.ledger(name)
        assert [entry.name for entry in entries] == names
        assert [entry.event for entry in entries] == [r.event for r in planned]
        assert {entry.binding.trust for entry in entries} == {trust}
        assert (spent(entries, 1e-5) <= 3.0) == (trust != "none")
    took = [(p.round, p.took_part, dict(p.missing)) for p in world.record.participation]
    assert took == [(number, NAMES, {}) for number in range(1, ROUNDS + 3)]
    assert set(kept) == {(n, s) for n in NAMES for s in ("validation", "test")}


def test_without_noise_many_clinics_train_the_model_of_one(make):
    """The same fit, one contributor on the pooled samples, no wire."""
    world = make("none")
    federated, scores = world.run()
    pooled = world.learner.contributor(
        join_samples([world.setups[name].samples["train"] for name in NAMES])
    )

    def exchange(round_, query):
        rng = np.random.default_rng(0)
        return Exchanged(pooled.contribute(round_, query, Mechanism(0.0), rng), 1)

    alone = fit(world.learner, exchange)
    for name, values in alone.arrays.items():
        np.testing.assert_allclose(federated.arrays[name], values, rtol=1e-4, atol=1e-5)
    assert scores.sum() == len(NAMES) * 20  # one count a validation patient


def test_runs_without_noise_repeat_to_the_last_digit(make, tmp_path):
    first, _ = make("none").run()
    second, _ = make("none").run()
    for name, values in first.arrays.items():
        assert np.array_equal(values, second.arrays[name])


def test_runs_with_noise_never_repeat(make):
    """P10: equal seeds everywhere."""
    first, second = (make("local").run()[0].arrays["weight"] for _ in range(2))
    assert not np.isclose(first, second, rtol=1e-9).all()


def test_the_history_holds_public_figures_only(make):
    """P14: functions of the released sums, and nothing of the samples."""
    world, totals = make("local"), []
    terms = world.terms()
    ask = grid_asker(world.grid(), terms, Event())

    def exchange(round_, query):
        totals.append(exchange_with(ask, terms, world.record, round_, query))
        return totals[-1]

    fitted = fit(world.learner, exchange)
    for figures, answer in zip(fitted.history, totals, strict=True):
        flat = np.concatenate([v.ravel() for v in answer.total.values()])
        assert figures == {"num_clinics": 3.0, "update_norm": np.linalg.norm(flat)}


class Failing:
    """A recipe whose contributor fails in one round."""

    def __init__(self, learner, error, number=3):
        self.learner, self.error, self.number = learner, error, number
        self.computed = []

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def contributor(self, items):
        self.inner = self.learner.contributor(items)
        return self

    def contribute(self, round_, query, mechanism, sampling):
        self.computed.append(round_.number)
        if round_.number == self.number:
            raise self.error
        return self.inner.contribute(round_, query, mechanism, sampling)


SECRET = "patient 4711, melanoma"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SECRET),
        KeyError(SECRET),
        DataError(rule=SECRET, got=SECRET, do=SECRET, details=[SECRET]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failing_clinic_is_named_and_its_words_stay_with_it(make, error, caplog):
    world = make()
    caplog.set_level(logging.CRITICAL, "skinml")
    world.change("south", learner=Failing(world.learner, error))
    with pytest.raises(IncompleteRunError) as failure:
        world.run()
    whole = f"{failure.value} {failure.value.details} {world.record}"
    assert "south" in str(failure.value)
    assert type(error).__name__ in whole
    assert "4711" not in whole
    assert failure.value.exit_code == 4
    last = world.record.participation[-1]
    assert (last.round, last.took_part, tuple(last.missing)) == (
        3,
        ("north", "studied"),
        ("south",),
    )


def test_the_reservation_comes_before_the_computation_and_stays(make, caplog):
    """A clinic that fails while it computes has spent what it reserved."""
    caplog.set_level(logging.CRITICAL, "skinml")
    world = make()
    world.change("south", learner=Failing(world.learner, RuntimeError(SECRET)))
    with pytest.raises(IncompleteRunError):
        world.run()
    assert [entry.binding.round for entry in world.ledger("south")] == [1, 1, 2, 3]


def test_a_run_goes_on_without_a_clinic_where_it_may(make, caplog):
    caplog.set_level(logging.CRITICAL, "skinml")
    world = make(tolerated_dropouts=1)
    world.change("south", learner=Failing(world.learner, RuntimeError(SECRET)))
    fitted, _ = world.run(allowed_missing=1)
    missing = {p.round: tuple(p.missing) for p in world.record.participation}
    assert missing == {n: ("south",) if n == 3 else () for n in range(1, ROUNDS + 3)}
    assert [h["num_clinics"] for h in fitted.history] == [3, 3, 2, 3, 3]


def test_a_clinic_over_budget_refuses_before_it_computes_anything(make):
    world = make(epsilon=3.0)
    watched = Failing(world.learner, None, number=0)
    poor = world.privacy.model_copy(update={"budget": BudgetSettings(epsilon=2.9)})
    world.change("south", privacy=poor, learner=watched)
    with pytest.raises(BudgetExceededError) as refusal:
        world.run()
    assert refusal.value.exit_code == 3
    assert watched.computed == []
    assert world.ledger("south") == ()


def request(number, query, run=RUN, participants=NAMES):
    return Request(run, number, 1, participants, query)


def start_query(world, number):
    return (
        {} if number == 1 else world.learner.query(world.learner.rounds[1], world.learner.start())
    )


@pytest.mark.parametrize("first", [2, ROUNDS + 1])
def test_a_coordinator_that_starts_late_cannot_dodge_the_budget(make, first):
    """Asking the last rounds again and again ends at the budget, whatever their order."""
    world = make(epsilon=1.0)
    poor = world.privacy.model_copy(update={"budget": BudgetSettings(epsilon=1.2)})
    world.change("north", privacy=poor)
    clinic, answered = Clinic(world.setups["north"]), 0
    with pytest.raises(BudgetExceededError):
        for _ in range(100):
            for number in range(first, ROUNDS + 2):
                clinic.answer(request(number, start_query(world, number)))
                answered += 1
    assert answered > 0
    assert spent(world.ledger("north"), 1e-5) <= 1.2


def test_two_runs_at_once_cannot_both_spend_what_is_left(make):
    """Each alone would stay within the budget when it begins."""
    world = make(epsilon=1.0)
    poor = world.privacy.model_copy(update={"budget": BudgetSettings(epsilon=1.3)})
    world.change("north", privacy=poor)
    first = Clinic(world.setups["north"])
    second = Clinic(replace(world.setups["north"], run="run-2"))
    with pytest.raises(BudgetExceededError):
        for number in range(1, ROUNDS + 2):
            first.answer(request(number, start_query(world, number)))
            second.answer(request(number, start_query(world, number), run="run-2"))
    assert spent(world.ledger("north"), 1e-5) <= 1.3


def test_a_run_that_the_ledger_can_afford_runs_twice_and_not_thrice(make):
    both = epsilon(
        [r.event for x in make(epsilon=1.0).learner.rounds for r in x.releases] * 2, 1e-5
    )
    world = make(epsilon=1.0)
    limit = world.privacy.model_copy(update={"budget": BudgetSettings(epsilon=both + 1e-9)})
    for name in NAMES:
        world.change(name, privacy=limit)
    world.run()
    for name in NAMES:
        world.change(name, run="run-2")
    world.run(run="run-2")
    south = world.setups["south"]
    with pytest.raises(BudgetExceededError):
        require_budget(
            south.ledger,
            world.learner,
            world.validation,
            limit,
            run="run-3",
            split_key_id="k",
            from_round=1,
        )


@pytest.mark.parametrize(
    "asked",
    [
        {"run": "run-2"},
        {"number": 0},
        {"number": -1},
        {"number": ROUNDS + 3},
        {"participants": ("north", "studied")},
    ],
    ids=str,
)
def test_what_was_not_approved_is_not_answered(make, asked):
    world = make()
    arguments = {"number": 2, "query": start_query(world, 2)} | asked
    with pytest.raises(IntegrityError, match="approved"):
        Clinic(world.setups["south"]).answer(request(**arguments))
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
    query = changed(start_query(world, 2), name, value)
    with pytest.raises(IntegrityError):
        Clinic(world.setups["south"]).answer(request(2, query))
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
        Clinic(world.setups["south"]).answer(request(2, start_query(world, 2)))
    with pytest.raises(IntegrityError):
        world.run()


class Rogue(LocalGrid):
    """A grid on which one clinic's training replies are changed on the way."""

    def __init__(self, app, configs, change):
        super().__init__(app, configs)
        self.change = change

    def pull_messages(self, message_ids):
        return [self._changed(message) for message in super().pull_messages(message_ids)]

    def _changed(self, message):
        south = message.metadata.src_node_id == 3 and "train" in message.metadata.message_type
        return Message(self.change(message.content), reply_to=message) if south else message


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
    close_clinics()
    nodes = [{"partition-id": i} for i in range(3)]
    grid = Rogue(client_app(world.open), nodes, REPLIES[kind])
    terms = world.terms()
    ask = grid_asker(grid, terms, Event())
    with pytest.raises(IncompleteRunError, match="south"):
        exchange_with(ask, terms, world.record, world.learner.rounds[0], {})
    (first,) = world.record.participation
    assert (first.took_part, tuple(first.missing)) == (("north", "studied"), ("south",))


def test_the_honest_reply_passes_the_same_grid(make):
    """The control of the test above."""
    world = make()
    close_clinics()
    nodes = [{"partition-id": i} for i in range(3)]
    terms = world.terms()
    ask = grid_asker(Rogue(client_app(world.open), nodes, with_sums(dict)), terms, Event())
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
    grid = make().grid()
    (number,) = grid.push_messages([Message(pack_request(request(1, {})), 3, "train")])
    (reply,) = grid.pull_messages([number])
    assert set(unpack_reply(reply.content).sums) == {"label_counts", "feature_sum"}


def test_a_node_that_serves_no_clinic_is_seen(make):
    world = make()
    del world.setups["south"]
    with pytest.raises(IncompleteRunError, match="south"):
        world.run()
    assert world.record.participation[0].took_part == ("north", "studied")


def test_too_few_nodes_end_the_wait_at_the_deadline(make):
    world = make()
    with pytest.raises(IncompleteRunError, match="nodes"):
        grid_asker(world.grid(nodes=2), world.terms(deadline_s=0.05), Event())


def test_whoever_wants_the_run_to_end_ends_the_wait(make):
    world, stop = make(), Event()
    stop.set()
    with pytest.raises(IncompleteRunError):
        grid_asker(world.grid(nodes=2), world.terms(deadline_s=600), stop)


def test_a_clinic_with_a_changed_ledger_ends_the_run(make):
    """Exit 5 from the clinic's own check, named at the coordinator."""
    world = make()
    world.run()
    path = world.setups["south"].ledger.path
    path.write_bytes(path.read_bytes().replace(b"gradient", b"gradiant", 1))
    with pytest.raises(IntegrityError, match="ledger"):
        world.run()


def test_only_the_histogram_of_validation_scores_leaves_the_evaluation(make):
    kept = {}
    world = make("none", kept)
    _, scores = world.run()
    patients = {name: len(set(kept[name, "validation"].patients)) for name in NAMES}
    assert scores.sum() == sum(patients.values())
    assert np.array_equal(scores, np.round(scores))


def test_a_validation_patient_moves_the_histogram_by_at_most_one(make):
    """T0 for the last release, a patient with several images and hostile ones among them."""
    world = make("none")
    model = world.learner.model(world.learner.start())
    south = world.setups["south"]
    held_out = south.samples["validation"]
    last = len(world.learner.rounds) + 1
    released = []
    for patient in (None, "11-0", "11-7"):
        part = held_out.take(held_out.patients != patient)
        world.change("south", samples=south.samples | {"validation": part})
        answer = Clinic(world.setups["south"]).answer(request(last, model))
        released.append(answer["validation_scores"])
    for without in released[1:]:
        assert np.abs(released[0] - without).sum() == 1
