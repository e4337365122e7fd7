"""A federation in one process whose clinics can be lost before any step of a secure sum."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skinml.federated.secure_aggregation import PairedSum, SecureSum, posted
from skinml.federated.secure_clinic import SecureClinic
from skinml.federated.secure_keys import Keyring
from skinml.federated.secure_session import Attempt, Session

STEPS = ("shares", "masked", "survivors", "unmask")
OF_ALL = ("paired",)


class Book:
    """What a clinic has saved."""

    def __init__(self):
        self.content = b""
        self._lock = Lock()

    def load(self):
        return self.content

    def save(self, content):
        self.content = content

    def locked(self):
        return self._lock


class SlowBook(Book):
    """So slow that whoever asks at once has read it before anybody writes."""

    def load(self):
        content = super().load()
        time.sleep(0.05)
        return content


@dataclass
class Federation:
    """k clinics with registered keys, and the messages of one attempt as they were sent."""

    k: int
    threshold: int
    colluding: int = 0
    size: int = 3
    clinics: dict = field(init=False)

    def __post_init__(self):
        names = [f"clinic-{place}" for place in range(self.k)]
        keys = {name: Ed25519PrivateKey.generate() for name in names}
        registered = {n: key.public_key().public_bytes_raw() for n, key in keys.items()}
        self.session = Session("run-1", registered, self.threshold, self.colluding)
        self.clinics = {
            n: SecureClinic(self.session, Keyring(n, os.urandom(32)), keys[n], Book())
            for n in names
        }
        self.adverts = [clinic.advertise() for clinic in self.clinics.values()]
        rng = np.random.default_rng(self.k)
        self.inputs = {
            n: rng.integers(2**64, size=self.size, dtype=np.uint64, endpoint=False) for n in names
        }

    def attempt(self, round_=1, number=1):
        return Attempt(self.session, round_, number)

    @property
    def steps(self):
        """The steps of a sum: one where all clinics are needed."""
        return OF_ALL if self.session.all_needed else STEPS

    def staying(self, lost, step):
        """Clinics that still answer at a step; lost gives the step before which each is lost."""
        place = self.steps.index(step)
        return [n for n in self.clinics if lost.get(n, len(self.steps)) > place]

    def share(self, attempt, lost=()):
        """The first step, with clinics lost before it."""
        lost = dict(lost)
        return posted(
            attempt,
            {n: self.clinics[n].share(attempt, self.adverts) for n in self.staying(lost, "shares")},
        )

    def mask(self, attempt, shared, name):
        letters = shared.letters[name]
        return self.clinics[name].mask(attempt, self.adverts, letters, lambda: self.inputs[name])

    def pair(self, attempt, name, query=b""):
        return self.clinics[name].pair(attempt, self.adverts, lambda: self.inputs[name], query)

    def sent(self, attempt, name):
        """One clinic's sum as it leaves, under its masks."""
        if self.session.all_needed:
            return self.pair(attempt, name)
        return self.mask(attempt, self.share(attempt), name)

    def sum(self, attempt, lost=()):
        """All steps; gives the opened sum and whose inputs it is of."""
        lost = dict(lost)
        if self.session.all_needed:
            total = PairedSum(attempt, self.size)
            for name in self.staying(lost, "paired"):
                total.add(self.pair(attempt, name))
            return total.open(), total.survivors
        shared = self.share(attempt, lost)
        total = SecureSum(attempt, shared, self.size)
        for name in self.staying(lost, "masked"):
            total.add(self.mask(attempt, shared, name))
        total.require_enough()
        agreements = [
            self.clinics[n].agree(attempt, shared.letters[n], total.survivors)
            for n in self.staying(lost, "survivors")
        ]
        unmasked = {}
        for name in self.staying(lost, "unmask"):
            letters = shared.letters[name]
            unmasked[name] = self.clinics[name].unmask(attempt, self.adverts, letters, agreements)
        return total.open(unmasked), total.survivors
