"""A runner of an enrolled clinic that lies: it takes part, and spoils each reply to a round."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from skinml.clinic.folder import open_folder
from skinml.deployment.node import prepare
from skinml.deployment.node import serve as serve_clinic
from skinml.deployment.runner import Desk, desk_of, serve
from skinml.federated.messages import unpack_request

HUGE = 5_000_000  # numbers of eight bytes

Lie = Callable[[Message], RecordDict]


def _header(found: Message, **others: object) -> RecordDict:
    told = dict(found.content["reply"])
    return RecordDict({**found.content, "reply": ConfigRecord({**told, **others})})


def _sums(found: Message, change: Callable[[np.ndarray], np.ndarray]) -> RecordDict:
    sums = {name: Array(change(a.numpy())) for name, a in found.content["sums"].items()}
    return RecordDict({**found.content, "sums": ArrayRecord(sums)})


LIES: dict[str, Lie] = {
    "garbage": lambda found: RecordDict({"reply": ConfigRecord({"a": b"garbage"})}),
    "nan": lambda found: _sums(found, lambda sums: np.full_like(sums, np.nan)),
    "huge": lambda found: _sums(found, lambda sums: np.zeros(HUGE)),
    "another": lambda found: _header(found, clinic="south"),
    "stale": lambda found: _header(found, round=int(found.content["reply"]["round"]) - 1),
}


def lying(honest: ClientApp, lies: tuple[str, ...]) -> ClientApp:
    """Answer as the honest app does, but lie in each round by the lie of its number."""
    app = ClientApp()

    @app.query("propose")
    @app.query("prepare")
    @app.query("finish")
    def setup(message: Message, context: Context) -> Message:
        return honest(message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = unpack_request(message.content).round
        reply = honest(message, context)
        lie = lies[(number - 1) % len(lies)]
        logging.info("lied in round %d: %s", number, lie)
        return Message(LIES[lie](reply), reply_to=message)

    return app


def main() -> None:
    """As a command: `hostile_desk.py CLINIC LIE...` serves; with options it is the runner."""
    if not sys.argv[1].startswith("--"):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
        runner = (sys.executable, __file__, *(f"--lie={lie}" for lie in sys.argv[2:]))
        serve_clinic(prepare(open_folder(Path(sys.argv[1])), runner=runner))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--lie", action="append", required=True)
    for name in ("--folder", "--address", "--secret-file", "--limit-s"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    honest = desk_of(Path(given.folder), float(given.limit_s))
    desk = Desk(lying(honest.app, tuple(given.lie)), honest.approved, limit_s=honest.limit_s)
    serve(desk, given.address, Path(given.secret_file).read_bytes())


if __name__ == "__main__":
    main()
