"""The clinic's processes: kept running through faults, in words, and gone when told to end."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from skinml.cli.main import main
from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.deployment.enrolment import invite, revoke
from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.joining import Membership, find_membership, join
from skinml.deployment.node import (
    NODE,
    RUNNER,
    Serving,
    explained,
    handed_on,
    parts_of,
    prepare,
)
from skinml.deployment.runner import EXIT_LATE
from skinml.deployment.serving import take_back_revoked
from skinml.deployment.supervision import Ended
from skinml.errors import ConfigError
from skinml.stewardship.passphrases import FILE_VARIABLE, from_file
from skinml.stewardship.policy import parse_policy
from skinml.stewardship.unlocking import by_passphrase
from tests.deployment.clinic_place import make_folder
from tests.deployment.test_approve import member_with
from tests.deployment.test_runner import SERVE, TOY
from tests.deployment.toy_federation import (
    Process,
    answers,
    command,
    online,
    served,
    toy_bundle,
    waited,
)
from tests.policy_text import policy_text


@pytest.fixture
def folder(tmp_path: Path) -> ClinicFolder:
    return make_folder(tmp_path)


def member_of(folder: ClinicFolder) -> Membership:
    found = find_membership(folder)
    assert found is not None
    return found


def ended(part: str, code: int = 1, failures: int = 1, *tail: str) -> Ended:
    return Ended(part=part, code=code, lasted_s=1.0, tail=tail, failures=failures)


def test_a_refusal_after_a_crash_is_waited_out_and_a_lasting_one_is_told() -> None:
    line = "[code: 2004] Failed to activate SuperNode"
    wait, words = explained(ended(NODE, 1, 1, line))
    assert wait is not None
    assert 5 <= wait <= 30
    assert "usual" in words
    refused_for = sum(explained(ended(NODE, 1, n, line))[0] or 0 for n in range(1, 13))
    assert refused_for > 120
    wait, words = explained(ended(NODE, 1, 13, line))
    assert wait == 60
    assert "revoked" in words


def test_other_ends_have_their_own_words_and_nothing_is_given_up() -> None:
    assert "clock" in explained(ended(NODE, 1, 1, "SSL: CERTIFICATE_VERIFY_FAILED"))[1]
    assert explained(ended(NODE, 1, 1, "anything")) == (None, "")
    assert explained(ended(RUNNER, EXIT_LATE))[0] == 1.0
    assert explained(ended(RUNNER, 1)) == (None, "")
    assert "a changed policy" in explained(ended(RUNNER, 5, 1, "...", "a changed policy"))[1]


def test_a_clinic_that_has_joined_nothing_serves_nothing(folder: ClinicFolder) -> None:
    with pytest.raises(ConfigError, match="clinic join"):
        prepare(folder)


def test_the_runtime_is_on_loopback_and_the_node_has_tls_and_its_key(
    folder: ClinicFolder, tmp_path: Path
) -> None:
    member_with(folder, tmp_path)
    membership = member_of(folder)
    node, runner = parts_of(Serving(folder, membership, 40001))
    words = " ".join(node.command)
    assert "--host 127.0.0.1 --port 40001" in words
    assert "--isolation process" in words
    for needed in ("--root-certificates", "--auth-supernode-private-key", "--superexec-auth"):
        assert needed in words
    assert "--insecure" not in words
    assert node.environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert str(folder.path) in " ".join(runner.command)


def test_a_folder_named_from_where_one_stands_is_found_from_elsewhere(
    folder: ClinicFolder, tmp_path: Path
) -> None:
    member_with(folder, tmp_path)
    near = open_folder(Path(os.path.relpath(folder.path)))
    for part in parts_of(Serving(near, member_of(near), 40001)):
        assert part.folder.is_absolute()
        files = [word for word in part.command if "/" in word]
        assert files
        assert all(Path(word).is_absolute() for word in files)


def test_a_typed_passphrase_reaches_the_processes_and_touches_no_disk(tmp_path: Path) -> None:
    policy = parse_policy(policy_text().encode())
    phrase = "a long passphrase of words"
    create_folder(
        tmp_path / "north",
        name="north",
        policy=policy,
        anchors=tmp_path / "anchors",
        unlock=by_passphrase(),
        source=lambda: phrase,
    )
    folder = open_folder(tmp_path / "north", lambda: phrase)
    with handed_on(folder, lambda: phrase) as environment:
        place = environment[FILE_VARIABLE]
        assert phrase not in str(environment)
        assert from_file(Path(place)) == phrase
        seen = subprocess.run(["cat", place], capture_output=True, text=True, check=True)
        assert seen.stdout == phrase
    assert not Path(place).exists()


def test_an_open_key_needs_nothing_handed_on(folder: ClinicFolder) -> None:
    with handed_on(folder, lambda: "never asked") as environment:
        assert environment == {}


def test_serve_says_in_one_line_why_it_does_not_start(
    folder: ClinicFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["clinic", "serve", "--folder", str(folder.path)]) == 2
    assert "clinic join" in capsys.readouterr().err


@dataclass(frozen=True)
class World:
    """A federation, and a clinic that takes part."""

    federation: FederationFolder
    clinic: ClinicFolder
    process: Process
    place: Path

    def part(self, name: str) -> psutil.Process:
        """Find one of the clinic's processes."""
        word = {"node": "flower-supernode", "runner": "toy_desk"}[name]

        def find() -> psutil.Process | None:
            children = psutil.Process(self.process.process.pid).children(recursive=True)
            named = (each for each in children if any(word in part for part in each.cmdline()))
            return next(named, None)

        found = waited(find)
        assert isinstance(found, psutil.Process)
        return found

    def counts(self) -> bool:
        """Whether the clinic answers a run."""
        bundle = toy_bundle()
        approved = self.clinic.path / "federation" / "approved"
        approved.write_text(hashlib.sha256(bundle).hexdigest())
        found = answers(self.federation, bundle, "count", self.place / "out.json")
        return bool(found) and "calls" in found[0]


