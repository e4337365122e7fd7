"""The line to the coordinator goes dead without a word for a minute, and the run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from skinml.deployment.superlink import free_port
from tests.deployment.dead_line import DeadLine
from tests.deployment.real_federation import (
    LOCAL,
    Federation,
    real_federation,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAMES = ("north", "south")
DEAD_S = 60.0


@pytest.fixture(scope="module")
def line() -> Iterator[DeadLine]:
    made = DeadLine(free_port())
    yield made
    made.close()


@pytest.fixture(scope="module")
def world(line: DeadLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    place = tmp_path_factory.mktemp("line")
    with real_federation(place, *NAMES, line=(line.port, line.target)) as net:
        yield net


@pytest.mark.parametrize("stage", ["preparing", "round"])
def test_a_line_that_is_dead_for_a_minute_costs_a_run_time_alone(
    net: Federation, line: DeadLine, stage: str
) -> None:
    run, before = net.submit(*LOCAL), line.dropped
    wait_for(lambda: net.reached(run, stage, 1 if stage == "round" else 0))
    line.die()
    time.sleep(DEAD_S)
    line.live()
    result = net.finished(run)
    assert result["complete"] is True
    assert result["resumes"] == 0
    assert line.dropped > before
    assert net.charged("north", run) == net.charged("south", run)
