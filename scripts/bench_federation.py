"""A federation for `bench_rounds.py`: drawn clinics with ledgers, and Flower's bare loop beside it.

It lives in a module of its own so that worker processes import it instead of unpickling it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from skinml.durable import locked, read_whole, write_over, write_whole
from skinml.federated.client_app import client_app
from skinml.federated.clinic import Clinic, ClinicSetup
from skinml.federated.secure_clinic import secure_clinic
from skinml.federated.secure_session import Session
from skinml.privacy.ledger import Ceilings, Ledger
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release, gaussian_releases
from skinml.privacy.quantise import GRID
from skinml.privacy.settings import PrivacySettings, Trust
from skinml.privacy.trust import noise_rule
from skinml.records import Labels, Predictions, Samples
from skinml.stewardship.audit_log import public_key_hex
from skinml.training.head import HeadLearner
from skinml.training.settings import HeadSettings

RUN, KEY = "bench", bytes(32)
CLASSES = Labels(tuple(f"class-{place}" for place in range(7)), (True, *[False] * 6))
BARE = "bare"
_PATIENTS, _BINS = 8, 64


@dataclass(frozen=True)
class Federation:
    """Clinics of a benchmark, as plain values that travel to worker processes.

    Attributes:
        place: An empty folder for their ledgers.
        count: How many.
        trust: "central" for plain sums, "distributed" for secure ones.
        features: Numbers of an image.
        rounds: Gradient rounds.
        spare: How many clinics a secure sum may lose.
    """

    place: str
    count: int
    trust: Trust
    features: int
    rounds: int
    spare: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The clinics' names, in the order of the nodes."""
        return tuple(f"clinic-{number:03d}" for number in range(self.count))

    @property
    def privacy(self) -> PrivacySettings:
        """What the run promises."""
        return PrivacySettings(trust=self.trust, tolerated_dropouts=self.spare)

    def learner(self) -> HeadLearner:
        """Build the recipe."""
        settings = HeadSettings(rounds=self.rounds, learning_rate=1.0)
        return HeadLearner(settings, self.privacy, CLASSES, self.features, self.count)

    def session(self) -> Session | None:
        """Write down the terms of secure sums."""
        if self.trust != "distributed":
            return None
        keys = {name: bytes.fromhex(public_key_hex(_signing_key(name))) for name in self.names}
        return Session(RUN, keys, self.count - self.spare)

    def open(self, node: Mapping[str, object]) -> Clinic:
        """Open one node's clinic."""
        number = int(str(node["partition-id"]))
        name = self.names[number]
        folder = Path(self.place) / name
        folder.mkdir(parents=True, exist_ok=True)
        privacy, session = self.privacy, self.session()
        book = Book(folder / "book", plain=session is None)
        secure = None
        if session is not None:
            secret = hashlib.sha256(name.encode()).digest()
            secure = secure_clinic(session, name, secret, _signing_key(name), book)
        held = _samples(number, self.features)
        return Clinic(
            ClinicSetup(
                name=name,
                run=RUN,
                participants=self.names,
                learner=self.learner(),
                validation=validation_release(privacy),
                samples={"train": held, "validation": held, "test": held},
                predict=_predict,
                keep=lambda split, made: None,
                admitted=partial(_everybody, len(held.labels)),
                note=lambda entries, masks: None,
                ledger=Ledger(folder / "ledger.jsonl", name, KEY),
                ceilings=Ceilings,
                least_patients=2,
                mechanism=Mechanism(noise_rule(privacy, self.count).clinic),
                privacy=privacy,
                split_key_id="k",
                sampling_root=1,
                simulated=True,
                secure=secure,
                book=None if secure else book,
            )
        )


@dataclass(frozen=True)
class Book:
    """What a clinic has answered, on the disk as in a run, in clear.

    Attributes:
        path: Its file.
        plain: Whether sums leave as they are.
    """

    path: Path
    plain: bool

    def load(self) -> bytes:
        """Read it."""
        return read_whole(self.path, "book") if self.path.exists() else b""

    def save(self, content: bytes) -> None:
        """Write it; synced unless it is plain, as in a run."""
        write = write_over if self.plain else write_whole
        write(self.path, content, "book")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others out."""
        with locked(self.path.with_name(".book.lock"), "book"):
            yield


class TimedApp(ClientApp):
    """Runs the clinics, or answers Flower's bare loop with arrays; writes down how long it took.

    Args:
        federation: The clinics.
        clocks: Folder where each process appends seconds of processor time.
    """

    def __init__(self, federation: Federation, clocks: Path) -> None:
        super().__init__()
        self._honest = client_app(federation.open)
        self._clocks = clocks
        self._shape = (federation.features + 1, len(CLASSES.names))

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message."""
        began = time.thread_time()
        bare = BARE in message.content
        reply = self._echo(message) if bare else self._honest(message, context)
        spent = time.thread_time() - began
        with (self._clocks / f"{BARE if bare else 'ours'}-{os.getpid()}").open("a") as file:
            file.write(f"{spent!r}\n")
        return reply

    def _echo(self, message: Message) -> Message:
        return Message(
            RecordDict(
                {
                    "arrays": to_records({"gradient": np.zeros(self._shape)}),
                    "metrics": MetricRecord({"num-examples": 1}),
                }
            ),
            reply_to=message,
        )


def clinics_seconds(clocks: Path, whose: str) -> float:
    """Add up what the clinics' processes have written, and begin anew.

    Args:
        clocks: The folder.
        whose: "ours" or "bare".

    Returns:
        Seconds of processor time.
    """
    total = 0.0
    for path in clocks.glob(f"{whose}-*"):
        total += sum(float(line) for line in path.read_text().split())
        path.write_text("")
    return total


def to_records(arrays: Mapping[str, NDArray[np.float64]]) -> ArrayRecord:
    """Wrap arrays for Flower's FedAvg."""
    return ArrayRecord({n: Array(np.ascontiguousarray(a)) for n, a in arrays.items()})


def validation_release(privacy: PrivacySettings) -> Release:
    """Plan the release that ends a schedule."""
    scores = Release(
        "validation_scores", "validation", "validation", 1.0, 0.0, (2, _BINS), grid=GRID
    )
    return gaussian_releases(privacy, [(scores, 1.0)])[0]


def _samples(number: int, features: int) -> Samples:
    rng = np.random.default_rng(number)
    inputs = rng.normal(size=(_PATIENTS, features))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    patients = np.array([f"{number}-{place}" for place in range(_PATIENTS)])
    return Samples(
        inputs.astype(np.float32), rng.integers(len(CLASSES.names), size=_PATIENTS), patients
    )


def _everybody(count: int, split: str) -> NDArray[np.bool_]:
    del split
    return np.ones(count, dtype=bool)


def _predict(model: object, samples: Samples) -> Predictions:
    raise NotImplementedError("no round of the benchmark predicts")


def _signing_key(name: str) -> bytes:
    return hashlib.sha256(b"signing" + name.encode()).digest()
