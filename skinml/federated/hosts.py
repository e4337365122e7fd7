"""Nodes of a simulation that play several clinics each: the same requests, in far fewer messages.

Flower's simulation goes through all its nodes and messages again and again for as long as a round
takes, and carries each message to a worker process and back by itself. With hundreds of clinics
that costs more than what they compute. So one node, a host, plays several: what goes to clinics of
one host travels as one message, and inside the host each clinic gets its own request and gives its
own reply, by the same app that a node of its own would run. While one clinic of a host waits for
the disk, another one computes: each still syncs its own files in its own order before it answers,
and nothing leaves a host before all of its clinics have answered.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from skinml.durable import turns
from skinml.federated.outer_grid import OuterGrid

_HOSTED = "hosted"
_ERROR = "error"
_FAILED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION
_FIRST = 2  # as of any node: 1 is the coordinator
_A_CORE = 4  # hosts: so a core that is done early takes over from one that is not
_MOST_BYTES = 2**24  # of arrays in a message, and about as many in its reply
_AT_ONCE = 16  # clinics of a host that may wait for the disk at the same time


def hosts(clinics: int, cores: int) -> int:
    """Choose how many nodes play the clinics.

    Args:
        clinics: How many clinics.
        cores: Worker processes.

    Returns:
        How many nodes; one a clinic where there are few.
    """
    return min(clinics, _A_CORE * cores)


class HostApp(ClientApp):
    """Plays the clinics that a message is for.

    Args:
        app: What answers for one clinic, by its "partition-id"; it keeps nothing in its context.

    Guarantees:
        The reply is made after every clinic has answered. What one of them raises is its own.
    """

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._app = app

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message, for all clinics in it."""
        if _HOSTED not in message.content:
            return self._app(message, context)
        parts = _parted(message.content)
        answer = partial(self._answered, message, context)
        if len(parts) == 1:
            replies = {number: answer(number, content) for number, content in parts.items()}
            return Message(_joined(replies), reply_to=message)
        with turns() as in_turn, ThreadPoolExecutor(min(len(parts), _AT_ONCE)) as threads:

            def answered(number: int, content: RecordDict) -> RecordDict:
                with in_turn():
                    return answer(number, content)

            replies = dict(zip(parts, threads.map(answered, parts, parts.values()), strict=True))
        return Message(_joined(replies), reply_to=message)

    def _answered(
        self, message: Message, context: Context, number: int, content: RecordDict
    ) -> RecordDict:
        own = copy.copy(message)
        own.content = content
        node = {**context.node_config, "partition-id": number}
        try:
            reply = self._app(own, Context(context.run_id, number + _FIRST, node, RecordDict(), {}))
        # The process edge of a clinic, as Flower has one around each node.
        except Exception as error:  # noqa: BLE001
            reply = Message(Error(_FAILED, type(error).__name__), reply_to=own)
        if reply.has_error():
            told: dict[str, Any] = {"code": reply.error.code, "reason": reply.error.reason or ""}
            return RecordDict({_ERROR: ConfigRecord(told)})
        return reply.content


