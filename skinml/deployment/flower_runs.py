"""Flower's runs: started with the published bundle, listed, stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skinml.deployment import bundle

if TYPE_CHECKING:
    from flwr.proto.run_pb2 import Run
    from flwr.supercore.control import ControlHttpClient

_RUN_KEY = "run"


@dataclass(frozen=True)
class FlowerRun:
    """A run of Flower, which is one attempt at a run of skinml.

    Attributes:
        id: Flower's number for it.
        run: skinml's run id; empty where somebody else started it.
        bundle: SHA-256 of its bundle.
        state: pending, starting, running, completed, failed or stopped.
        details: What Flower says of a failure.
        since: When it was submitted, ISO 8601.
    """

    id: int
    run: str
    bundle: str
    state: str
    details: str
    since: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in {"completed", "failed", "stopped"}


def start_run(client: ControlHttpClient, run: str) -> int:
    """Start a run with the published bundle; the executor makes a process for it.

    Args:
        client: What `superlink.control` gave.
        run: skinml's run id, all that travels in Flower's run config.

    Returns:
        Flower's number for it.

    Raises:
        HTTPError: If the SuperLink cannot be reached, or refuses; `control` translates it.
    """
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.proto.fab_pb2 import Fab
    from flwr.proto.transport_pb2 import Scalar

    fab = Fab(hash_str=bundle.digest(), content=bundle.build())
    request = StartRunRequest(fab=fab, override_config={_RUN_KEY: Scalar(string=run)})
    return client.StartRun(request).run_id


def list_runs(client: ControlHttpClient) -> tuple[FlowerRun, ...]:
    """List Flower's runs.

    Args:
        client: What `superlink.control` gave.

    Returns:
        The runs, the oldest first.

    Raises:
        HTTPError: If the SuperLink cannot be reached; `control` translates it.
    """
    from flwr.proto.control_pb2 import ListRunsRequest

    found = client.ListRuns(ListRunsRequest()).run_dict.values()
    return tuple(sorted((_of(each) for each in found), key=lambda each: (each.since, each.id)))


def stop_run(client: ControlHttpClient, flower_id: int) -> bool:
    """Stop a run; what clinics have in hand they finish, and nobody reads it.

    Args:
        client: What `superlink.control` gave.
        flower_id: Flower's number for it.

    Returns:
        Whether it was stopped; False where it had ended before.

    Raises:
        HTTPError: If the SuperLink cannot be reached; `control` translates it.
    """
    from flwr.proto.control_pb2 import StopRunRequest

    if all(each.over for each in list_runs(client) if each.id == flower_id):
        return False
    return client.StopRun(StopRunRequest(run_id=flower_id)).success


def log_of(client: ControlHttpClient, flower_id: int) -> str:
    """Give what the process of a run has printed so far.

    Args:
        client: What `superlink.control` gave.
        flower_id: Flower's number for it.

    Returns:
        Its output.

    Raises:
        HTTPError: If the SuperLink cannot be reached; `control` translates it.
    """
    from flwr.proto.control_pb2 import StreamLogsRequest

    request = StreamLogsRequest(run_id=flower_id, after_timestamp=0.0)
    answers = client.StreamLogs(request)
    try:
        return next((each.log_output for each in answers), "")
    finally:
        answers.close()


def _of(found: Run) -> FlowerRun:
    return FlowerRun(
        id=found.run_id,
        run=found.override_config[_RUN_KEY].string if _RUN_KEY in found.override_config else "",
        bundle=found.fab_hash,
        state=found.status.sub_status or found.status.status,
        details=found.status.details,
        since=found.pending_at,
    )
