"""A Flower grid inside one process: whole federated runs in milliseconds, for counts and tests.

The same ClientApp and coordinator run over it as over Flower's simulation and deployment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


class LocalGrid(Grid):
    """Calls the client app directly.

    Args:
        app: The client app.
        node_configs: The config of each node.
    """

    def __init__(self, app: ClientApp, node_configs: Sequence[Mapping[str, Any]]) -> None:
        # Outside a run of Flower's own, a message refuses to be made without these.
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        self._app = app
        self._pushed: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        self._contexts = {
            node: Context(1, node, dict(config), RecordDict({}), {})
            for node, config in enumerate(node_configs, start=2)
        }

    @property
    def run(self) -> Run:
        """Flower's run: there is none."""
        raise AttributeError("a local grid belongs to no run")

    def set_run(self, run: Run) -> None:
        """Accept a run without use for it."""

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Refuse the deprecated way to make a message."""
        raise AttributeError("make a Message directly")

    def get_node_ids(self) -> Iterable[int]:
        """Name the nodes.

        Returns:
            Their ids.
        """
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages, which are delivered when their replies are asked for.

        Args:
            messages: What to deliver.

        Returns:
            An id for each message.
        """
        ids = []
        for message in messages:
            number = str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = number
            self._pushed[number] = message
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Deliver messages and hand the replies out, each once and one by one.

        Args:
            message_ids: The ids from `push_messages`.

        Yields:
            The replies.
        """
        for number in list(message_ids):
            if (message := self._pushed.pop(number, None)) is not None:
                yield self._app(message, self._contexts[message.metadata.dst_node_id])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages and hand the replies out.

        Args:
            messages: What to deliver.
            timeout: Not used: replies are there at once.

        Returns:
            The replies.
        """
        del timeout
        return self.pull_messages(self.push_messages(messages))
