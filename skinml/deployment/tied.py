"""Become another program that is told to end as soon as whoever started it has died.

`python -m skinml.deployment.tied PARENT PROGRAM ARGUMENT...`: a supervisor that was killed ends
nothing. A SuperNode that then ends in order signs off, so that the next one is let in at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tied(command: Sequence[str]) -> tuple[str, ...]:
    """Tie a command to this process.

    Args:
        command: The program, a whole path, and its arguments.

    Returns:
        The command to start instead; on other systems than Linux it is tied to nobody.
    """
    return (sys.executable, "-m", "skinml.deployment.tied", str(os.getpid()), *command)


def main() -> None:
    """Tie this process to its parent and become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it died before
            sys.exit(0)
    os.execv(program, sys.argv[2:])  # noqa: S606 the program is skinml's own choice


if __name__ == "__main__":
    main()
