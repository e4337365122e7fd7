"""Training tests compare to the last bit, which sums over several threads do not keep."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Compute as a simulation's workers do, however many threads the machine offers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
