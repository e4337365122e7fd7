"""The coordinator killed at five points, both sides ended in order or at once, a line cut."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator

import psutil
import pytest

from skinml.deployment.invitations import split_address
from skinml.experiments.workspace import in_work
from tests.deployment.real_federation import (
    LAST,
    LOCAL,
    Federation,
    family,
    kill_at_once,
    real_federation,
    wait_for,
    words_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAMES = ("north", "south")
POINTS = ["proposed", "preparing", "round", "evaluating", "finishing"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with real_federation(tmp_path_factory.mktemp("coordinator"), *NAMES) as net:
        yield net


def at_point(net: Federation, run: str, point: str) -> None:
    """Wait until a run is in the middle of something."""
    reached: dict[str, Callable[[], object]] = {
        "proposed": lambda: in_work(net.folder.runs / f".{run}.draft"),
        "preparing": lambda: net.reached(run, "preparing"),
        "round": lambda: net.reached(run, "round", 2),
        "evaluating": lambda: net.reached(run, "evaluating"),
        "finishing": lambda: (net.folder.runs / run / "record.json").exists(),
    }
    wait_for(reached[point])


def finished(net: Federation, run: str, *, lives: int) -> None:
    """The run is whole, no round that was whole before was charged again, the clinics know."""
    result = net.finished(run)
    assert result["complete"] is True
    assert result["resumes"] <= lives
    for name in NAMES:
        charged = net.charged(name, run)
        assert {number for number, _ in charged} == set(range(1, LAST + 1))
        assert len({attempt for _, attempt in charged}) <= 1 + lives
        assert len(set(charged)) <= LAST + lives  # one broken round a life at most
        wait_for(lambda: not list((net.clinics[name].path / "runs" / run).glob("samples-*")))  # noqa: B023


def resume(net: Federation, run: str) -> None:
    """What the page says: serve again, and resume."""
    net.serve("net")
    net.command("resume", run)


def require_gone(net: Federation, name: str, mine: list[psutil.Process]) -> None:
    """Ctrl-C has ended a serving with all that it had started."""
    assert net.serving[name].wait(timeout=90) == 0  # the usual way to end it
    assert not [each for each in mine if each.is_running() and each.status() != "zombie"]


def test_the_coordinator_dies_at_five_points_and_the_run_goes_on_from_each(
    net: Federation,
) -> None:
    run = net.submit(*LOCAL)
    for point in POINTS:
        at_point(net, run, point)
        net.crash("net")
        resume(net, run)
    finished(net, run, lives=len(POINTS))


def test_ctrl_c_on_either_side_and_both_sides_killed_at_once(net: Federation) -> None:
    run = net.submit(*LOCAL)
    wait_for(lambda: net.reached(run, "round", 1))
    mine = family(net.serving["north"].pid)
    net.serving["north"].send_signal(signal.SIGINT)
    require_gone(net, "north", mine)
    net.serve("north")  # the round has waited, and nobody need do more
    wait_for(lambda: net.reached(run, "round", 2))
    mine = family(net.serving["net"].pid)
    net.serving["net"].send_signal(signal.SIGINT)
    require_gone(net, "net", mine)
    _, port = split_address(net.folder.settings.listen)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not net.folder.served()
    resume(net, run)
    wait_for(lambda: net.reached(run, "round", 3))
    net.crash("net", *NAMES)
    net.serve(*NAMES)
    resume(net, run)
    finished(net, run, lives=2)


def test_a_line_cut_for_a_minute_is_waited_out_and_the_app_may_die_before_its_last_words(
    net: Federation,
) -> None:
    doors = [
        each
        for each in family(net.serving["net"].pid)
        if "skinml.deployment.proxy" in words_of(each)
    ]
    assert len(doors) == 1
    run = net.submit(*LOCAL)
    wait_for(lambda: net.reached(run, "round", 1))
    doors[0].suspend()  # the one door: nobody hears of anybody
    try:
        wait_for(lambda: not net.online(), poll_s=1.0)  # about a minute after each one's last word
    finally:
        doors[0].resume()
    at_point(net, run, "finishing")
    apps = [each for each in family(net.serving["net"].pid) if "serverapp" in str(words_of(each))]
    kill_at_once(apps)
    wait_for(lambda: not in_work(net.folder.runs / run))  # a large process takes a moment to go
    assert net.standing(run).stage != "finished"
    net.command("resume", run)
    finished(net, run, lives=1)
