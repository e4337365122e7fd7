"""The command's first step: quiet at Ctrl-C from here on, while all else is still being read."""

from __future__ import annotations

import os
import signal

_INTERRUPTED = 130


def main() -> int:
    """Run one command as a process of its own.

    Returns:
        The exit code, 130 after Ctrl-C.
    """
    # Nothing is open yet that would have to be closed: the process ends on the spot.
    before = signal.signal(signal.SIGINT, lambda number, frame: os._exit(_INTERRUPTED))
    from skinml.cli.main import main as run

    try:
        signal.signal(signal.SIGINT, before)
        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED
