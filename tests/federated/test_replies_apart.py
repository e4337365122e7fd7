"""Whose a reply is, and whether it can be read, is not its sender's to say."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Event

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from skinml.federated.coordinator import replies_of
from skinml.federated.local_grid import LocalGrid

LIAR, HONEST = 2, 3


class LyingGrid(LocalGrid):
    """A grid on which one node writes what it likes into its replies."""

    def __init__(self, lie: str) -> None:
        def echo(message: Message, context: Context) -> Message:
            del context
            return Message(RecordDict(), reply_to=message)

        app = ClientApp()
        app.query("ask")(echo)
        super().__init__(app, [{}, {}])
        self._lie = lie
        self.sent: list[str] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.sent = list(super().push_messages(messages))
        return self.sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for number in list(message_ids):
            for reply in super().pull_messages([number]):
                if number == self.sent[0]:
                    if self._lie == "garbage":
                        raise ValueError("no message")
                    named = {"stranger": "nonsense", "another": self.sent[1]}[self._lie]
                    reply.metadata.__dict__["_reply_to_message_id"] = named
                yield reply


@pytest.mark.parametrize("lie", ["garbage", "stranger", "another"])
def test_a_reply_is_whose_it_was_asked_for(lie: str) -> None:
    grid = LyingGrid(lie)
    messages = dict.fromkeys((LIAR, HONEST), RecordDict())
    found = list(replies_of(grid, messages, "query.ask", 5.0, Event(), apart=True))
    assert sorted(node for node, _ in found) == [LIAR, HONEST]
    replies = dict(found)
    assert (replies[LIAR] is None) == (lie == "garbage")
    honest = replies[HONEST]
    assert honest is not None
    assert honest.metadata.reply_to_message_id == grid.sent[1]
