"""Runs whose sums leave under masks, over the local grid with the real client app and ledgers."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from skinml.errors import EnvironmentProblem, IncompleteRunError, IntegrityError
from skinml.federated.clinic import Clinic, schedule
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.federated.messages import (
    POSTS,
    Reply,
    Request,
    pack_reply,
    pack_request,
    unpack_reply,
    unpack_request,
)
from skinml.federated.secure_aggregation import posted
from skinml.federated.secure_session import Attempt, Signed, packed
from skinml.federated.secure_steps import write_letters, write_messages
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.training.fit import fit
from tests.federated.conftest import NAMES, ROUNDS, RUN

STEPS = ("shares", "masked", "survivors", "unmask")
WAYS = [("paired", 0), *((step, 1) for step in STEPS)]
"""Each step of a sum, and how many may drop out where it is one of its steps."""


def trained(world, ask=None, **terms):
    held_to = world.terms(**terms)
    ask = ask or grid_asker(world.grid(), held_to, Event())
    return fit(world.learner, exchanger(ask, held_to, world.record))


def losing(world, lost, step, round_=2):
    """Ask as usual, but let a clinic fall silent before a step of a round and ever after."""
    honest, gone = grid_asker(world.grid(), world.terms(), Event()), []

    def ask(requests):
        if any(r.step == step and r.round == round_ for r in requests.values()):
            gone.append(step)
        answered = {n: r for n, r in requests.items() if not (gone and n == lost)}
        return honest(answered)

    return ask


@pytest.mark.parametrize(("dropouts", "steps"), [(0, ("paired",)), (1, STEPS)])
def test_every_clinics_sum_is_on_the_wire_under_masks_alone(make, dropouts, steps):
    """The coordinator sees no array, and what it sees of a clinic looks nothing like its sum."""
    world, seen = make("distributed", tolerated_dropouts=dropouts), []
    honest = grid_asker(world.grid(), world.terms(), Event())

    def ask(requests):
        replies = dict(honest(requests))
        seen.extend((requests[n].step, reply) for n, reply in replies.items())
        return replies

    trained(world, ask)
    assert {step for step, _ in seen} == {"keys", *steps}
    assert all(reply.sums == {} for _, reply in seen)


def test_a_clinic_gives_no_plain_sum_in_a_run_with_secure_sums(make):
    world = make("distributed")
    with pytest.raises(IntegrityError, match="under masks alone"):
        Clinic(world.setups["north"]).answer(world.request(1))
    assert world.ledger("north") == ()


@pytest.mark.parametrize("step", ["shares", "paired"])
def test_a_clinic_of_plain_sums_takes_no_secure_step(make, step):
    world = make("local")
    request = Request(RUN, 1, 1, NAMES, {}, step, {"adverts": b""})
    with pytest.raises(IntegrityError, match="a run with secure sums"):
        Clinic(world.setups["north"]).step(request)


@pytest.mark.parametrize("dropouts", [0, 1])
def test_without_its_book_a_clinic_computes_no_second_sum_of_an_attempt(make, dropouts):
    """As after the run, when the book is dropped: under the same masks their difference is bare."""
    world = make("distributed", tolerated_dropouts=dropouts)
    clinics = {name: Clinic(world.setups[name]) for name in NAMES}
    seen = []

    def ask(requests):
        seen.append(requests)
        return {n: clinics[n].step(r) for n, r in requests.items()}

    first_masked(ask, world, clinics, 1)
    world.setups["north"].secure.book.path.unlink()
    before = world.ledger("north")
    with pytest.raises(IntegrityError, match="the keys that clinic north has"):
        Clinic(world.setups["north"]).step(seen[-1]["north"])
    assert world.ledger("north") == before


@pytest.mark.parametrize(("step", "dropouts"), [("paired", 0), ("masked", 1)])
def test_a_coordinator_that_sends_one_clinic_another_model_opens_nothing(make, step, dropouts):
    world = make("distributed", tolerated_dropouts=dropouts)
    honest = grid_asker(world.grid(), world.terms(), Event())

    def ask(requests):
        if all(r.step == step and r.round == 2 for r in requests.values()):
            requests = {
                n: r if n == "north" else replace(r, query=dict(r.query) | {"centre": far(r)})
                for n, r in requests.items()
            }
        return honest(requests)

    def far(request):
        return np.full_like(request.query["centre"], 1e6)

    with pytest.raises(IntegrityError, match="masks that cancel out"):
        trained(world, ask)
    assert [each.noise is None for each in world.record.participation] == [False, True]


@pytest.mark.parametrize("dropouts", [0, 1])
def test_without_noise_the_weights_are_those_of_plain_sums_bit_for_bit(make, dropouts):
    """The schedule of trust none, once as it is and once under masks."""
    plain, masked = make("none"), make("distributed", tolerated_dropouts=dropouts)
    for name in NAMES:
        masked.change(name, learner=plain.learner, mechanism=Mechanism(0.0))
    masked.learner = plain.learner
    first, second = trained(plain), trained(masked)
    for name, values in first.arrays.items():
        assert np.array_equal(values, second.arrays[name])


@pytest.mark.parametrize("dropouts", [0, 1])
def test_with_the_same_fixed_noise_distributed_and_central_weights_are_bit_equal(make, dropouts):
    """One clinic adds under masks what the coordinator adds under central; one plan for both."""
    central, masked = make("central"), make("distributed", tolerated_dropouts=dropouts)

    def opened():
        return fixed_noise(np.random.default_rng(3))

    for name in NAMES:
        share = 1.0 if name == "north" else 0.0
        masked.change(name, learner=central.learner, mechanism=Mechanism(share, opened))
    masked.learner = central.learner
    first = trained(central, mechanism=Mechanism(1.0, opened))
    second = trained(masked)
    for name, values in first.arrays.items():
        assert np.array_equal(values, second.arrays[name])


@pytest.mark.parametrize(("step", "dropouts"), WAYS)
def test_a_clinic_lost_at_any_step_is_survived_or_ends_the_run(make, step, dropouts):
    world = make("distributed", tolerated_dropouts=dropouts)
    terms = {"allowed_missing": dropouts, "least_survivors": len(NAMES) - dropouts}
    ask = losing(world, "south", step)
    if not dropouts:
        with pytest.raises(IncompleteRunError, match="round 2"):
            trained(world, ask, **terms)
        return
    fitted = trained(world, ask, **terms)
    assert all(np.isfinite(values).all() for values in fitted.arrays.values())
    second, third = world.record.participation[1:3]
    assert second.took_part == (NAMES if step in ("survivors", "unmask") else ("north", "studied"))
    assert third.took_part == ("north", "studied")
    assert set(third.missing) == {"south"}


@pytest.mark.parametrize(("step", "dropouts"), WAYS)
def test_a_clinic_whose_code_fails_at_a_step_is_named_and_nothing_is_lost(make, step, dropouts):
    """Whatever the ledger holds, it is at least what left."""
    world = make("distributed", tolerated_dropouts=dropouts)
    honest = grid_asker(world.grid(), world.terms(), Event())

    def ask(requests):
        if next(iter(requests.values())).step == step:
            bad = {n: replace(r, post={}) if n == "south" else r for n, r in requests.items()}
            return honest(bad)
        return honest(requests)

    names = [release.name for round_ in world.learner.rounds for release in round_.releases]
    if step in ("survivors", "unmask"):  # its sum is in, and the shares of two others open it
        trained(world, ask)
        assert [each.took_part for each in world.record.participation] == [NAMES] * (ROUNDS + 1)
        assert [entry.name for entry in world.ledger("south")] == names
        return
    with pytest.raises((IncompleteRunError, IntegrityError)):
        trained(world, ask)
    assert world.record.participation[0].missing.keys() == {"south"}
    assert world.ledger("south") == ()


def test_a_full_disk_before_the_masked_sum_leaves_is_charged_and_nothing_leaves(make):
    world = make("distributed")

    def note(entries, masks):
        raise EnvironmentProblem(rule="room", got="none", do="Make room.")

    world.change("south", note=note)
    with pytest.raises(IncompleteRunError):
        trained(world)
    assert len(world.ledger("south")) == 2
    assert world.record.participation[0].missing.keys() == {"south"}


@pytest.mark.parametrize(("step", "dropouts"), [("paired", 0), ("masked", 1)])
def test_asked_for_the_same_masked_sum_twice_a_clinic_charges_once(make, step, dropouts):
    world, requests = make("distributed", tolerated_dropouts=dropouts), []
    honest = grid_asker(world.grid(), world.terms(), Event())

    def ask(sent):
        if next(iter(sent.values())).step == step and not requests:
            requests.append(sent["north"])
            first = dict(honest(sent))
            again = dict(honest({"north": sent["north"]}))
            assert again["north"] == first["north"]
            return first
        return honest(sent)

    trained(world, ask)
    assert len([e for e in world.ledger("north") if e.binding.round == 1]) == 2


@pytest.mark.parametrize("dropouts", [0, 1])
def test_a_new_attempt_is_a_new_charge_with_other_noise(make, dropouts):
    world, words = make("distributed", tolerated_dropouts=dropouts), []
    clinics = {name: Clinic(world.setups[name]) for name in NAMES}
    for attempt in (1, 2):

        def ask(requests, attempt=attempt):
            raised = {n: replace(r, attempt=attempt) for n, r in requests.items()}
            return {n: clinics[n].step(r) for n, r in raised.items()}

        words.append(first_masked(ask, world, clinics, attempt))
    assert words[0] != words[1]
    assert [e.binding.attempt for e in world.ledger("north")] == [1, 1, 2, 2]


def first_masked(ask, world, clinics, attempt):
    """North's masked sum of the first round in an attempt."""

    def request(step, post):
        return Request(RUN, 1, attempt, NAMES, {}, step, post)

    keys = Request(RUN, 0, 1, NAMES, {}, "keys")
    adverts = write_messages(clinic.step(keys) for clinic in clinics.values())
    session = world.setups["north"].secure.session
    if session.all_needed:
        return ask({"north": request("paired", {"adverts": adverts})})["north"].payload
    shares = ask({n: request("shares", {"adverts": adverts}) for n in NAMES})
    letters = posted(Attempt(session, 1, attempt), shares).letters["north"]
    post = {"adverts": adverts, "letters": write_letters(letters)}
    return ask({"north": request("masked", post)})["north"].payload


def test_requests_and_replies_of_every_step_survive_the_wire(make):
    for step, names in POSTS.items():
        request = Request(RUN, 1, 2, NAMES, {}, step, dict.fromkeys(names, b"\x00\xff"))
        assert unpack_request(pack_request(request)) == request
    signed = packed(Signed("north", "shares", b"\x00\xff", bytes(64)))
    reply = Reply("north", 1, {}, {}, signed)
    assert unpack_reply(pack_reply(reply)) == reply


@pytest.mark.parametrize("step", ["shares", "masked", "paired", "sums"])
def test_what_does_not_belong_to_a_step_is_not_posted(step):
    request = Request(RUN, 1, 1, NAMES, {}, step, {"secrets": b""})
    with pytest.raises(IntegrityError):
        unpack_request(pack_request(request))


def test_the_last_round_is_summed_like_the_others(make):
    world = make("distributed")
    _, scores = world.run()
    last = schedule(world.learner, world.validation)[-1]
    assert last.number == ROUNDS + 2
    assert scores.shape == (2, 64)
    assert world.record.participation[-1].took_part == NAMES
