"""Joining: the code works once, the key stays, and nothing is sent to a stranger."""

from __future__ import annotations

import json
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.deployment.enrolment import invite, redeem, revoke
from skinml.deployment.federation_folder import FederationFolder, make_federation
from skinml.deployment.invitations import Invitation
from skinml.deployment.joining import (
    find_membership,
    join,
    node_key_file,
    point_to_data,
    require_membership,
)
from skinml.deployment.superlink import free_port
from skinml.errors import (
    ConfigError,
    EnvironmentProblem,
    IntegrityError,
    PolicyError,
    RefusedError,
    SkinmlError,
)
from tests.deployment.clinic_place import make_folder

NOW = datetime.now(UTC)
Answer = Callable[[bytes], tuple[int, bytes]]


class Coordinator:
    """What a federation's enrolment answers, over TLS; it remembers what it was sent."""

    def __init__(self, folder: FederationFolder) -> None:
        self.folder = folder
        self.sent: list[bytes] = []
        self.answer: Answer = self.enrol
        self.lost = False

    def enrol(self, body: bytes) -> tuple[int, bytes]:
        try:
            told = redeem(self.folder, json.loads(body), lambda key, clinic: 2**63 + 5, NOW)
            return 200, json.dumps(told).encode()
        except SkinmlError as error:
            told = {"rule": error.rule, "got": error.got, "do": error.do}
            return 403, json.dumps(told).encode()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                here.sent.append(self.raw_requestline + str(self.headers).encode() + body)
                status, content = here.answer(body)
                if here.lost:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *words: object) -> None:
                pass

        return Handler

    def invite(self, clinic: str = "north") -> Invitation:
        return invite(self.folder, clinic, NOW)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    port = free_port()
    place = tmp_path_factory.mktemp("federation")
    found = Coordinator(make_federation(place / "net", "derm-net", f"127.0.0.1:{port}", NOW))
    server = ThreadingHTTPServer(("127.0.0.1", port), found.handler())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.folder.server_certificate, found.folder.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def coordinator(made: Coordinator) -> Coordinator:
    """The coordinator, who has forgotten every clinic."""
    with made.folder.changing() as book:
        book.clear()
    made.sent.clear()
    made.answer, made.lost = made.enrol, False
    return made


@pytest.fixture
def folder(tmp_path: Path) -> ClinicFolder:
    return make_folder(tmp_path)


def test_joining_leaves_the_private_key_where_it_was_made(
    coordinator: Coordinator, folder: ClinicFolder
) -> None:
    joined = join(folder, coordinator.invite())
    member = require_membership(open_folder(folder.path))
    assert member == joined.membership
    assert (member.federation, member.node_id) == ("derm-net", 2**63 + 5)
    book = coordinator.folder.enrolments()["north"]
    assert (book.state, book.node_key) == ("joined", member.public_key)
    assert book.signing_key == folder.identity.public_key
    key = node_key_file(folder, member)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = key.read_bytes().splitlines()[1]
    assert key.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert not any(secret in each for each in coordinator.sent)
    assert set(json.loads(coordinator.sent[0].split(b"\n\n")[-1].splitlines()[-1])) == {
        "clinic",
        "code",
        "node_key",
        "signing_key",
    }
    told = folder.audit.entries()[-1]
    assert (told.event, told.fields["coordinator"]) == ("federation joined", "derm-net")


def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    coordinator: Coordinator, folder: ClinicFolder
) -> None:
    invitation = coordinator.invite()
    coordinator.lost = True
    with pytest.raises(EnvironmentProblem, match="same file"):
        join(folder, invitation)
    assert find_membership(folder) is None
    coordinator.lost = False
    member = join(folder, invitation).membership
    assert coordinator.folder.enrolments()["north"].node_key == member.public_key


def test_a_used_code_is_no_use_to_another_folder(
    coordinator: Coordinator, folder: ClinicFolder, tmp_path: Path
) -> None:
    invitation = coordinator.invite()
    join(folder, invitation)
    other = make_folder(tmp_path / "thief")
    with pytest.raises(RefusedError, match="not used yet"):
        join(other, invitation)
    assert find_membership(other) is None


def test_a_revoked_invitation_is_refused_in_the_coordinators_words(
    coordinator: Coordinator, folder: ClinicFolder
) -> None:
    invitation = coordinator.invite()
    revoke(coordinator.folder, "north", NOW)
    with pytest.raises(RefusedError, match="newest invitation"):
        join(folder, invitation)


def test_nothing_is_sent_to_who_cannot_show_the_invitations_certificate(
    coordinator: Coordinator, folder: ClinicFolder, tmp_path: Path
) -> None:
    other = make_federation(tmp_path / "other", "derm-net", coordinator.invite().address, NOW)
    stranger = invite(other, "north", NOW)
    with pytest.raises(EnvironmentProblem, match="Nothing was sent"):
        join(folder, stranger)
    assert coordinator.sent == []