def words_of(clinic: ClinicFolder) -> tuple[object, ...]:
    return ("-c", SERVE, clinic.path, TOY, 60)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("world")
    clinic = make_folder(place)
    with served(place) as federation:
        join(clinic, invite(federation, "north", datetime.now(UTC)))
        with command(
            *words_of(clinic), said=place / "node.out", PYTHONPATH=str(TOY.parents[2])
        ) as process:
            waited(lambda: online(federation))
            yield World(federation, clinic, process, place)


@pytest.mark.slow
def test_a_killed_runner_is_started_again(world: World) -> None:
    world.part("runner").kill()
    assert world.counts()


@pytest.mark.slow
def test_a_killed_node_is_signed_off_and_the_next_one_let_in_at_once(world: World) -> None:
    before = world.part("node")
    before.kill()
    waited(lambda: not online(world.federation))
    waited(lambda: online(world.federation))
    assert "tried again" not in world.process.said.read_text()
    assert world.part("node").pid != before.pid
    assert world.counts()


@pytest.mark.slow
def test_a_second_serving_of_the_same_clinic_is_refused(world: World) -> None:
    said = world.place / "second.out"
    with command(*words_of(world.clinic), said=said, PYTHONPATH=str(TOY.parents[2])) as second:
        assert second.process.wait(timeout=60) != 0
    assert "another process that holds it" in said.read_text()
    assert world.counts()


@pytest.mark.slow
def test_killed_itself_its_processes_end_and_the_next_start_is_let_in_at_once(
    world: World,
) -> None:
    running = [world.part("node"), world.part("runner")]
    world.process.process.kill()
    psutil.wait_procs(running, timeout=20)
    assert not any(each.is_running() for each in running)
    waited(lambda: not online(world.federation))
    said = world.place / "next.out"
    with command(*words_of(world.clinic), said=said, PYTHONPATH=str(TOY.parents[2])) as following:
        waited(lambda: online(world.federation))
        assert "tried again" not in said.read_text()
        now = World(world.federation, world.clinic, following, world.place)
        assert now.counts()
        running = [now.part("node"), now.part("runner")]
        following.end()
        assert not any(each.is_running() for each in running)
        assert not (world.clinic.path / "federation" / "processes").exists()


@pytest.mark.slow
def test_a_revoked_key_stays_out_in_words(world: World) -> None:
    revoke(world.federation, "north", datetime.now(UTC))
    take_back_revoked(world.federation)
    said = world.place / "revoked.out"
    with command(*words_of(world.clinic), said=said, PYTHONPATH=str(TOY.parents[2])):
        waited(lambda: "does not let this clinic in" in said.read_text())
