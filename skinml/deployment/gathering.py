"""How a run's clinics are brought together: asked, made ready, joined by latecomers, sent home.

Who is in a run is settled once, before its first round, and kept in its draft folder: noise and
keys are planned for those clinics. One of them that has not said yes or is not ready by then is
missing, and takes part from the round after it is.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from skinml.config import RunConfig
from skinml.deployment.federation_folder import Enrolment, FederationFolder
from skinml.deployment.kept_adverts import ADVERTS
from skinml.deployment.run_proposal import RunProposal
from skinml.deployment.runner import USUAL_LIMIT_S
from skinml.deployment.setup_messages import (
    Heard,
    heard_of,
    pack_content,
    write_end,
    write_terms,
)
from skinml.deployment.submission import Standing, write_standing
from skinml.deployment.turns import Turns
from skinml.durable import read_whole, write_whole
from skinml.errors import IncompleteRunError
from skinml.experiments.sites import Terms
from skinml.federated.coordinator import UNREACHED, arrived, replies_of

POLL_S = 0.2
PARTICIPANTS = "participants.json"
KEYS = "signing-keys.json"
ANOTHER_KEY = "it joined anew and has another key: submit the run again to have it in"
_ASK_AGAIN_S = (3.0, 30.0)  # at first, and where people take their time
_SLOWEST_LOOK_S = 2.0
_PROPOSE_S = 20.0
_PREPARE_S = USUAL_LIMIT_S + 600.0  # a clinic's runner gives up after that long, and says so
_FINISH_S = {"completed": 90.0, "failed": 10.0}  # somebody may resume a failed one at once
_ANSWERED = frozenset({"approved", "refused", "revoked", ANOTHER_KEY})
_WHAT = "clinics of a run"
_log = logging.getLogger("skinml.coordinator")


@dataclass(frozen=True)
class Quorum:
    """When a run does not wait any longer.

    Attributes:
        absent: Clinics that it may begin without.
        patience_s: Seconds that it still waits for those, once the others are there.
        masked: Whether its sums leave under masks, for which a clinic's key is settled.
        silent_s: Seconds of silence after which a clinic is asked to make ready once more: a line
            that went dead without a word has taken the message with it.
    """

    absent: int
    patience_s: float
    masked: bool = False
    silent_s: float = 120.0


def quorum_of(config: RunConfig, draft: Path) -> Quorum:
    """Read from a config when its run begins, or goes on.

    Args:
        config: The run's config.
        draft: The run's draft folder.

    Returns:
        As many absent clinics as a round may go on without, and a round's deadline. Under secure
        sums none until each clinic's public keys were there once: no sum is planned without them.
    """
    masked = config.privacy.trust == "distributed"
    absent = config.federation.allowed_missing
    if masked and not (draft / ADVERTS).exists():
        absent = 0
    return Quorum(absent, config.federation.round_deadline_s, masked)


@dataclass(frozen=True)
class _Sent:
    """A message that waits for its answer."""

    name: str
    node: int
    kind: str
    at: float


class Gathering:
    """The clinics of one run: who agreed, who is ready, who may still come.

    Attributes:
        states: Each clinic that was asked, and where it stands, in words.
        ready: The nodes of those that answer rounds; grows while the run goes on.
        keys: The signing keys that the run was settled with; empty before.
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
        self._open: dict[str, _Sent] = {}
        self._yes: set[str] = set()
        self._turns = Turns()
        self.keys: dict[str, str] = self._known_keys()
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
            for name, heard in found.items():
                self._heard(name, heard.state or heard.why)
            self.states |= {name: self._gone(name) for name in self.states if name not in nodes}
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
        if not self.keys:
            enrolled = self._folder.enrolments()
            self.keys = {name: str(enrolled[name].signing_key) for name in clinics}
            write_whole(self._draft / KEYS, json.dumps(self.keys).encode(), _WHAT)
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
        agreed = [name for name in terms.clinics if name in self._yes]
        began, pause, enough_since = time.monotonic(), POLL_S, float("inf")
        while True:
            nodes, now = self._nodes(), time.monotonic()
            self.states |= {name: self._gone(name) for name in agreed if name not in nodes}
            self._hear(nodes)
            self._ask(self._awaited(agreed), nodes)
            enough = len(self.ready) + self._quorum.absent >= len(terms.clinics)
            enough_since = min(enough_since, now) if enough and self.ready else float("inf")
            waiting = self._waited_for(agreed, now, enough=enough_since <= now)
            late = now - enough_since > self._quorum.patience_s or now - began > _PREPARE_S
            if not waiting or late:
                break
            time.sleep(pause)
            pause = min(1.1 * pause, _SLOWEST_LOOK_S)
        away = {name: why for name, why in self.states.items() if name in terms.clinics}
        away = {name: why for name, why in away.items() if name not in self.ready}
        if len(away) > self._quorum.absent or not self.ready:
            raise IncompleteRunError(
                rule="every clinic that approved the run to make its data ready",
                got=f"not so at {', '.join(sorted(away))}",
                do=f"Mend it there, then: skinml federation resume {terms.run}",
                details=[f"{name}: {why}" for name, why in sorted(away.items())],
            )

    def _awaited(self, agreed: Iterable[str]) -> list[str]:
        """Name those who have not said what became of their data."""
        return [
            name
            for name in agreed
            if name not in self.ready and self.states[name] in {"approved", *UNREACHED}
        ]

    def _waited_for(self, agreed: Iterable[str], now: float, *, enough: bool) -> list[str]:
        """Of those, name who is worth waiting for: not for ever for whom Flower gave up on."""
        waiting = self._awaited(agreed)
        lost = {name for name in waiting if self.states[name] in UNREACHED}
        self._turns.note_lost(lost, now)
        gone = {n for n in lost if enough or self._turns.lost_s(n, now) > self._quorum.patience_s}
        return [name for name in waiting if name not in gone]

    def look(self, clinics: tuple[str, ...]) -> None:
        """Ask those that are not ready where they stand, and hear what they answered; never wait.

        Args:
            clinics: The clinics of the run.
        """
        nodes = self._nodes()
        for name in list(self.ready):
            if name not in nodes:
                del self.ready[name]
                self.states[name] = self._gone(name)
            elif self.ready[name] != nodes[name]:  # it joined again: its folder may be a new one
                self.unready(name)
        self._hear(nodes)
        self._ask(clinics, nodes)

    def unready(self, clinic: str) -> None:
        """Have a clinic make its data ready once more, for it says or may have lost them.

        Args:
            clinic: Its name.
        """
        if self.ready.pop(clinic, None) is not None:
            self.states[clinic] = "approved"
            self._yes.add(clinic)

    def _hear(self, nodes: Mapping[str, int]) -> None:
        """Take in what has been answered; an answer to any of a clinic's messages counts."""
        for key, message in arrived(self._grid, list(self._open), apart=True):
            sent = self._open.pop(key)
            heard = heard_of(message, sent.name)
            if nodes.get(sent.name) != sent.node or sent.name in self.ready:
                continue
            if sent.kind == "query.prepare":
                self._prepared(sent, heard)
            elif sent.name not in self._yes:
                self._heard(sent.name, heard.state or heard.why)
        now = time.monotonic()
        self._open = {key: each for key, each in self._open.items() if now - each.at < _PREPARE_S}

    def _ask(self, names: Iterable[str], nodes: Mapping[str, int]) -> None:
        """Ask those who are not ready, unless they have been asked a moment ago."""
        now = time.monotonic()
        asked_lately = {
            (each.name, each.node, each.kind)
            for each in self._open.values()
            if now - each.at < self._quorum.silent_s
        }
        for name in names:
            yes = name in self._yes
            kind = "query.prepare" if yes else "query.propose"
            known = name in self.ready or self.states[name] == "refused"
            if known or name not in nodes or (name, nodes[name], kind) in asked_lately:
                continue
            if yes and not self._turns.may(name, now):
                continue
            content = pack_content(self._terms if yes else self._proposal.content())
            sent = self._grid.push_messages([Message(content, nodes[name], kind)])
            self._open |= dict.fromkeys(sent, _Sent(name, nodes[name], kind, now))

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

    def expect_everybody(self) -> None:
        """Count on all clinics of a run whose report is there: they have only to hear its end."""
        self._yes |= set(self._settled())

    def finish(self, outcome: str) -> None:
        """Tell the clinics that the run is over; one that does not hear it keeps its samples.

        Args:
            outcome: How it ended: completed or failed.
        """
        content = pack_content(write_end(self._proposal.run, outcome))
        told = {name: node for name, node in self._nodes().items() if name in self._yes}
        found = asked(self._grid, told, content, "query.finish", _FINISH_S[outcome])
        for name, heard in found.items():
            if heard.state != "gone":
                _log.warning("clinic %s did not hear that the run is over", name)

    def _heard(self, name: str, state: str) -> None:
        self.states[name] = state
        if state == "approved":
            self._yes.add(name)

    def _prepared(self, sent: _Sent, heard: Heard) -> None:
        if heard.state == "ready":
            self.ready[sent.name] = sent.node
            self.states[sent.name] = "ready"
            self._turns.forget(sent.name)
        elif heard.why:
            self.states[sent.name] = heard.why
            if heard.why in UNREACHED:
                self._turns.unreached(sent.name, time.monotonic())
            else:
                self._turns.failed(sent.name, time.monotonic(), for_good=heard.refused)

    def _agreed(self, waiting: list[str]) -> tuple[str, ...]:
        """Give, in order, those that approved and those that may still."""
        can = {name for name, state in self.states.items() if state == "approved"} | set(waiting)
        return tuple(sorted(can))

    def _settled(self) -> tuple[str, ...]:
        path = self._draft / PARTICIPANTS
        return tuple(json.loads(read_whole(path, _WHAT))) if path.exists() else ()

    def _known_keys(self) -> dict[str, str]:
        path = self._draft / KEYS
        return dict(json.loads(read_whole(path, _WHAT))) if path.exists() else {}

    def _nodes(self) -> dict[str, int]:
        """Give the nodes of those who have joined; none of whom the run's sums do not know."""
        enrolled = self._folder.enrolments()
        return {
            name: each.node_id
            for name in self._proposal.clinics
            if (each := enrolled[name]).state == "joined"
            and each.node_id is not None
            and not self._is_another(name, each)
        }

    def _is_another(self, name: str, each: Enrolment) -> bool:
        known = self.keys.get(name) if self._quorum.masked else None
        return known is not None and each.signing_key != known

    def _gone(self, name: str) -> str:
        each = self._folder.enrolments()[name]
        return ANOTHER_KEY if each.state == "joined" else "revoked"


def asked(
    grid: Grid, places: Mapping[str, int], content: RecordDict, kind: str, patience_s: float
) -> dict[str, Heard]:
    """Ask clinics one thing of the setup and wait.

    Args:
        grid: Flower's grid.
        places: The clinics and their nodes.
        content: What they are sent.
        kind: The message's type.
        patience_s: Seconds to wait.

    Returns:
        What each clinic answered.
    """
    names = {node: name for name, node in places.items()}
    messages = dict.fromkeys(names, content)
    found = replies_of(grid, messages, kind, patience_s, Event(), poll_s=POLL_S, apart=True)
    return {names[node]: heard_of(reply, names[node]) for node, reply in found}
