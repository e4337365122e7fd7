"""Sums stream: what the coordinator holds does not grow, and no order of arrival shows in a sum."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, field
from itertools import permutations
from math import fsum
from threading import Event

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from skinml.federated.coordinator import exchanger, grid_asker
from skinml.federated.local_grid import LocalGrid
from skinml.federated.messages import (
    Reply,
    Request,
    pack_reply,
    pack_requests,
    unpack_request,
)
from skinml.federated.plain_sums import PlainSum
from skinml.federated.roll_call import Record, RollCall, RunTerms
from skinml.federated.secure_session import packed
from skinml.federated.secure_steps import answer_step
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release
from skinml.privacy.quantise import GRID
from skinml.training.learner import Round
from tests.federated.conftest import FileBook
from tests.federated.secure_world import Federation

MB = 2**20
SILENT = Mechanism(0.0)


def round_of(size, grid=GRID):
    release = Release("gradient", "training", "train", 1.0, 0.0, (size,), grid=grid)
    return Round(1, "gradient", (release,))


def terms_of(names, session=None, **changes):
    held = {"allowed_missing": 0, "least_survivors": 1, "deadline_s": 600.0, **changes}
    return RunTerms("run-1", tuple(names), mechanism=SILENT, session=session, **held)


@dataclass
class Nodes:
    """Clinics behind a grid that keep nothing in memory from one message to the next."""

    names: list
    size: int
    secure: dict = field(default_factory=dict)

    def exchange(self, session=None):
        """One round; gives the sum of which every clinic's part is a multiple of its number."""
        app = ClientApp()
        app.query("describe")(self._describe)
        app.train()(self._train)
        grid = LocalGrid(app, [{"partition-id": number} for number in range(len(self.names))])
        terms = terms_of(self.names, session)
        exchange = exchanger(grid_asker(grid, terms, Event()), terms, Record())
        query = {"weight": np.zeros(self.size)}
        return exchange(round_of(self.size), query).total["gradient"]

    def _describe(self, message, context):
        name = self.names[context.node_config["partition-id"]]
        return Message(pack_reply(Reply(name, 0, {}, {})), reply_to=message)

    def _train(self, message, context):
        number = context.node_config["partition-id"]
        name, request = self.names[number], unpack_request(message.content)
        reply = Reply(name, request.round, {"gradient": np.full(self.size, number * GRID)}, {})
        if request.step != "sums":
            reply = Reply(name, request.round, {}, {}, packed(self._step(name, number, request)))
        return Message(pack_reply(reply), reply_to=message)

    def _step(self, name, number, request):
        clinic = self.secure[name]
        if request.step == "keys":
            return clinic.advertise()
        return answer_step(clinic, request, lambda: np.full(self.size, number, np.uint64))


def peak(nodes, session=None):
    """Most memory that one round takes, in bytes; with it the sum is right."""
    tracemalloc.start()
    try:
        total = nodes.exchange(session)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    expected = sum(range(len(nodes.names))) * GRID
    assert np.array_equal(total, np.full(nodes.size, expected))
    return most


def secure_peak(clinics, size, place):
    federation = Federation(clinics, clinics)
    place.mkdir()
    for name, clinic in federation.clinics.items():
        object.__setattr__(clinic, "book", FileBook(place / f"{name}.book"))
    names = sorted(federation.clinics)
    return peak(Nodes(names, size, federation.clinics), federation.session)


def test_forty_clinics_plain_sums_take_no_more_memory_than_those_of_four():
    """All of them in memory would be 36 times 4 MB more."""
    few, many = (peak(Nodes([f"c{n:02d}" for n in range(k)], MB // 2)) for k in (4, 40))
    assert few > 8 * MB
    assert many - few < MB


@pytest.mark.parametrize(("clinics", "mb"), [(10, 1), pytest.param(40, 4, marks=pytest.mark.slow)])
def test_more_clinics_masked_sums_take_hardly_more_memory_than_those_of_four(clinics, mb, tmp_path):
    """Beside letters and shares, of which there is one for each pair of clinics."""
    size = mb * MB // 8
    few, many = (secure_peak(k, size, tmp_path / str(k)) for k in (4, clinics))
    assert few > 3 * mb * MB
    assert many - few < (clinics - 4) * mb * MB / 8


def test_no_order_of_arrival_changes_a_bit_of_a_sum_of_any_numbers():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(5, 400)) * 10.0 ** rng.integers(-12, 9, size=(5, 400))
    assert len({np.sum([parts[i] for i in order], axis=0).tobytes() for order in orders(5)}) > 1
    found = {summed([parts[i] for i in order], grid=0.0).tobytes() for order in orders(5)}
    assert len(found) == 1


def test_a_sum_of_any_numbers_is_the_exact_one_up_to_a_rounding():
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(300, 200)) * 10.0 ** rng.integers(-9, 7, size=(300, 200))
    exact = np.array([fsum(column) for column in parts.T])
    error = np.abs(summed(parts, grid=0.0) - exact)
    assert (error <= np.spacing(np.abs(exact)) + len(parts) * 2.0**-63).all()


def test_a_sum_of_multiples_of_the_grid_is_exact():
    rng = np.random.default_rng(2)
    units = rng.integers(-(2**52), 2**52, size=(100, 50)) // 100
    assert np.array_equal(summed(units * GRID), units.sum(axis=0) * GRID)


def test_numbers_that_no_sum_should_hold_are_added_without_an_error():
    huge = np.array([1e300, -(2.0**40) - 1, 2.0**33 + 2.0**-19, 5e-324])
    assert np.array_equal(summed([huge, np.zeros(4)]), [*huge[:3], 0.0])


def orders(count):
    return list(permutations(range(count)))


def summed(parts, grid=GRID):
    total = PlainSum(round_of(len(parts[0]), grid))
    for part in parts:
        total.add({"gradient": np.asarray(part)})
    return total.total(SILENT)["gradient"]


def test_a_reply_that_comes_twice_or_from_nobody_asked_is_taken_once_or_not_at_all():
    names = ("north", "south")
    roll = RollCall(terms_of(names), round_of(1))
    replies = {name: Reply(name, 1, {"gradient": np.ones(1)}, {}) for name in (*names, "east")}

    def ask(requests):
        return iter([(n, replies[n]) for n in ("south", "east", "south", "north", "south")])

    taken = list(roll.arrive(ask, dict.fromkeys(names), lambda reply, clinic: ""))
    assert [name for name, _ in taken] == ["south", "north"]
    assert roll.missing == {}


def test_who_is_missing_is_told_in_the_clinics_order_whatever_the_order_of_replies():
    names = ("east", "north", "south")
    said = []
    for order in permutations(names):
        roll = RollCall(terms_of(names), round_of(1))
        silent = [(name, "no answer before the deadline") for name in order]
        assert list(roll.arrive(lambda _, s=silent: iter(s), dict.fromkeys(names), str)) == []
        said.append(str(roll.why()))
    assert set(said) == {said[0]}
    assert "east, north, south" in said[0]


def test_a_query_that_clinics_share_is_packed_once_and_another_apart():
    shared, other = {"weight": np.arange(3.0)}, {"weight": np.zeros(3)}
    queries = {"north": shared, "south": shared, "studied": other}
    requests = {n: Request("run-1", 1, 1, tuple(queries), q) for n, q in queries.items()}
    packed_ = pack_requests(requests)
    assert packed_["north"]["query"] is packed_["south"]["query"]
    for name, records in packed_.items():
        found = unpack_request(records).query["weight"]
        assert np.array_equal(found, queries[name]["weight"])