def test_a_certificate_that_has_ended_is_refused(folder: ClinicFolder, tmp_path: Path) -> None:
    port, then = free_port(), NOW - timedelta(days=3000)
    old = Coordinator(make_federation(tmp_path / "old", "derm-net", f"127.0.0.1:{port}", then))
    server = ThreadingHTTPServer(("127.0.0.1", port), old.handler())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(old.folder.server_certificate, old.folder.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with pytest.raises(EnvironmentProblem, match="clock"):
            join(folder, old.invite())
        assert old.sent == []
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_coordinator_that_speaks_no_tls_or_is_away_gets_nothing(
    folder: ClinicFolder, coordinator: Coordinator
) -> None:
    port = free_port()
    plain = ThreadingHTTPServer(("127.0.0.1", port), coordinator.handler())
    thread = threading.Thread(target=plain.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    away = coordinator.invite().model_copy(update={"address": f"127.0.0.1:{port}"})
    try:
        with pytest.raises(EnvironmentProblem, match="federation serve"):
            join(folder, away)
    finally:
        plain.shutdown()
        thread.join()
        plain.server_close()
    with pytest.raises(EnvironmentProblem, match="federation serve"):
        join(folder, away)
    assert coordinator.sent == []


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>hospital portal</html>"),
        (200, b'{"node_id": "7", "federation": "derm-net"}'),
        (200, b'{"node_id": true, "federation": "derm-net"}'),
        (200, b'{"node_id": -1, "federation": "derm-net"}'),
        (200, b'{"node_id": 18446744073709551616, "federation": "derm-net"}'),
        (200, b'{"node_id": 7, "federation": "another"}'),
        (302, b""),
        (404, b"[]"),
        (200, b"[" * 100_000),
        (200, b"x" * 1_000_000),
    ],
)
def test_whatever_else_answers_the_clinic_has_not_joined(
    coordinator: Coordinator, folder: ClinicFolder, status: int, content: bytes
) -> None:
    coordinator.answer = lambda body: (status, content)
    with pytest.raises(EnvironmentProblem):
        join(folder, coordinator.invite())
    assert find_membership(folder) is None


def test_an_invitation_is_one_clinics(coordinator: Coordinator, folder: ClinicFolder) -> None:
    with pytest.raises(ConfigError, match="north"):
        join(folder, coordinator.invite("south"))
    assert coordinator.sent == []


def test_only_who_may_decide_joins(coordinator: Coordinator, tmp_path: Path) -> None:
    other = make_folder(
        tmp_path, roles='{steward: [nobody-here], clinician: [], operator: ["*"], auditor: []}'
    )
    with pytest.raises(PolicyError, match="join a federation"):
        join(other, coordinator.invite())
    assert coordinator.sent == []


def test_joining_anew_takes_a_new_key_and_removes_the_old_one(
    coordinator: Coordinator, folder: ClinicFolder
) -> None:
    first = join(folder, coordinator.invite()).membership
    revoke(coordinator.folder, "north", NOW)
    invitation = coordinator.invite()
    with pytest.raises(ConfigError, match="--again"):
        join(folder, invitation)
    second = join(folder, invitation, again=True).membership
    assert second.public_key != first.public_key
    assert not node_key_file(folder, first).exists()
    assert require_membership(folder) == second


def test_a_swapped_key_or_membership_is_noticed(
    coordinator: Coordinator, folder: ClinicFolder
) -> None:
    member = join(folder, coordinator.invite()).membership
    key = node_key_file(folder, member)
    kept = key.read_bytes()
    key.write_bytes(b"")
    with pytest.raises(IntegrityError, match="node key"):
        require_membership(folder)
    key.write_bytes(kept)
    file = folder.path / "membership.json"
    file.write_bytes(file.read_bytes().replace(b"derm-net", b"evil-net"))
    with pytest.raises(IntegrityError):
        require_membership(folder)


def test_a_steward_is_told_which_lines_the_policy_lacks_and_how_to_write_them(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    narrow = make_folder(tmp_path, coordinators="[simulation]", purposes="[research]")
    policy, data = join(narrow, coordinator.invite()).to_do
    assert "does not name derm-net" in policy.words
    assert "does not allow federated_training" in policy.words
    shown, *lines, changed = policy.steps
    assert shown.startswith("skinml clinic policy show --yaml --folder")
    assert [line.split("  ")[1] for line in lines] == [
        "coordinators: [simulation, derm-net]",
        "purposes: [research, federated_training]",
    ]
    assert changed.startswith("skinml clinic policy change policy.yaml --folder")
    assert "serve --data" in data.steps[0]


def test_where_the_policy_knows_the_federation_nothing_is_left_but_the_data(
    coordinator: Coordinator, folder: ClinicFolder, tmp_path: Path
) -> None:
    invitation = coordinator.invite()
    assert ["serve" in each.steps[0] for each in join(folder, invitation).to_do] == [True]
    (tmp_path / "manifest.csv").touch()
    assert join(folder, invitation, data=tmp_path).to_do == ()


def test_why_a_coordinator_cannot_be_reached_is_told_in_words(
    coordinator: Coordinator, folder: ClinicFolder
) -> None:
    nobody = coordinator.invite().model_copy(update={"address": f"127.0.0.1:{free_port()}"})
    with pytest.raises(EnvironmentProblem, match="no connection: nothing answers there"):
        join(folder, nobody)


def test_data_are_pointed_to_only_where_the_list_is(
    coordinator: Coordinator, folder: ClinicFolder, tmp_path: Path
) -> None:
    join(folder, coordinator.invite())
    with pytest.raises(ConfigError, match=r"manifest\.csv"):
        point_to_data(folder, tmp_path)
    (tmp_path / "manifest.csv").touch()
    assert point_to_data(folder, tmp_path).data == str(tmp_path.resolve())
    assert require_membership(folder).data == str(tmp_path.resolve())


def test_joining_twice_with_one_file_changes_nothing(
    coordinator: Coordinator, folder: ClinicFolder, tmp_path: Path
) -> None:
    invitation = coordinator.invite()
    (tmp_path / "manifest.csv").touch()
    joined = join(folder, invitation, data=tmp_path)
    assert joined.new
    entries = folder.audit.entries()
    again = join(folder, invitation)
    assert (again.membership, again.new) == (joined.membership, False)
    assert folder.audit.entries() == entries
