"""Serves a clinic as `skinml clinic serve` does, with noise that a test fixed; run as a program."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from skinml.clinic.folder import open_folder
from skinml.deployment import node
from skinml.deployment.proposals import approved_bundles
from skinml.deployment.runner import USUAL_LIMIT_S, Desk, serve
from skinml.deployment.site_app import site_app
from tests.deployment.local_federation import open_with_fixed_noise

PROGRAM = (sys.executable, str(Path(__file__).resolve()))


def runner(words: list[str]) -> None:
    """Answer tasks, as `skinml.deployment.runner` does."""
    parser = argparse.ArgumentParser()
    for name in ("--folder", "--address", "--secret-file", "--limit-s"):
        parser.add_argument(name)
    given = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    folder = open_folder(Path(given.folder))
    app = site_app(folder.path, open_with_fixed_noise)
    desk = Desk(app, lambda: approved_bundles(folder), limit_s=USUAL_LIMIT_S)
    serve(desk, given.address, Path(given.secret_file).read_bytes())


if __name__ == "__main__":
    if sys.argv[1] == "runner":
        runner(sys.argv[2:])
    else:
        node.serve(node.prepare(open_folder(Path(sys.argv[1])), runner=(*PROGRAM, "runner")))
