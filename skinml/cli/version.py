"""`skinml --version`: the program, and what its figures may depend on."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from skinml import __version__

_STANDS_ON = ("torch", "flwr", "opacus", "mlflow")


def version_lines() -> tuple[str, ...]:
    """Name skinml's version and the environment's; nothing heavy is imported.

    Returns:
        Lines to be shown or pasted into a defect's report, skinml's own first.
    """
    return (
        f"skinml {__version__}",
        f"Python {platform.python_version()} in {sys.prefix}",
        ", ".join(f"{name} {_version(name)}" for name in _STANDS_ON),
        platform.platform(),
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
