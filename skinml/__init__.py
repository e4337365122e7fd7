"""Federated skin-condition classifiers with patient-level privacy and honest fairness reports.

>>> import skinml
>>> result = skinml.run("derm_tone", seed=1)  # doctest: +SKIP
>>> result.report()  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skinml.experiments.api import Result, open_run, resume, run

__all__ = ["Result", "__version__", "open_run", "resume", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the rooms behind a name when it is first asked for: importing skinml costs nothing."""
    if name in __all__:
        from skinml.experiments import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
