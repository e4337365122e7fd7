"""Faults in a run of real clinics' folders, inside one process: who is missing, who goes on."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from skinml.config import parse_config
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.deployment.enrolment import revoke
from skinml.deployment.gathering import Gathering, Quorum
from skinml.deployment.server_app import _terms, conduct
from skinml.deployment.submission import find_submitted, read_proposal, read_standing, submit
from skinml.errors import IncompleteRunError
from skinml.experiments.published import public_width
from skinml.federated.unblocked_grid import UnblockedGrid
from tests.deployment.clinic_place import NOW
from tests.deployment.local_federation import IN_PROCESS_S, LocalFederation, slices
from tests.deployment.test_conduct import (
    CLINICS,
    DISTRIBUTED,
    LATE,
    MAY_LACK_ONE,
    SHORT,
    at_message,
    result_of,
)

FIRST = CLINICS[0]
SPARE = ("privacy.tolerated_dropouts=1", *MAY_LACK_ONE)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("cohort")
    drawn = SyntheticSettings(num_patients=45, num_clinics=3, image_size=32)
    write_cohort(place / "whole", drawn, seed=1)
    return slices(place / "whole", CLINICS, place)


@pytest.fixture
def here(tmp_path: Path, images: dict[str, Path]) -> LocalFederation:
    return LocalFederation(tmp_path, images)


class Around(Grid):
    """Another grid, whose pulls a test can hold, lose or break."""

    def __init__(self, grid: Grid, kind: str, node: int, act: Callable[[], bool]) -> None:
        self._grid, self._kind, self._node, self._act = grid, kind, node, act
        self._watched: set[str] = set()

    run = property(lambda self: self._grid.run)

    def set_run(self, run: object) -> None:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        ids = list(self._grid.push_messages(sent))
        for key, each in zip(ids, sent, strict=True):
            if (each.metadata.message_type, each.metadata.dst_node_id) == (self._kind, self._node):
                self._watched.add(key)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for key in message_ids:
            if key in self._watched and self._act():
                continue
            yield from self._grid.pull_messages([key])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError


def node_of(name: str) -> int:
    return 2 + CLINICS.index(name)


def missing_of(here: LocalFederation, run: str) -> list[dict[str, str]]:
    return [each["missing"] for each in result_of(here, run)["participation"]]


def sealed_in(here: LocalFederation, name: str, run: str) -> list[str]:
    """What a clinic keeps of a run but for its predictions and whose data were read."""
    place = here.clinics[name].path / "runs" / run
    kept = [each.name for each in place.iterdir()] if place.exists() else []
    return sorted(name for name in kept if not name.startswith(("predictions", "contributions")))


def test_an_answer_that_is_announced_and_never_sent_holds_nobody(here: LocalFederation) -> None:
    run = submit(here.folder, "quickstart", (*SHORT, *MAY_LACK_ONE))
    rounds_over, threads, held = threading.Event(), threading.active_count(), list[int]()

    class Announced(Around):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            sent = list(messages)
            if sent[0].metadata.message_type == "query.finish":
                held.append(threading.active_count() - threads)
                rounds_over.set()
            return super().push_messages(sent)

    grid = Announced(here.grid(), "train", node_of(LATE), lambda: rounds_over.wait(3600))
    conduct(here.folder, run, grid, patience_s=5.0)
    assert [set(each) for each in missing_of(here, run)] == [{LATE}] * 4
    assert held[0] <= 4  # three at most for each node, and the one that fetches


@pytest.mark.slow
def test_a_lost_call_to_make_ready_is_made_again_and_any_answer_counts(
    here: LocalFederation,
) -> None:
    run = submit(here.folder, "quickstart", SHORT)
    draft = find_submitted(here.folder, run)

    class Losing(Around):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
            for key in message_ids:
                if key in self._watched and key not in sorted(self._watched, key=int)[2:]:
                    continue
                yield from self._grid.pull_messages([key])

    grid = Losing(here.grid(), "query.prepare", node_of(LATE), lambda: False)
    quorum = Quorum(0, 1.0, silent_s=0.1)
    gathering = Gathering(here.folder, read_proposal(draft), draft, grid, quorum)
    clinics = gathering.settle()
    config = parse_config(json.loads((draft / "config.json").read_text()))
    width, _ = public_width(config)
    gathering.prepare(
        _terms(here.folder.name, config, run, clinics, gathering.keys, width),
        read_standing(draft),
    )
    assert set(gathering.ready) == set(CLINICS)


@pytest.mark.slow
def test_a_defect_of_the_coordinator_leaves_failed_and_clinics_without_samples(
    here: LocalFederation,
) -> None:
    run = submit(here.folder, "quickstart", SHORT)

    def break_down() -> bool:
        raise RuntimeError("of patient p0017")

    broken = Around(here.grid(), "train", node_of(FIRST), break_down)
    with pytest.raises(RuntimeError):
        conduct(here.folder, run, broken, patience_s=IN_PROCESS_S)
    standing = read_standing(here.folder.runs / f".{run}.draft")
    assert standing.stage == "failed"
    assert "RuntimeError" in standing.problem
    assert "p0017" not in standing.problem
    assert "\n" not in standing.problem
    assert [sealed_in(here, name, run) for name in CLINICS] == [[], [], []]
    here.conduct(run)  # made ready once more
    assert result_of(here, run)["complete"]
    assert sealed_in(here, FIRST, run) == []


@pytest.mark.slow
def test_a_clinic_whose_policy_refuses_is_asked_once(
    tmp_path: Path, images: dict[str, Path]
) -> None:
    few = Path(shutil.copytree(images[LATE], tmp_path / "few"))
    lines = (few / "manifest.csv").read_text().splitlines(keepends=True)
    (few / "manifest.csv").write_text("".join(lines[:7]))
    here = LocalFederation(tmp_path, images | {LATE: few}, least_patients="8")
    run = submit(here.folder, "quickstart", (*SHORT, *MAY_LACK_ONE))
    here.conduct(run)
    assert all("terms for: patients" in each[LATE] for each in missing_of(here, run))
    assert here.heard.count((LATE, "query.prepare")) == 1


@pytest.mark.slow
def test_a_clinic_that_joins_again_in_a_run_is_made_ready_again(here: LocalFederation) -> None:
    run = submit(here.folder, "quickstart", (*SHORT, *MAY_LACK_ONE))

    def move() -> None:
        with here.folder.changing() as book:
            again = {"node_id": node_of(LATE) + len(CLINICS)}
            book[LATE] = book[LATE].model_copy(update=again)

    here.before = at_message(2, "train", move)
    here.conduct(run)
    assert missing_of(here, run)[-1] == {}
    assert here.heard.count((LATE, "query.prepare")) == 2


def _killed_in_round_two(here: LocalFederation, run: str) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    here.before = at_message(4, "train", die)
    with pytest.raises(KeyboardInterrupt):
        here.conduct(run)
    here.before = lambda clinic, kind: None


@pytest.mark.slow
def test_under_masks_a_run_that_may_lack_a_clinic_is_resumed_without_a_dead_one(
    here: LocalFederation,
) -> None:
    run = submit(here.folder, "quickstart", (*DISTRIBUTED, *SPARE))
    _killed_in_round_two(here, run)
    revoke(here.folder, LATE, NOW)
    here.conduct(run)
    assert {tuple(each) for each in missing_of(here, run)[-3:]} == {(LATE,)}
    assert result_of(here, run)["resumes"] == 1


@pytest.mark.slow
def test_under_masks_a_clinic_with_another_key_is_told_apart_in_one_line(
    here: LocalFederation,
) -> None:
    run = submit(here.folder, "quickstart", DISTRIBUTED)
    _killed_in_round_two(here, run)
    with here.folder.changing() as book:
        book[LATE] = book[LATE].model_copy(update={"signing_key": "ab" * 32})
    with pytest.raises(IncompleteRunError, match=f"{LATE}: it joined anew.*submit the run again"):
        here.conduct(run)
    revoke(here.folder, LATE, NOW)
    with pytest.raises(IncompleteRunError, match=f"{LATE}: revoked"):
        here.conduct(run)


def test_threads_are_as_few_as_promised() -> None:
    """A node that announces ten answers has three threads, and the other is answered at once."""
    never = threading.Event()

    class Holding(Around):
        def __init__(self) -> None:
            self._watched = set()
            self.pulled: list[str] = []

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            return [str(each) for each in messages]

        def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
            for key in message_ids:
                self.pulled.append(key)
                never.wait(600)
            return iter(())

    inner = Holding()
    grid = UnblockedGrid(inner, patience_s=0.02)
    grid._nodes |= {str(number): 7 for number in range(10)}
    try:
        for _ in range(3):
            for number in range(10):
                assert list(grid.pull_messages([str(number)])) == []
        assert inner.pulled == ["0", "1", "2"]
    finally:
        never.set()
        grid.close()
