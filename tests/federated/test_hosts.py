"""A node that plays several clinics: the same requests and replies, in fewer messages."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from threading import Event

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from skinml.durable import sync, turns
from skinml.federated.client_app import client_app, close_clinics
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.federated.hosts import HostApp, HostGrid, hosts
from skinml.federated.local_grid import LocalGrid
from skinml.training.fit import fit
from tests.federated.conftest import NAMES

PART = "partition-id"


def world_of_hosts(world, num_hosts, app=None):
    """The federation's clinics, played by fewer nodes; and how many messages each node got."""
    close_clinics()
    played, messages = HostApp(app or client_app(world.open)), Counter()

    def counted(message, context):
        messages[context.node_id] += 1
        return played(message, context)

    nodes = LocalGrid(counted, [{PART: number} for number in range(num_hosts)])
    return HostGrid(nodes, len(NAMES), num_hosts), messages


def trained(world, grid, **terms):
    ask = grid_asker(grid, world.terms(**terms), Event())
    return fit(world.learner, exchanger(ask, world.terms(**terms), world.record)).arrays


def echo(message, context):
    """Answer with what came, from the clinic that it came to."""
    answered = ConfigRecord({"clinic": context.node_config[PART]})
    return Message(RecordDict({**message.content, "answer": answered}), reply_to=message)


def asked(app, contents, num_hosts=2):
    """Send each clinic its content through hosts; give the replies by clinic."""
    nodes = LocalGrid(HostApp(app), [{PART: number} for number in range(num_hosts)])
    grid = HostGrid(nodes, len(contents), num_hosts)
    ids = grid.get_node_ids()
    sent = grid.push_messages(
        Message(content, node, "train") for node, content in zip(ids, contents, strict=True)
    )
    number = {key: place for place, key in enumerate(sent)}
    replies = list(grid.pull_messages(number))
    assert list(grid.pull_messages(number)) == []
    return {number[each.metadata.reply_to_message_id]: each for each in replies}


@pytest.mark.parametrize("trust", ["none", "distributed"])
def test_a_federation_of_hosts_computes_what_one_node_a_clinic_computes(make, trust):
    worlds = [make(trust) for _ in range(2)]
    grid, messages = world_of_hosts(worlds[0], 2)
    hosted, alone = trained(worlds[0], grid), trained(worlds[1], worlds[1].grid())
    assert set(messages) == {2, 3}
    for name, values in alone.items():
        if trust == "none":
            assert np.array_equal(hosted[name], values)
        assert np.isfinite(hosted[name]).all()
    assert [each.took_part for each in worlds[0].record.participation] == [
        each.took_part for each in worlds[1].record.participation
    ]
    rounds = len(worlds[0].learner.rounds)
    steps = {"none": 1, "distributed": 4}[trust]
    keys = trust == "distributed"
    # A question who is there, then a message a host and step in place of one a clinic.
    assert sum(messages.values()) <= len(NAMES) + 2 * (steps * rounds + keys)


def test_each_clinic_of_a_host_gets_its_own_content_and_gives_its_own_answer():
    contents = [RecordDict({"own": ConfigRecord({"value": number})}) for number in range(7)]
    replies = asked(echo, contents, num_hosts=3)
    assert sorted(replies) == list(range(7))
    for number, reply in replies.items():
        assert set(reply.content) == {"own", "answer"}
        assert reply.content["own"]["value"] == reply.content["answer"]["clinic"] == number


def test_an_error_of_one_clinic_is_its_own():
    def app(message, context):
        if context.node_config[PART] == 2:
            raise ValueError("the name of a patient")
        if context.node_config[PART] == 4:
            return Message(Error(3, "late"), reply_to=message)
        return echo(message, context)

    replies = asked(app, [RecordDict({})] * 6)
    failed = {number: reply.error for number, reply in replies.items() if reply.has_error()}
    assert {number: error.code for number, error in failed.items()} == {2: 2, 4: 3}
    assert "patient" not in failed[2].reason


def test_the_death_of_a_host_is_that_of_its_clinics_alone():
    """As Flower tells it: an error in place of the host's reply."""

    def nodes(message, context):
        if context.node_id == 3:
            return Message(Error(0, "ActorDied"), reply_to=message)
        return HostApp(echo)(message, context)

    grid = HostGrid(LocalGrid(nodes, [{PART: 0}, {PART: 1}]), 5, 2)
    ids = grid.push_messages(Message(RecordDict({}), node, "train") for node in grid.get_node_ids())
    replies = list(grid.pull_messages(ids))
    assert [reply.has_error() for reply in replies] == [False, True, False, True, False]


def test_large_arrays_travel_apart_and_shared_ones_once(monkeypatch):
    carried = []

    def app(message, context):
        carried.append(len(message.content["hosted"]["clinics"]))
        return HostApp(echo)(message, context)

    monkeypatch.setattr("skinml.federated.hosts._MOST_BYTES", 3000)
    arrays = ArrayRecord({"weight": Array(np.zeros(120))})
    grid = HostGrid(LocalGrid(app, [{PART: 0}]), 7, 1)
    contents = RecordDict({"query": arrays})
    ids = grid.push_messages(Message(contents, node, "train") for node in grid.get_node_ids())
    replies = list(grid.pull_messages(ids))
    assert carried == [2, 2, 2, 1]
    assert all(reply.content["query"] is arrays for reply in replies)


def test_nothing_leaves_a_host_before_all_of_its_ledgers_are_on_the_disk(make, monkeypatch):
    """The size of a ledger when it was last synced is its size when the reply is made."""
    world, synced, real = make("local"), {}, os.fsync

    def watched(descriptor):
        real(descriptor)
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size

    monkeypatch.setattr("os.fsync", watched)
    held = []

    def app(message, context):
        reply = HostApp(client_app(world.open))(message, context)
        for setup in world.setups.values():
            status = setup.ledger.path.stat() if setup.ledger.path.exists() else None
            held.append(status is None or synced.get(status.st_ino) == status.st_size)
        return reply

    close_clinics()
    trained(world, HostGrid(LocalGrid(app, [{PART: 0}]), len(NAMES), 1))
    assert len(held) >= len(NAMES) * len(world.learner.rounds)
    assert all(held)


def test_one_clinic_of_a_host_works_at_a_time_while_others_wait_for_the_disk(monkeypatch):
    """Three are in a sync at once, or the barrier breaks; no two are outside of it at once."""
    barrier, working, most = threading.Barrier(3, timeout=20), Counter(), Counter()
    monkeypatch.setattr("os.fsync", lambda descriptor: barrier.wait())

    def work():
        working["now"] += 1
        most["now"] = max(most["now"], working["now"])
        time.sleep(0.02)
        working["now"] -= 1

    def app(message, context):
        work()
        sync(0)
        work()
        return echo(message, context)

    replies = asked(app, [RecordDict({})] * 3, num_hosts=1)
    assert len(replies) == 3
    assert not any(reply.has_error() for reply in replies.values())
    assert most["now"] == 1


def test_a_turn_is_given_up_by_who_fails_in_it():
    with turns() as in_turn:
        with pytest.raises(OSError, match="full"), in_turn():
            raise OSError("full")
        with in_turn():
            pass


@pytest.mark.parametrize(("clinics", "cores", "expected"), [(4, 2, 4), (8, 2, 8), (500, 2, 8)])
def test_few_clinics_have_a_node_each_and_many_share(clinics, cores, expected):
    assert hosts(clinics, cores) == expected
