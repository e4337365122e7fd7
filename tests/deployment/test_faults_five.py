"""Two of five clinics die for good in the middle of a secure sum."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deployment.real_federation import Federation, real_federation, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAMES = ("east", "middle", "north", "south", "west")
GONE = ("north", "west")
SECURE = ("privacy.trust=distributed", "federation.round_deadline_s=120")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with real_federation(tmp_path_factory.mktemp("five"), *NAMES) as net:
        yield net


def masked(net: Federation, run: str) -> None:
    """Wait until the two have charged the first masked sum, and kill them."""
    wait_for(lambda: all(net.charged(name, run) for name in GONE))
    net.crash(*GONE)


def test_terms_that_three_of_five_cannot_keep_are_refused(net: Federation) -> None:
    words = ("privacy.tolerated_dropouts=2", "privacy.colluding_clinics=1")
    code, _, complaint = net.tried("submit", "quickstart", *SECURE, *words)
    assert code == 2
    assert "tolerated_dropouts=2, colluding_clinics=1" in complaint
    assert "colluding_clinics=0" in complaint


def test_three_of_five_go_on_where_nobody_colludes(net: Federation) -> None:
    run = net.submit(*SECURE, "privacy.tolerated_dropouts=2", "federation.allowed_missing=2")
    masked(net, run)
    result = net.finished(run)
    last = result["participation"][-1]
    assert last["took_part"] == [name for name in NAMES if name not in GONE]
    assert set(last["missing"]) == set(GONE)
    assert last["noise"] >= 1.0
    assert {number for number, _ in net.charged("north", run)} == {1}
    net.serve(*GONE)


def test_with_one_that_may_collude_three_are_too_few_and_nothing_is_opened(net: Federation) -> None:
    settings = ("privacy.tolerated_dropouts=1", "privacy.colluding_clinics=1")
    run = net.submit(*SECURE, *settings, "federation.allowed_missing=1")
    masked(net, run)
    now = wait_for(lambda: net.ended(run))
    assert now.stage == "failed"
    assert now.round == 0
    for name in GONE:
        assert name in now.problem
    assert not (net.folder.runs / run).exists()
    net.serve(*GONE)
    wait_for(lambda: net.online() == set(NAMES), poll_s=1.0)
    net.command("resume", run)
    assert net.finished(run)["complete"] is True
