"""Opening a page in the browser of this computer."""

from __future__ import annotations

import os
import sys


def open_browser(address: str) -> None:
    """Open a window, where there are windows: a browser inside the terminal would take it over.

    Args:
        address: The page's address.
    """
    if sys.platform != "darwin" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return
    import webbrowser

    webbrowser.open(address)
