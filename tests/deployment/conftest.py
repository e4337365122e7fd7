"""What the modules share that break real federations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deployment.real_federation import Federation
from tests.deployment.soundness import left_sound


@pytest.fixture
def net(world: Federation) -> Iterator[Federation]:
    """The module's own federation, `world`: served before a case, and sound after it."""
    with left_sound(world):
        world.ready()
        yield world