class HostGrid(OuterGrid):
    """Shows a node for each clinic, and reaches them through the hosts that play them.

    Args:
        nodes: The grid of the hosts.
        clinics: How many clinics there are.
        num_hosts: How many of its nodes play them.
    """

    def __init__(self, nodes: Grid, clinics: int, num_hosts: int) -> None:
        super().__init__(nodes)
        self._clinics, self._num_hosts = clinics, num_hosts
        self._ids = itertools.count(1)
        self._asked: dict[str, tuple[str, Message]] = {}  # by a clinic's message: the host's
        self._out: dict[str, list[str]] = {}  # by a host's message: the clinics'
        self._ready: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Name the clinics' nodes.

        Returns:
            Their ids; none before all hosts are there.
        """
        there = len(self._hosts()) == self._num_hosts
        return list(range(_FIRST, _FIRST + self._clinics)) if there else []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, those to the clinics of one host together.

        Args:
            messages: What to send.

        Returns:
            An id for each message.
        """
        hosts, ids = self._hosts(), []
        batches: dict[tuple[int, str], list[Message]] = {}
        for message in messages:
            ids.append(str(next(self._ids)))
            message.metadata.__dict__["_message_id"] = ids[-1]
            host = hosts[_number(message) % len(hosts)]
            batches.setdefault((host, message.metadata.message_type), []).append(message)
        sent = [
            (Message(_joined({_number(each): each.content for each in some}), host, kind), some)
            for (host, kind), batch in batches.items()
            for some in _small_enough(batch)
        ]
        keys = self.nodes.push_messages([message for message, _ in sent])
        for key, (_, some) in zip(keys, sent, strict=True):
            self._out[key] = [each.metadata.message_id for each in some]
            for each in some:
                self._asked[each.metadata.message_id] = key, _without_content(each)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetch the replies that are there.

        Args:
            message_ids: The ids from `push_messages`.

        Returns:
            The replies, each once.
        """
        wanted = list(message_ids)
        keys = dict.fromkeys(self._asked[each][0] for each in wanted if each in self._asked)
        for reply in self.nodes.pull_messages([key for key in keys if key in self._out]):
            own = self._out.pop(reply.metadata.reply_to_message_id)
            requests = {_number(self._asked[each][1]): self._asked[each][1] for each in own}
            for number, part in _replies(reply, requests):
                self._ready[requests[number].metadata.message_id] = part
        found = [each for each in wanted if each in self._ready]
        for each in found:
            del self._asked[each]
        return [self._ready.pop(each) for each in found]

    def _hosts(self) -> list[int]:
        return sorted(self.nodes.get_node_ids())[: self._num_hosts]


def _number(message: Message) -> int:
    """Tell which clinic a message is for."""
    return message.metadata.dst_node_id - _FIRST


def _without_content(message: Message) -> Message:
    """Keep of a message what a reply to it is made from."""
    kept = copy.copy(message)
    kept.content = RecordDict({})
    return kept


def _small_enough(batch: list[Message]) -> Iterator[list[Message]]:
    """Divide messages so that neither a message nor its reply becomes large."""
    some: list[Message] = []
    size = 0
    for message in batch:
        arrays = [each for each in message.content.values() if isinstance(each, ArrayRecord)]
        own = sum(len(array.data) for each in arrays for array in each.values())
        if some and size + own > _MOST_BYTES:
            yield some
            some, size = [], 0
        some.append(message)
        size += own
    yield some


def _joined(parts: Mapping[int, RecordDict]) -> RecordDict:
    """Put the records of several clinics under one roof; what is the same object travels once."""
    records = {
        f"{number}/{name}": record
        for number, content in parts.items()
        for name, record in content.items()
    }
    return RecordDict({_HOSTED: ConfigRecord({"clinics": list(parts)}), **records})


def _parted(content: RecordDict) -> dict[int, RecordDict]:
    """Take apart what `_joined` joined."""
    numbers: Any = content[_HOSTED]["clinics"]
    records: dict[int, dict[str, Any]] = {number: {} for number in numbers}
    for key, record in content.items():
        number, _, name = key.partition("/")
        if name:
            records[int(number)][name] = record
    return {number: RecordDict(own) for number, own in records.items()}


def _replies(reply: Message, requests: Mapping[int, Message]) -> Iterator[tuple[int, Message]]:
    """Turn a host's reply into those of its clinics; its own failure is a failure of them all."""
    if reply.has_error():
        for number, request in requests.items():
            yield number, Message(reply.error, reply_to=request)
        return
    for number, content in _parted(reply.content).items():
        if _ERROR in content:
            told: Any = content[_ERROR]
            error = Error(told["code"], told["reason"])
            yield number, Message(error, reply_to=requests[number])
        else:
            yield number, Message(content, reply_to=requests[number])
