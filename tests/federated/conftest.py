"""Three small clinics, their ledgers and a coordinator, over the local grid."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from functools import partial
from threading import Event

import numpy as np
import pytest
from flwr.app import Message

from skinml.durable import locked
from skinml.errors import (
    ConfigError,
)
from skinml.federated.client_app import client_app, close_clinics
from skinml.federated.clinic import Clinic, ClinicSetup, schedule
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.federated.local_grid import LocalGrid
from skinml.federated.messages import Request
from skinml.federated.roll_call import Record, RunTerms
from skinml.federated.secure_clinic import secure_clinic
from skinml.federated.secure_session import Session
from skinml.models.linear_head import LinearHead
from skinml.privacy.ledger import Ceilings, Ledger
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release, gaussian_releases
from skinml.privacy.quantise import GRID
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import noise_rule
from skinml.records import Labels, Predictions, Samples
from skinml.stewardship.signing import public_key_hex
from skinml.training.evaluate import evaluate
from skinml.training.fit import fit
from skinml.training.head import HeadLearner
from skinml.training.settings import HeadSettings

CLASSES = Labels(("benign", "malignant"), (False, True))
NAMES = ("north", "south", "studied")
FEATURES, ROUNDS = 5, 4
RUN = "run-1"
KEY = bytes(range(32))


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


class FileBook:
    """What a clinic answered, in a file: as durable as a test needs it."""

    def __init__(self, path):
        self.path = path

    def load(self):
        return self.path.read_bytes() if self.path.exists() else b""

    def save(self, content):
        self.path.write_bytes(content)

    def locked(self):
        return locked(self.path.with_name("book.lock"), "book")


def signing_key(name):
    return name.encode().ljust(32, b".")


def secure_side(privacy, name, root):
    """A clinic's side of the secure sums, with signing keys that follow from the names."""
    registered = {n: bytes.fromhex(public_key_hex(signing_key(n))) for n in NAMES}
    threshold = len(NAMES) - privacy.tolerated_dropouts
    session = Session(RUN, registered, threshold, privacy.colluding_clinics)
    secret = hashlib.sha256(name.encode()).digest()
    return secure_clinic(session, name, secret, signing_key(name), FileBook(root / name / "book"))


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
        rule = noise_rule(self.privacy, len(NAMES))
        secure = self.setups[NAMES[0]].secure
        session = secure.session if secure else None
        terms = RunTerms(
            RUN, NAMES, 0, 1, 5.0, Mechanism(rule.coordinator), rule.clinic, session=session
        )
        return replace(terms, **changes)

    def open(self, node):
        name = NAMES[node["partition-id"]]
        if name not in self.setups:
            raise ConfigError(rule="a clinic of the run", got="another", do="Enrol it.")
        return Clinic(self.setups[name])

    def grid(self, nodes=3, change=None):
        """A grid whose second clinic's training replies may be changed on the way."""
        close_clinics()
        honest = client_app(self.open)

        def app(message, context):
            reply = honest(message, context)
            if change is None or context.node_id != 3 or message.metadata.message_type != "train":
                return reply
            return Message(change(reply.content), reply_to=message)

        return LocalGrid(app, [{"partition-id": i} for i in range(nodes)])

    def request(self, number, query=None, run=RUN, participants=NAMES):
        sent = self.start_query(number) if query is None else query
        return Request(run, number, 1, participants, sent)

    def start_query(self, number):
        if number == 1:
            return {}
        return self.learner.query(self.learner.rounds[1], self.learner.start())

    def run(self, **changes):
        """All rounds; gives the model and the released validation scores."""
        terms = self.terms(**changes)
        ask = grid_asker(self.grid(), terms, Event())
        exchange = exchanger(ask, terms, self.record)
        fitted = fit(self.learner, exchange)
        last = schedule(self.learner, self.validation)[-1]
        return fitted, exchange(last, fitted.arrays).total[self.validation.name]

    def ledger(self, name):
        return Ledger(self.setups[name].ledger.path, name, KEY).entries()


@pytest.fixture
def make(tmp_path):
    numbers = itertools.count()

    def build(trust="local", kept=None, books=None, **changes):
        """A federation; with books its clinics keep plain sums too, and send them again."""
        shelf = tmp_path / (books or f"books-{next(numbers)}")
        privacy = PrivacySettings(trust=trust, **changes)
        learner = HeadLearner(
            HeadSettings(rounds=ROUNDS, learning_rate=1.0), privacy, CLASSES, FEATURES, len(NAMES)
        )
        score = Release(
            "validation_scores", "validation", "validation", 1.0, 0.0, (2, 64), grid=GRID
        )
        validation = gaussian_releases(privacy, [(score, 1.0)])[0]
        stored = {} if kept is None else kept
        for name in NAMES:
            (tmp_path / name).mkdir(exist_ok=True)
            (shelf / name).mkdir(parents=True, exist_ok=True)

        def everybody(name, split):
            return np.ones(len(setups[name].samples[split].labels), dtype=bool)

        setups = {
            name: ClinicSetup(
                name=name,
                run=RUN,
                participants=NAMES,
                learner=learner,
                validation=validation,
                samples={
                    split: samples(10 * place + part)
                    for part, split in enumerate(("train", "validation", "test"))
                },
                predict=predict,
                keep=lambda split, made, name=name: stored.__setitem__((name, split), made),
                admitted=partial(everybody, name),
                note=lambda entries, masks: None,
                ledger=Ledger(tmp_path / name / "ledger.jsonl", name, KEY),
                ceilings=Ceilings,
                least_patients=2,
                mechanism=Mechanism(noise_rule(privacy, len(NAMES)).clinic),
                privacy=privacy,
                split_key_id="k",
                sampling_root=1,
                simulated=True,
                secure=secure_side(privacy, name, shelf) if trust == "distributed" else None,
                book=FileBook(shelf / name / "book") if books else None,
            )
            for place, name in enumerate(NAMES)
        }
        return World(privacy, setups, learner, validation, Record())

    yield build
    close_clinics()
