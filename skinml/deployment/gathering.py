"""How a run's clinics are brought together: asked, made ready, and told that it is over."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from flwr.app import RecordDict
from flwr.serverapp import Grid

from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.run_proposal import RunProposal
from skinml.deployment.setup_messages import pack_content, read_standing, write_terms
from skinml.deployment.submission import Standing, write_standing
from skinml.errors import IncompleteRunError
from skinml.experiments.sites import Terms
from skinml.federated.coordinator import replies_of

POLL_S = 0.2
_ASK_AGAIN_S = 3.0
_PREPARE_S = 4 * 3600.0
_FINISH_S = 30.0
_ANSWERED = frozenset({"approved", "refused", "revoked"})
_log = logging.getLogger("skinml.coordinator")


def approving(
    folder: FederationFolder, proposal: RunProposal, draft: Path, grid: Grid
) -> dict[str, int]:
    """Ask until every clinic has answered or the proposal expires.

    Args:
        folder: The federation's folder.
        proposal: What is proposed, and to whom.
        draft: The run's draft folder, where the standing is written.
        grid: Flower's grid.

    Returns:
        The clinics that agreed, and their nodes.

    Raises:
        IncompleteRunError: If none agreed.
    """
    states = dict.fromkeys(proposal.clinics, "not reached yet")
    while True:
        enrolled = folder.enrolments()
        nodes = {
            name: each.node_id
            for name in proposal.clinics
            if (each := enrolled[name]).state == "joined" and each.node_id is not None
        }
        open_ = {name: node for name, node in nodes.items() if states[name] not in _ANSWERED}
        content = pack_content(proposal.content())
        for name, (state, why) in _asked(grid, open_, content, "query.propose", 20.0).items():
            states[name] = state or why
        states |= {name: "revoked" for name in proposal.clinics if name not in nodes}
        write_standing(draft, Standing("proposed", states))
        late = datetime.now(UTC) >= proposal.expires
        if late or all(state in _ANSWERED for state in states.values()):
            break
        time.sleep(_ASK_AGAIN_S)
    agreed = {name: nodes[name] for name in sorted(nodes) if states[name] == "approved"}
    if not agreed:
        raise IncompleteRunError(
            rule="a clinic that approved the run",
            got="; ".join(f"{name}: {state}" for name, state in sorted(states.items())),
            do="Ask the clinics, then submit it again.",
        )
    return agreed


def prepare(
    terms: Terms, places: Mapping[str, int], draft: Path, grid: Grid, standing: Standing
) -> None:
    """Have every clinic make its data ready.

    Args:
        terms: The run's terms.
        places: The clinics and their nodes.
        draft: The run's draft folder.
        grid: Flower's grid.
        standing: What is written before they are asked.

    Raises:
        IncompleteRunError: If one cannot.
    """
    write_standing(draft, standing)
    content = pack_content(write_terms(terms))
    answers = _asked(grid, places, content, "query.prepare", _PREPARE_S)
    wrong = {name: why for name, (_, why) in answers.items() if why}
    if wrong:
        raise IncompleteRunError(
            rule="every clinic that approved the run to make its data ready",
            got=f"not so at {', '.join(sorted(wrong))}",
            do=f"Mend it there, then: skinml federation resume {terms.run}",
            details=[f"{name}: {why}" for name, why in sorted(wrong.items())],
        )


def finish(run: str, places: Mapping[str, int], grid: Grid) -> None:
    """Tell the clinics that a run is over; one that does not hear it keeps its samples.

    Args:
        run: The run's id.
        places: The clinics and their nodes.
        grid: Flower's grid.
    """
    content = pack_content(json.dumps({"run": run, "outcome": "completed"}).encode())
    for name, (state, _) in _asked(grid, places, content, "query.finish", _FINISH_S).items():
        if state != "gone":
            _log.warning("clinic %s did not hear that the run is over", name)


def _asked(
    grid: Grid, places: Mapping[str, int], content: RecordDict, kind: str, patience_s: float
) -> dict[str, tuple[str, str]]:
    names = {node: name for name, node in places.items()}
    messages = dict.fromkeys(names, content)
    found = replies_of(grid, messages, kind, patience_s, Event(), poll_s=POLL_S)
    return {names[node]: read_standing(reply, names[node]) for node, reply in found}
