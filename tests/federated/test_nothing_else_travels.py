"""Real messages of each kind, changed in every way: refused at the coordinator and at the clinic.

Also at the clinic's own packer, before anything leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from skinml.errors import IntegrityError, SkinmlError
from skinml.fairness.count_tables import layout_of
from skinml.federated.client_app import client_app, close_clinics
from skinml.federated.clinic import CountsRelease, schedule
from skinml.federated.coordinator import exchanger, places_asker
from skinml.federated.local_grid import LocalGrid
from skinml.federated.messages import Reply, pack_reply, unpack_reply, unpack_request
from skinml.federated.roll_call import Record
from skinml.privacy.ledger import Ledger
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import TEST_COUNTS, evaluation_release
from tests.federated.conftest import KEY, NAMES
from tests.federated.mutations import PATIENT, array_changes, mutations
from tests.federated.test_counted_evaluation import toned, with_groups

LAYOUT = layout_of({"skin_tone": ("light", "dark")})
PLACES = {name: number for number, name in enumerate(NAMES, start=2)}
CHANGED = PLACES["south"]
Key = tuple[str, int]


@dataclass
class Tape:
    """What travelled in a round, by step and node; played back, with one message changed."""

    requests: dict[Key, RecordDict] = field(default_factory=dict)
    replies: dict[Key, RecordDict] = field(default_factory=dict)

    def recording(self, app):
        def record(message, context):
            key = unpack_request(message.content).step, context.node_id
            self.requests[key] = message.content
            reply = app(message, context)
            self.replies[key] = reply.content
            return reply

        return record

    def playing(self, step, changed):
        """Where two of three suffice, the third is silent: each reply is needed."""
        silent = (step, PLACES["studied"]) if step in ("survivors", "unmask") else None

        def play(message, context):
            key = unpack_request(message.content).step, context.node_id
            if key == silent:
                return Message(Error(2, "silent"), reply_to=message)
            content = changed if key == (step, CHANGED) else self.replies[key]
            return Message(content, reply_to=message)

        return play


@dataclass
class Scene:
    """One round of a world, recorded."""

    world: object
    round: object
    query: dict
    tape: Tape = field(default_factory=Tape)

    def exchange(self, app):
        """Drive the round over an app; gives who was missing, and why the round ended."""
        terms, record = self.world.terms(), Record()
        ask = places_asker(LocalGrid(app, [{}] * 3), terms, Event(), PLACES, absent=str)
        try:
            exchanger(ask, terms, record)(self.round, self.query)
        except SkinmlError as error:
            return error
        return None

    def answer(self, app, content):
        """Send one clinic a request; gives its reply as the coordinator reads it."""
        grid = LocalGrid(app, [{}] * 3)
        (number,) = grid.push_messages([Message(content, CHANGED, "train")])
        (reply,) = grid.pull_messages([number])
        return unpack_reply(reply.content)

    def clinics(self):
        close_clinics()
        app = client_app(self.world.open)
        return lambda message, context: app(message, _numbered(context))


def _numbered(context):
    context.node_config["partition-id"] = context.node_id - 2
    return context


@pytest.fixture
def scene(make):
    """A world that has done one round: a training round, or the last one with counts."""

    def build(trust, last=False, dropouts=0):
        world = make(trust, tolerated_dropouts=dropouts)
        learner, release = world.learner, None
        if last:
            release = evaluation_release(world.privacy, LAYOUT.shape)
            for place, (name, setup) in enumerate(dict(world.setups).items()):
                world.change(
                    name,
                    test_counts=CountsRelease(release, LAYOUT),
                    predict=with_groups(setup.predict),
                    samples={s: _toned(each, place) for s, each in setup.samples.items()},
                )
        rounds = schedule(learner, world.validation, None, release)
        round_ = rounds[-1] if last else learner.rounds[1]
        query = learner.model(learner.start()) if last else world.start_query(2)
        made = Scene(world, round_, query)
        assert made.exchange(made.tape.recording(made.clinics())) is None
        return made

    return build


def _toned(items, seed):
    groups = toned(items, seed).groups
    return replace(items, groups={"skin_tone": groups["skin_tone"]})


KINDS = [
    (("local", False), ["sums"]),
    (("local", True), ["sums"]),
    (("distributed", False), ["keys", "paired"]),
    (("distributed", False, 1), ["keys", "masked", "shares", "survivors", "unmask"]),
]


def of_another_round(content):
    reply = unpack_reply(content)
    return pack_reply(replace(reply, round=reply.round + 1))


@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_no_other_reply_is_summed_at_the_coordinator(scene, kind, steps):
    here, taken = scene(*kind), []
    assert sorted({step for step, _ in here.tape.replies}) == steps
    for step in steps:
        honest = here.tape.replies[step, CHANGED]
        assert here.exchange(here.tape.playing(step, honest)) is None  # the control
        others = [
            ("another clinic's", here.tape.replies[step, PLACES["north"]]),
            ("of another round", of_another_round(honest)),
        ]
        for what, changed in (*others, *mutations(honest, own=True)):
            error = here.exchange(here.tape.playing(step, changed))
            if error is None:
                taken.append(f"{step}: {what}")
            else:
                assert PATIENT not in str(error.rule), (step, what)
    assert taken == []


@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_no_other_request_is_answered_at_a_clinic(scene, kind, steps):
    here = scene(*kind)
    app = here.clinics()
    before = {name: here.world.ledger(name) for name in NAMES}
    taken = []
    for step in steps:
        honest = here.tape.requests[step, CHANGED]
        taken += [
            f"{step}: {what}"
            for what, changed in mutations(honest)
            if not here.answer(app, changed).problem
        ]
    assert taken == []
    assert {name: here.world.ledger(name) for name in NAMES} == before


@dataclass(frozen=True)
class Meddling(Mechanism):
    """Noise after which somebody changes the counts of test patients."""

    change: Callable[[np.ndarray], object] = np.asarray

    def privatize(self, release, exact):
        sums = super().privatize(release, exact)
        return self.change(sums) if release.name == TEST_COUNTS else sums


def test_no_other_counts_of_test_patients_leave_a_clinic(scene, tmp_path):
    here = scene("local", last=True)
    kinds = [what for what, _ in array_changes(np.zeros((3, 64)))]
    changes = {kind: lambda sums, k=kind: dict(array_changes(sums))[k].numpy() for kind in kinds}
    changes |= {"off the grid": lambda sums: sums + 1e-13, "none": np.asarray}
    share, left = here.world.setups["south"].mechanism.share, []
    for number, (kind, change) in enumerate(changes.items()):
        ledger = Ledger(tmp_path / f"ledger-{number}.jsonl", "south", KEY)
        here.world.change("south", mechanism=Meddling(share, change=change), ledger=ledger)
        reply = here.answer(here.clinics(), here.tape.requests["sums", CHANGED])
        if not reply.problem:
            left.append(kind)
        assert len(ledger.entries()) == 2  # charged before anything was computed
    assert left == ["none"]  # the control


def replies(clinic):
    """A clinic's own replies with something in them that is no part of the plan."""
    sums, signed = {"gradient": np.zeros(3)}, clinic.signed
    good = {"code": 3, "rule": "a", "got": "b", "do": "c"}
    fixed = {
        "rule": "the clinic's own code to finish the round",
        "do": "At the clinic: skinml clinic check tells of its data, node.log of a defect.",
    }
    yield "a patient for a sum", Reply("south", 1, {f"{PATIENT} 7": np.zeros(3)}, {})
    for dtype in ("float32", "int64", "bool", "complex128", "U8", "S8", "O"):
        yield dtype, Reply("south", 1, {"gradient": np.zeros(3, dtype)}, {})
    for number in (np.nan, np.inf):
        yield str(number), Reply("south", 1, {"gradient": np.full(3, number)}, {})
    for name in (7, None, b"south", "a\nb", "x" * 1000):
        yield f"the name {name!r:.20}", Reply(name, 1, sums, {})
    for number in (-1, 1.0, True, "1", 2**40):
        yield f"round {number!r}", Reply("south", number, sums, {})
    yield "words for a signed message", Reply("south", 1, {}, {}, PATIENT.encode())
    yield "another clinic's signed message", Reply("north", 1, {}, {}, signed)
    yield "sums beside a signed message", Reply("south", 1, sums, {}, signed)
    yield "sums beside a problem", Reply("", 0, sums, good)
    yield "a signed message beside a problem", Reply("", 0, {}, good, signed)
    yield "a name beside a problem", Reply("south", 0, {}, good)
    yield "a number in a problem", Reply("", 0, {}, good | {"got": 17})
    yield "more in a problem", Reply("", 0, {}, good | {"details": PATIENT})
    yield "less in a problem", Reply("", 0, {}, {"code": 3})
    yield "a long problem", Reply("", 0, {}, good | {"rule": "x" * 501})
    yield "lines in a problem", Reply("", 0, {}, good | {"got": f"b\n{PATIENT}"})
    for code in (1, 4, 6):
        yield f"words with code {code}", Reply("", 0, {}, good | {"code": code})
    for code in (0, 7, -1, True, "3", 3.0):
        yield f"code {code!r}", Reply("", 0, {}, good | {"code": code})
    words = {"code": 1, "got": f"ValueError: {PATIENT}"}
    yield "an error's own words", Reply("", 0, {}, fixed | words)


def test_no_other_reply_leaves_a_clinic(scene):
    here = scene("distributed")
    honest = unpack_reply(here.tape.replies["paired", CHANGED])
    assert unpack_reply(pack_reply(honest)) == honest  # the control
    let_out = []
    for what, reply in replies(honest):
        try:
            pack_reply(reply)
        except IntegrityError:
            continue
        let_out.append(what)
    assert let_out == []
