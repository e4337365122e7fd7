"""How a run's clinics are brought together: asked, made ready, joined by latecomers, sent home.

Who is in a run is settled once, before its first round, and kept in its draft folder: noise and
keys are planned for those clinics. One of them that has not said yes or is not ready by then is
missing, and takes part from the round after it is.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Timer

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from skinml.config import RunConfig
from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.run_proposal import RunProposal
from skinml.deployment.setup_messages import (
    pack_content,
    read_standing,
    write_end,
    write_terms,
)
from skinml.deployment.submission import Standing, write_standing
from skinml.durable import read_whole, write_whole
from skinml.errors import IncompleteRunError
from skinml.experiments.sites import Terms
from skinml.federated.coordinator import UNREACHED, arrived, replies_of

POLL_S = 0.2
PARTICIPANTS = "participants.json"
_ASK_AGAIN_S = (3.0, 30.0)  # at first, and where people take their time
_PROPOSE_S = 20.0
_PREPARE_S = 4 * 3600.0
_FORGET_S = 120.0
_FINISH_S = 30.0
_ANSWERED = frozenset({"approved", "refused", "revoked"})
_WHAT = "clinics of a run"
_log = logging.getLogger("skinml.coordinator")


@dataclass(frozen=True)
class Quorum:
    """When a run does not wait any longer.

    Attributes:
        absent: Clinics that it may begin without.
        patience_s: Seconds that it still waits for those, once the others are there.
    """

    absent: int
    patience_s: float


def quorum_of(config: RunConfig) -> Quorum:
    """Read from a config when its run begins.

    Args:
        config: The run's config.

    Returns:
        As many absent clinics as a round may go on without, and a round's deadline. Under secure
        sums none: each clinic's public keys are needed before the first of them.
    """
    masked = config.privacy.trust == "distributed"
    absent = 0 if masked else config.federation.allowed_missing
    return Quorum(absent, config.federation.round_deadline_s)


class Gathering:
    """The clinics of one run: who agreed, who is ready, who may still come.

    Attributes:
        states: Each clinic that was asked, and where it stands, in words.
        ready: The nodes of those that answer rounds; grows while the run goes on.
    """

    def __init__(
        self,
        folder: FederationFolder,
        proposal: RunProposal,
        draft: Path,
        grid: Grid,
        quorum: Quorum,
    ) -> None:
        """Begin with nobody asked.

        Args:
            folder: The federation's folder.
            proposal: What is proposed, and to whom.
            draft: The run's draft folder, where the standing is written.
            grid: Flower's grid.
            quorum: When the run does not wait any longer.
        """
        self._folder, self._proposal, self._draft, self._grid = folder, proposal, draft, grid
        self._quorum = quorum
        self._terms = b""
        self._open: dict[str, tuple[str, float]] = {}  # message id: clinic, when it was sent
        self._yes: set[str] = set()
        self.states = dict.fromkeys(proposal.clinics, "not reached yet")
        self.ready: dict[str, int] = {}

    def settle(self) -> tuple[str, ...]:
        """Ask until it is known who is in the run; the same clinics again after a restart.

        Returns:
            The clinics: those that agreed, and those that may still come, in order.

        Raises:
            IncompleteRunError: If none agreed, or a resumed run lacks more than it may.
        """
        content, enough_since = pack_content(self._proposal.content()), float("inf")
        settled, pause = self._settled(), _ASK_AGAIN_S[0]
        while True:
            nodes = self._nodes()
            open_ = {name: at for name, at in nodes.items() if self.states[name] not in _ANSWERED}
            found = asked(self._grid, open_, content, "query.propose", _PROPOSE_S)
            for name, (state, why) in found.items():
                self._heard(name, state or why)
            self.states |= {name: "revoked" for name in self.states if name not in nodes}
            write_standing(self._draft, Standing("proposed", dict(self.states)))
            waiting = [name for name, state in self.states.items() if state not in _ANSWERED]
            clinics = settled or self._agreed(waiting)
            away = [name for name in clinics if self.states[name] != "approved"]
            enough = len(clinics) > len(away) <= self._quorum.absent
            enough_since = min(enough_since, time.monotonic()) if enough else float("inf")
            over = datetime.now(UTC) >= self._proposal.expires
            if not waiting or over or time.monotonic() - enough_since > self._quorum.patience_s:
                break
            time.sleep(pause)
            pause = min(1.3 * pause, _ASK_AGAIN_S[1])
        if not settled and over:
            clinics, away = self._agreed([]), []
        if len(away) > self._quorum.absent or len(away) == len(clinics):
            raise IncompleteRunError(
                rule="clinics that approved the run" if settled else "a clinic that approved it",
                got="; ".join(f"{name}: {state}" for name, state in sorted(self.states.items())),
                do="Ask the clinics, then submit it again.",
            )
        write_whole(self._draft / PARTICIPANTS, json.dumps(clinics).encode(), _WHAT)
        return clinics

    def prepare(self, terms: Terms, standing: Standing) -> None:
        """Have every clinic of the run that agreed make its data ready.

        Args:
            terms: The run's terms.
            standing: What is written before they are asked.

        Raises:
            IncompleteRunError: If more cannot than the run may begin without.
        """
        self._terms = write_terms(terms)
        write_standing(self._draft, standing)
        nodes = self._nodes()
        agreed = {nodes[name]: name for name in terms.clinics if name in self._yes & set(nodes)}
        messages, stop = dict.fromkeys(agreed, pack_content(self._terms)), Event()
        timer = Timer(self._quorum.patience_s, stop.set)
        timer.daemon = True
        for node, reply in replies_of(
            self._grid, messages, "query.prepare", _PREPARE_S, stop, poll_s=POLL_S, apart=True
        ):
            self._prepared(agreed[node], node, *read_standing(reply, agreed[node]))
            enough = len(self.ready) + self._quorum.absent >= len(terms.clinics)
            if enough and self.ready and timer.ident is None:
                timer.start()
        timer.cancel()
        self._wait_for_the_lost(terms.clinics)
        away = {name: why for name, why in self.states.items() if name in terms.clinics}
        away = {name: why for name, why in away.items() if name not in self.ready}
        if len(away) > self._quorum.absent or not self.ready:
            raise IncompleteRunError(
                rule="every clinic that approved the run to make its data ready",
                got=f"not so at {', '.join(sorted(away))}",
                do=f"Mend it there, then: skinml federation resume {terms.run}",
                details=[f"{name}: {why}" for name, why in sorted(away.items())],
            )

    def _wait_for_the_lost(self, clinics: tuple[str, ...]) -> None:
        """Go on asking clinics that Flower gave up on, as long as the run needs them."""
        until = time.monotonic() + self._quorum.patience_s
        while time.monotonic() < until:
            away = [name for name in clinics if name not in self.ready]
            lost = [name for name in away if self.states[name] in UNREACHED]
            if not lost or (len(away) <= self._quorum.absent and self.ready):
                return
            time.sleep(_ASK_AGAIN_S[0])
            self.look(clinics)

    def look(self, clinics: tuple[str, ...]) -> None:
        """Ask those that are not ready where they stand, and hear what they answered; never wait.

        Args:
            clinics: The clinics of the run.
        """
        nodes, now = self._nodes(), time.monotonic()
        for name in list(self.ready):
            if name in nodes:
                self.ready[name] = nodes[name]  # another one where the clinic has joined again
            else:
                del self.ready[name]
                self.states[name] = "revoked"
        if self._open:
            for sent, message in arrived(self._grid, list(self._open), apart=True):
                name, _ = self._open.pop(sent)
                state, why = read_standing(message, name)
                if name in self._yes and name in nodes:
                    self._prepared(name, nodes[name], state, why)
                else:
                    self._heard(name, state or why)
        # A message that a dead node has taken with it is never answered.
        self._open = {key: each for key, each in self._open.items() if now - each[1] < _FORGET_S}
        asked_already = {name for name, _ in self._open.values()}
        for name in clinics:
            known = name in self.ready or name in asked_already or self.states[name] == "refused"
            if name in nodes and not known:
                yes = name in self._yes
                content = self._terms if yes else self._proposal.content()
                kind = "query.prepare" if yes else "query.propose"
                message = Message(pack_content(content), nodes[name], kind)
                self._open |= dict.fromkeys(self._grid.push_messages([message]), (name, now))

    def absent(self, clinic: str) -> str:
        """Say why a clinic is not asked in a round.

        Args:
            clinic: Its name.

        Returns:
            One line.
        """
        state = self.states.get(clinic, "")
        return {
            "pending": "nobody there has said yes yet",
            "approved": "still making its data ready",
            "refused": "it refused the run",
            "revoked": "its enrolment was revoked",
        }.get(state, state or "no node of this clinic")

    def finish(self) -> None:
        """Tell the clinics that the run is over; one that does not hear it keeps its samples."""
        content = pack_content(write_end(self._proposal.run, "completed"))
        told = {name: node for name, node in self._nodes().items() if name in self._yes}
        found = asked(self._grid, told, content, "query.finish", _FINISH_S)
        for name, (state, _) in found.items():
            if state != "gone":
                _log.warning("clinic %s did not hear that the run is over", name)

    def _heard(self, name: str, state: str) -> None:
        self.states[name] = state
        if state == "approved":
            self._yes.add(name)

    def _prepared(self, name: str, node: int, state: str, why: str) -> None:
        if state == "ready":
            self.ready[name] = node
            self.states[name] = "ready"
        elif why and why != "no answer":
            self.states[name] = why

    def _agreed(self, waiting: list[str]) -> tuple[str, ...]:
        """Give, in order, those that approved and those that may still."""
        can = {name for name, state in self.states.items() if state == "approved"} | set(waiting)
        return tuple(sorted(can))

    def _settled(self) -> tuple[str, ...]:
        path = self._draft / PARTICIPANTS
        return tuple(json.loads(read_whole(path, _WHAT))) if path.exists() else ()

    def _nodes(self) -> dict[str, int]:
        enrolled = self._folder.enrolments()
        return {
            name: each.node_id
            for name in self._proposal.clinics
            if (each := enrolled[name]).state == "joined" and each.node_id is not None
        }


def asked(
    grid: Grid, places: Mapping[str, int], content: RecordDict, kind: str, patience_s: float
) -> dict[str, tuple[str, str]]:
    """Ask clinics one thing of the setup and wait.

    Args:
        grid: Flower's grid.
        places: The clinics and their nodes.
        content: What they are sent.
        kind: The message's type.
        patience_s: Seconds to wait.

    Returns:
        Each clinic's state, and what went wrong in words; one of them is empty.
    """
    names = {node: name for name, node in places.items()}
    messages = dict.fromkeys(names, content)
    found = replies_of(grid, messages, kind, patience_s, Event(), poll_s=POLL_S, apart=True)
    return {names[node]: read_standing(reply, names[node]) for node, reply in found}
