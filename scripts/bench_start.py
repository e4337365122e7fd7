"""Part of `scripts/bench`: how soon `skinml --help` is there, beside importing PyTorch alone."""

from __future__ import annotations

import subprocess
import sys

from bench_rows import TURNS, Row, Size, in_turn, row

HELP = "import sys; from skinml.cli.main import main; sys.exit(main(['--help']))"
MISTYPED = (
    "import sys; from skinml.cli.main import main; sys.exit(main(['run', 'quickstrat']) != 2)"
)
PEER = "import torch"


def rows(size: Size) -> list[Row]:
    """Start processes of both.

    Args:
        size: "smoke" or "full".

    Returns:
        A row for help, and one for an experiment's name that is mistyped.
    """
    turns = 1 if size == "smoke" else TURNS[size] + 4
    found = []
    for name, code, goal in (
        ("skinml --help", HELP, "at most 0.25"),
        ("skinml run quickstrat: refused", MISTYPED, None),
    ):
        ours, peer = in_turn(lambda code=code: started(code), lambda: started(PEER), turns)
        note = 'beside python -c "import torch"'
        found.append(row(name, ours, peer, goal=goal, size=size, note=note))
    return found


def started(code: str) -> None:
    """Run Python code in a process of its own; it must end well."""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # noqa: S603  ours
