"""A clinic that signs nonsense is missing: it neither ends the round nor spoils the record."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from skinml.errors import IncompleteRunError
from skinml.federated.messages import Reply
from skinml.federated.roll_call import Record, RunTerms
from skinml.federated.secure_masks import to_ring
from skinml.federated.secure_rounds import SecureRounds
from skinml.federated.secure_session import packed, signed
from skinml.federated.secure_steps import answer_step
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import Release
from skinml.privacy.quantise import GRID
from skinml.training.learner import Round
from tests.federated.secure_world import STEPS, Federation

A, B, C, D = (f"clinic-{place}" for place in range(4))
ROUND = Round(1, "gradient", (Release("gradient", "training", "train", 1.0, 1.0, (3,), grid=GRID),))


@dataclass
class Wire:
    """Brings requests to the clinics; A answers one step with nonsense under its own signature."""

    step: str
    silent: str = ""
    federation: Federation = field(default_factory=lambda: Federation(4, 3))
    record: Record = field(default_factory=Record)

    def ask(self, requests):
        for name, request in requests.items():
            if name == self.silent and request.step == self.step:
                continue
            yield name, Reply(name, request.round, {}, {}, packed(self._message(name, request)))

    def _message(self, name, request):
        clinic = self.federation.clinics[name]
        if request.step == "keys":
            return clinic.advertise()
        if name == A and request.step == self.step:
            attempt = self.federation.attempt(request.round, request.attempt)
            return signed(clinic.signing_key, attempt, name, request.step, b"nonsense")
        return answer_step(clinic, request, lambda: to_ring(np.ones(3), GRID))

    def exchange(self):
        session = self.federation.session
        terms = RunTerms("run-1", session.participants, 1, 3, 1.0, Mechanism(0.0), session=session)
        return SecureRounds(self.ask, terms, session, self.record).exchange(ROUND, {})


@pytest.mark.parametrize("step", STEPS)
def test_the_sum_of_the_others_is_opened_and_the_record_names_whose_message_it_was(step):
    wire = Wire(step)
    survivors = (B, C, D) if step in ("shares", "masked") else (A, B, C, D)
    assert np.array_equal(wire.exchange().total["gradient"], [float(len(survivors))] * 3)
    (entry,) = wire.record.participation
    assert entry.took_part == survivors
    assert list(entry.missing) == [name for name in (A,) if name not in survivors]


@pytest.mark.parametrize("step", ["shares", "masked"])
def test_with_too_few_left_the_record_holds_nobody_for_present_who_was_not(step):
    wire = Wire(step, silent=D)
    with pytest.raises(IncompleteRunError):
        wire.exchange()
    (entry,) = wire.record.participation
    assert entry.took_part == (B, C)
    assert list(entry.missing) == [A, D]
