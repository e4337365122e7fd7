"""Keeping MLflow quiet: no usage reports, no log lines, no advice on the terminal."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("mlflow", "alembic")


@contextmanager
def quiet() -> Iterator[None]:
    """Hold MLflow's messages back while a block runs.

    Usage reports are switched off for the whole process, unless the user's environment has a
    word on them. Levels and warning filters are as before once the block is left.

    Yields:
        Nothing.
    """
    if "DO_NOT_TRACK" not in os.environ:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with warnings.catch_warnings():
        # MLflow and SQLAlchemy warn of their own old habits, and give advice that does not apply.
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401 - its import sets the loggers up that are held back next

        before = {name: logging.getLogger(name).level for name in _LOGGERS}
        try:
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
