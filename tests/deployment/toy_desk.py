"""A runner's process whose app is a toy: it counts, fails, hangs and dies as it is told."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from skinml.deployment.runner import Desk, serve

app = ClientApp()
_calls = 0


@app.query("count")
def count(message: Message, context: Context) -> Message:
    """How many messages this process has answered: more than one where it stays warm."""
    global _calls
    _calls += 1
    told = ConfigRecord({"calls": _calls, "process": os.getpid()})
    return Message(RecordDict({"told": told}), reply_to=message)


@app.query("raise")
def fail(message: Message, context: Context) -> Message:
    """An error that names a patient."""
    raise ValueError("patient=1234")


@app.query("hang")
def hang(message: Message, context: Context) -> Message:
    """A task that never ends."""
    time.sleep(3600)
    return message


@app.query("exit")
def leave(message: Message, context: Context) -> Message:
    """A task that would end its process."""
    sys.exit("patient=1234")


def main() -> None:
    """Serve with the bundles whose SHA-256 are the lines of the file `approved` in the folder."""
    parser = argparse.ArgumentParser()
    for name in ("--folder", "--address", "--secret-file", "--limit-s"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    approved = Path(given.folder) / "federation" / "approved"
    serve(
        Desk(
            app,
            approved=lambda: frozenset(approved.read_text().split()),
            refused=lambda digest: logging.warning("told of %s", digest),
            limit_s=float(given.limit_s),
        ),
        given.address,
        Path(given.secret_file).read_bytes(),
    )


if __name__ == "__main__":
    main()
