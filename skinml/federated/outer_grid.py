"""What Flower grids around another grid have in common: the run is the inner one's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class OuterGrid(Grid):
    """Hands on to another grid; how messages go and replies come is its subclasses' part.

    Args:
        nodes: The grid inside.
    """

    def __init__(self, nodes: Grid) -> None:
        self.nodes = nodes

    @property
    def run(self) -> Run:
        """Flower's run."""
        return self.nodes.run

    def set_run(self, run: Run) -> None:
        """Set Flower's run.

        Args:
            run: The run.
        """
        self.nodes.set_run(run)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Refuse the deprecated way to make a message."""
        raise AttributeError("make a Message directly")

    def get_node_ids(self) -> Iterable[int]:
        """Name the nodes.

        Returns:
            Their ids.
        """
        return self.nodes.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Refuse to wait for replies.

        Args:
            messages: What to send.
            timeout: Not used.
        """
        raise AttributeError("push messages, then pull their replies")
