"""Clinics whose line or node is away for a while, waited for where a round needs them.

Flower says of a node that has gone, once it notices, that it is not connected, and of one that is
asked while it is gone at once. A line that dropped for a minute would so end a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from skinml.federated.coordinator import UNREACHED
from skinml.federated.messages import Reply, Request
from skinml.federated.roll_call import Ask, RunTerms

_POLL_S = 2.0


def patient(
    ask: Ask,
    terms: RunTerms,
    expected: Callable[[], Mapping[str, bool]],
    *,
    poll_s: float = _POLL_S,
) -> Ask:
    """Ask clinics that Flower gave up on again once they are back, as long as they are needed.

    Args:
        ask: Sends requests to the clinics and brings back their replies.
        terms: What the run is held to: how many clinics a round may go on without, and how long
            it waits.
        expected: Tells which clinics may still answer, and whether each is connected now.
        poll_s: Seconds between two looks.

    Returns:
        The function that asks so. A clinic that does not come back in time, or that the round may
        go on without, is handed out with what Flower said of it.

    Guarantees:
        What is asked again is the same request: a clinic that has answered it sends the same bytes,
        and its ledger holds no second charge.
    """

    def asked(requests: Mapping[str, Request]) -> Iterator[tuple[str, Reply | str]]:
        until = time.monotonic() + terms.deadline_s / (terms.resends + 1)
        away, waiting = dict[str, str](), dict(requests)
        lost = set(terms.clinics) - set(requests)  # fell out in an earlier step
        keys = any(request.step == "keys" for request in requests.values())
        spare = 0 if keys else terms.allowed_missing  # no sum is planned without everybody's keys
        while waiting:
            answered = ask(waiting)
            for clinic, reply in answered.items() if isinstance(answered, Mapping) else answered:
                if isinstance(reply, str):
                    away[clinic] = reply
                else:
                    away.pop(clinic, None)
                    yield clinic, reply
            gone = {name for name, why in away.items() if why in UNREACHED}
            waiting = {}
            while gone and not waiting and time.monotonic() < until:
                if len(lost | set(away)) <= spare:
                    break
                time.sleep(poll_s)
                now = expected()
                gone &= set(now)  # who was revoked meanwhile does not come back
                waiting = {name: requests[name] for name in sorted(gone) if now[name]}
        yield from away.items()

    return asked
