"""Fixtures that every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

DERM = Path(__file__).resolve().parents[2] / "shared" / "derm"


@pytest.fixture(scope="session")
def derm_root() -> Path:
    """The folder of development images; tests that need it skip where it is missing."""
    if not (DERM / "manifest.csv").is_file():
        pytest.skip(f"the development images are not at {DERM}")
    return DERM
