"""The clinic's runner against a real SuperLink: approved code alone, warm, and nothing told."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skinml.clinic.folder import ClinicFolder
from skinml.deployment.enrolment import invite
from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.joining import join
from skinml.deployment.runner import NOT_APPROVED, SITE_ERROR, TESTED, is_approved
from tests.deployment.clinic_place import make_folder
from tests.deployment.toy_federation import (
    Process,
    answers,
    command,
    online,
    served,
    toy_bundle,
    waited,
)

TOY = Path(__file__).with_name("toy_desk.py")
# A bundle that would show itself: imported, it leaves a file.
SHADOW = "from pathlib import Path; Path('{}').touch(); app = None"
SERVE = """
import signal, sys
from pathlib import Path
from skinml.clinic.folder import open_folder
from skinml.deployment.node import prepare, serve
runner = (sys.executable, sys.argv[2])
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
told = lambda part, event, words: print(part, event, words, flush=True)
limit = float(sys.argv[3])
serve(prepare(open_folder(Path(sys.argv[1])), limit_s=limit, runner=runner), told=told)
"""


@dataclass(frozen=True)
class World:
    """A federation with one clinic that takes part."""

    federation: FederationFolder
    clinic: ClinicFolder
    process: Process
    place: Path

    def approve(self, *bundles: bytes) -> None:
        lines = "\n".join(hashlib.sha256(each).hexdigest() for each in bundles)
        (self.clinic.path / "federation" / "approved").write_text(lines)

    @property
    def log(self) -> str:
        return (self.clinic.path / "federation" / "node.log").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("world")
    clinic = make_folder(place)
    with served(place) as federation:
        join(clinic, invite(federation, "north", datetime.now(UTC)))
        words = ("-c", SERVE, clinic.path, TOY, 8)
        with command(*words, said=place / "node.out", PYTHONPATH=str(TOY.parents[2])) as process:
            waited(lambda: online(federation))
            yield World(federation, clinic, process, place)


def test_an_approved_bundle_is_answered_and_another_is_not(world: World) -> None:
    mark = world.place / "loaded"
    good, shadow = toy_bundle(), toy_bundle(client=SHADOW.format(mark))
    world.approve(good)
    (first,) = answers(world.federation, good, "count", world.place / "a.json")
    assert first["calls"] == 1
    (refused,) = answers(world.federation, shadow, "count", world.place / "b.json")
    assert refused == {"code": NOT_APPROVED, "reason": "code not approved at this site"}
    assert not mark.exists()
    assert hashlib.sha256(shadow).hexdigest() in world.log


@pytest.mark.slow
def test_even_an_approved_bundle_is_never_loaded(world: World) -> None:
    mark = world.place / "loaded"
    shadow = toy_bundle(client=SHADOW.format(mark))
    world.approve(shadow)
    (told,) = answers(world.federation, shadow, "count", world.place / "c.json")
    assert told["calls"] >= 1
    assert not mark.exists()
    assert not list((world.clinic.path / "federation" / "flower").rglob("toy_client.py"))


@pytest.mark.slow
def test_it_stays_warm_from_message_to_message_and_from_run_to_run(world: World) -> None:
    good = toy_bundle()
    world.approve(good)
    first = answers(world.federation, good, "count count", world.place / "d.json")
    (later,) = answers(world.federation, good, "count", world.place / "e.json")
    told = [*first, later]
    assert len({each["process"] for each in told}) == 1
    assert [each["calls"] - told[0]["calls"] for each in told] == [0, 1, 2]


@pytest.mark.slow
def test_no_word_of_a_failure_leaves_and_the_next_task_works(world: World) -> None:
    good = toy_bundle()
    world.approve(good)
    found = answers(world.federation, good, "raise exit count", world.place / "f.json")
    assert found[:2] == [{"code": SITE_ERROR, "reason": "site error"}] * 2
    assert "calls" in found[2]
    assert "ValueError at" in world.log
    assert "1234" not in world.log


@pytest.mark.slow
def test_a_task_that_hangs_is_ended_with_its_process_and_the_next_one_works(world: World) -> None:
    good = toy_bundle()
    world.approve(good)
    found = answers(world.federation, good, "count hang count", world.place / "g.json")
    assert found[1] == {"code": SITE_ERROR, "reason": "site error"}
    assert found[0]["process"] != found[2]["process"]
    assert found[2]["calls"] == 1


def test_bytes_decide_and_not_what_they_are_called() -> None:
    known = hashlib.sha256(b"known").hexdigest()
    assert is_approved(b"known", [known, known], frozenset({known}))
    assert not is_approved(b"other", [known, known], frozenset({known}))
    assert not is_approved(b"known", [known, "0" * 64], frozenset({known}))
    assert not is_approved(b"known", [known, known], frozenset())


def test_the_installed_flower_is_a_tested_one() -> None:
    import flwr

    assert flwr.__version__ in TESTED
    assert sys.version_info >= (3, 11)
