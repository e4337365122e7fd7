"""The Flower ClientApp: unpacks a request, lets the clinic answer, packs the reply.

It lives in an importable module so that worker processes keep what they opened between rounds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from skinml.errors import SkinmlError
from skinml.federated.clinic import Clinic
from skinml.federated.messages import SUMS, Reply, Request, pack_reply, unpack_request
from skinml.federated.problems import Problem, problem_of, told_of
from skinml.federated.secure_session import packed

OpenClinic = Callable[[Mapping[str, object]], Clinic]
NODE_KEYS = ("partition-id", "clinic")

_LOG = logging.getLogger(__name__)
# What this process has opened: a clinic's samples are read once, not once a round.
_OPENED: dict[tuple[OpenClinic, tuple[object, ...]], Clinic] = {}


def client_app(open_clinic: OpenClinic) -> ClientApp:
    """Make the app that runs at each node.

    Args:
        open_clinic: From a node's config to its clinic; picklable, so a function of a module or a
            partial of one.

    Returns:
        The app, with the handlers "query.describe" and "train".

    Guarantees:
        An error that nobody foresaw leaves the clinic as the name of its class and nothing more;
        what it says stays in the clinic's own log.
    """
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        return guarded(message, lambda: Reply(_clinic(open_clinic, context).name, 0, {}, {}))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        request = partial(unpack_request, message.content)
        return guarded(message, lambda: answered(_clinic(open_clinic, context), request()))

    return app


def close_clinics() -> None:
    """Forget all clinics that this process has opened."""
    _OPENED.clear()


def answered(clinic: Clinic, request: Request) -> Reply:
    """Let a clinic answer a request.

    Args:
        clinic: The clinic.
        request: What the coordinator asks.

    Returns:
        Its sums, or its signed message.

    Raises:
        SkinmlError: Whatever keeps the clinic from answering.
    """
    if request.step == SUMS:
        return Reply(clinic.name, request.round, clinic.answer(request), {})
    return Reply(clinic.name, request.round, {}, {}, packed(clinic.step(request)))


def _clinic(open_clinic: OpenClinic, context: Context) -> Clinic:
    node = tuple(context.node_config.get(key) for key in NODE_KEYS)
    key = (open_clinic, node)
    if key not in _OPENED:
        _OPENED[key] = open_clinic(dict(context.node_config))
    return _OPENED[key]


def guarded(message: Message, answer: Callable[[], Reply]) -> Message:
    """Answer a message, whatever happens.

    Args:
        message: The message.
        answer: Makes the reply.

    Returns:
        The reply, or a problem in words.

    Guarantees:
        Of an error that nobody foresaw nothing but its class leaves the clinic.
    """
    try:
        content = pack_reply(answer())
    except SkinmlError as error:
        problem = problem_of(error)
        _LOG.info("a round was refused at this clinic: %s", told_of(problem))
        content = _problem(problem)
    # The process edge of a clinic: whatever it is, only its class may cross.
    except Exception as error:  # noqa: BLE001
        _LOG.exception("a round failed at this clinic")
        content = _problem(problem_of(error))
    return Message(content, reply_to=message)


def _problem(problem: Problem) -> RecordDict:
    return pack_reply(Reply("", 0, {}, problem))
