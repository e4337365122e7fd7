"""Clinics that die in a run: at each step of it, and two of five for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.deployment.real_federation import LOCAL, Federation, real_federation, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAMES = ("east", "north", "south")
SECURE = ("privacy.trust=distributed",)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with real_federation(tmp_path_factory.mktemp("clinics"), *NAMES) as net:
        yield net


@pytest.mark.parametrize("kind", ["query.propose", "query.prepare", "query.finish"])
def test_a_clinic_dies_while_it_is_asked_before_or_after_the_rounds(
    net: Federation, kind: str
) -> None:
    mark = net.mark("north")
    run = net.submit(*LOCAL)
    wait_for(lambda: net.heard("north", f"Receiving: {kind} message", mark))
    net.crash("north")
    net.serve("north")
    result = net.finished(run)
    assert result["complete"] is True
    assert result["resumes"] == 0  # nobody had to do anything but start the clinic again
    assert net.charged("north", run) == net.charged("south", run)
    assert "let this clinic in" not in net.printed("north")


@pytest.mark.parametrize(("dropouts", "steps"), [(0, 1), (1, 4)])
def test_a_clinic_dies_at_each_step_of_a_secure_sum_and_the_run_needs_nobodys_help(
    net: Federation, dropouts: int, steps: int
) -> None:
    start = mark = net.mark("north")
    run = net.submit(*SECURE, f"privacy.tolerated_dropouts={dropouts}")
    # Killed while it has a message in hand: the keys, then each step of the first round. What it
    # was asked last it is asked again, so that from the second on the next step is the second.
    for received in (1, *[2] * steps):
        wait_for(lambda: net.heard("north", "Receiving: train message", mark) >= received)  # noqa: B023
        net.crash("north")
        mark = net.mark("north")
        net.serve("north")
    # Killed when its sum is charged: it sends that very sum, at no cost. Only where it was killed
    # between its ledger and its book, so that nothing can have left, is it charged once more.
    before = len(net.charged("north", run))
    wait_for(lambda: len(net.charged("north", run)) > before)
    net.crash("north")
    net.serve("north")
    result = net.finished(run)
    assert result["complete"] is True
    assert result["resumes"] == 0
    assert all(each["took_part"] == list(NAMES) for each in result["participation"])
    killed, others = (Counter(net.charged(name, run)) for name in ("north", "south"))
    assert killed.keys() == others.keys()
    assert killed - others <= Counter({(1, 1): 2 * steps, (2, 1): 1})
    assert not others - killed
    messages = 1 + 4 * steps  # its keys, and four rounds
    assert net.heard("north", "Receiving: train message", start) >= messages + 1 + steps
