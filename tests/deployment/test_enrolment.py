"""Enrolment: a code enrols one pair of keys, once, in time, and tells a stranger nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from skinml.deployment.enrolment import invite, node_key_pem, redeem, require_new_file, revoke
from skinml.deployment.federation_folder import FederationFolder, make_federation
from skinml.deployment.invitations import (
    Invitation,
    digest_of,
    new_code,
    read_invitation,
    split_address,
    write_invitation,
)
from skinml.errors import ConfigError, EnvironmentProblem, RefusedError
from tests.full_disk import full_disk

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def openssh(curve: ec.EllipticCurve) -> str:
    key = ec.generate_private_key(curve).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


class Nodes:
    """A SuperLink's list of nodes, in memory."""

    def __init__(self) -> None:
        self.known: dict[bytes, str] = {}

    def register(self, key: bytes, clinic: str) -> int:
        self.known.setdefault(key, clinic)
        return 2**63 + list(self.known).index(key)


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    return make_federation(tmp_path / "net", "network", "127.0.0.1:8443", NOW)


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


def request(invitation: Invitation, **changes: object) -> dict[str, object]:
    asked: dict[str, object] = {
        "clinic": invitation.clinic,
        "code": invitation.code,
        "node_key": openssh(ec.SECP384R1()),
        "signing_key": "0" * 64,
    }
    return asked | changes


def test_an_invitation_survives_its_file_and_hides_its_code(
    folder: FederationFolder, tmp_path: Path
) -> None:
    made = invite(folder, "north wing", NOW, purposes=["research", "federated_training"])
    write_invitation(tmp_path / "north.json", made)
    assert read_invitation(tmp_path / "north.json") == made
    assert (tmp_path / "north.json").stat().st_mode & 0o077 == 0
    assert made.code not in repr(made)
    assert made.purposes == ("research", "federated_training")
    assert set(json.loads((tmp_path / "north.json").read_text())) == {
        *("version", "federation", "clinic", "address", "ca", "code", "purposes", "expires")
    }


def test_the_folder_keeps_no_code(folder: FederationFolder) -> None:
    made = invite(folder, "north", NOW)
    kept = b"".join(file.read_bytes() for file in folder.path.rglob("*") if file.is_file())
    assert made.code.encode() not in kept
    assert digest_of(made.code).encode() in kept


def test_codes_differ(folder: FederationFolder) -> None:
    assert len({new_code() for _ in range(100)}) == 100


def test_a_code_enrols_a_clinic(folder: FederationFolder, nodes: Nodes) -> None:
    asked = request(invite(folder, "north", NOW))
    answer = redeem(folder, asked, nodes.register, NOW + timedelta(days=13))
    assert answer == {"node_id": 2**63, "federation": "network"}
    entry = folder.enrolments()["north"]
    assert (entry.state, entry.node_id, entry.node_key) == ("joined", 2**63, asked["node_key"])
    assert entry.joined == "2026-12-05T12:00:00+00:00"
    assert list(nodes.known) == [node_key_pem(str(asked["node_key"]))]


def test_a_lost_answer_is_given_again_to_the_same_keys_alone(
    folder: FederationFolder, nodes: Nodes
) -> None:
    invitation = invite(folder, "north", NOW)
    asked = request(invitation)
    first = redeem(folder, asked, nodes.register, NOW)
    later = NOW + timedelta(days=200)
    assert redeem(folder, asked, nodes.register, later) == first
    for other in (request(invitation), asked | {"signing_key": "1" * 64}):
        with pytest.raises(RefusedError, match="not used yet"):
            redeem(folder, other, nodes.register, NOW)
    assert len(nodes.known) == 1


def test_an_expired_code_is_refused(folder: FederationFolder, nodes: Nodes) -> None:
    asked = request(invite(folder, "north", NOW, valid_days=3))
    with pytest.raises(RefusedError, match="expired"):
        redeem(folder, asked, nodes.register, NOW + timedelta(days=3))
    assert not nodes.known


def test_a_stranger_learns_nothing_from_a_refusal(folder: FederationFolder, nodes: Nodes) -> None:
    invitation = invite(folder, "north", NOW)
    invite(folder, "gone", NOW)
    revoke(folder, "gone", NOW)
    told = set()
    for change in ({"code": new_code()}, {"clinic": "nobody"}, {"clinic": "gone"}):
        with pytest.raises(RefusedError) as refusal:
            redeem(folder, request(invitation, **change), nodes.register, NOW)
        told.add(str(refusal.value))
    assert len(told) == 1
    assert not nodes.known


def test_a_new_invitation_ends_the_one_before(folder: FederationFolder, nodes: Nodes) -> None:
    first, second = invite(folder, "north", NOW), invite(folder, "north", NOW)
    with pytest.raises(RefusedError):
        redeem(folder, request(first), nodes.register, NOW)
    assert redeem(folder, request(second), nodes.register, NOW)


def test_a_joined_clinic_is_invited_again_only_after_it_was_revoked(
    folder: FederationFolder, nodes: Nodes
) -> None:
    redeem(folder, request(invite(folder, "north", NOW)), nodes.register, NOW)
    with pytest.raises(ConfigError, match="revoke"):
        invite(folder, "north", NOW)
    assert revoke(folder, "north", NOW).state == "joined"
    assert folder.enrolments()["north"].state == "revoked"
    redeem(folder, request(invite(folder, "north", NOW)), nodes.register, NOW)
    assert folder.enrolments()["north"].state == "joined"


@pytest.mark.parametrize("same", ["node_key", "signing_key"])
def test_two_clinics_never_share_a_key(folder: FederationFolder, nodes: Nodes, same: str) -> None:
    first = request(invite(folder, "north", NOW))
    redeem(folder, first, nodes.register, NOW)
    second = request(invite(folder, "south", NOW), signing_key="1" * 64)
    with pytest.raises(RefusedError, match="keys"):
        redeem(folder, second | {same: first[same]}, nodes.register, NOW)
    assert folder.enrolments()["south"].state == "invited"


def test_a_superlink_that_is_down_uses_no_code_up(folder: FederationFolder, nodes: Nodes) -> None:
    asked = request(invite(folder, "north", NOW))

    def down(key: bytes, clinic: str) -> int:
        raise EnvironmentProblem(rule="a SuperLink", got="none", do="Wait.")

    with pytest.raises(EnvironmentProblem):
        redeem(folder, asked, down, NOW)
    assert redeem(folder, asked, nodes.register, NOW)["node_id"] == 2**63


def test_a_full_disk_after_the_superlink_said_yes_loses_no_code(
    folder: FederationFolder, nodes: Nodes
) -> None:
    asked = request(invite(folder, "north", NOW))
    with full_disk(10), pytest.raises(EnvironmentProblem):
        redeem(folder, asked, nodes.register, NOW)
    assert folder.enrolments()["north"].state == "invited"
    assert redeem(folder, asked, nodes.register, NOW)["node_id"] == 2**63
    assert len(nodes.known) == 1


def test_a_code_used_at_the_same_moment_twice_enrols_one(
    folder: FederationFolder, nodes: Nodes
) -> None:
    invitation = invite(folder, "north", NOW)
    outcomes: list[str] = []

    def join() -> None:
        try:
            redeem(folder, request(invitation), nodes.register, NOW)
            outcomes.append("in")
        except RefusedError:
            outcomes.append("out")

    threads = [threading.Thread(target=join) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in"] + 4 * ["out"]
    assert len(nodes.known) == 1


ED25519 = (
    "ssh-ed25519 "
    + (
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        .decode()
        .split()[1]
    )
)


@pytest.mark.parametrize(
    "change",
    [
        {"node_key": "no key"},
        {"node_key": ED25519},
        {"node_key": "x" * 2000},
        {"signing_key": "G" * 64},
        {"signing_key": "0" * 63},
        {"code": 7},
        {"code": None},
        {"more": 1},
        {"clinic": ["north"]},
    ],
)
def test_a_malformed_request_is_refused_without_its_words(
    folder: FederationFolder, nodes: Nodes, change: dict[str, object]
) -> None:
    invitation = invite(folder, "north", NOW)
    with pytest.raises(ConfigError) as refusal:
        redeem(folder, request(invitation) | change, nodes.register, NOW)
    assert invitation.code not in str(refusal.value)
    assert folder.enrolments()["north"].state == "invited"


@pytest.mark.parametrize("content", [None, [], "x", 3, {}])
def test_what_is_no_request_is_refused(
    folder: FederationFolder, nodes: Nodes, content: object
) -> None:
    with pytest.raises(ConfigError):
        redeem(folder, content, nodes.register, NOW)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_node_key_is_read_whatever_its_comment(curve: ec.EllipticCurve) -> None:
    line = openssh(curve)
    pem = node_key_pem(f"{line} somebody@somewhere")
    assert pem == node_key_pem(line)
    key = load_pem_public_key(pem)
    assert key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == line


@pytest.mark.parametrize(
    "call",
    [
        lambda folder: invite(folder, "../x", NOW),
        lambda folder: invite(folder, "", NOW),
        lambda folder: invite(folder, "north\n", NOW),
        lambda folder: invite(folder, "north", NOW, purposes=["sale"]),
        lambda folder: invite(folder, "north", NOW, purposes=[]),
        lambda folder: invite(folder, "north", NOW, valid_days=0),
        lambda folder: invite(folder, "north", NOW, valid_days=91),
        lambda folder: revoke(folder, "nobody", NOW),
    ],
)
def test_bad_words_change_nothing(
    folder: FederationFolder, call: Callable[[FederationFolder], object]
) -> None:
    with pytest.raises(ConfigError):
        call(folder)
    assert folder.enrolments() == {}


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"code": "abc"},
        {"purposes": []},
        {"purposes": ["sale"]},
        {"expires": "tomorrow"},
        {"expires": "2026-11-22T12:00:00"},
        {"address": "nowhere"},
        {"ca": "text"},
        {"clinic": "a/b"},
        {"more": 1},
    ],
)
def test_a_changed_invitation_is_refused_by_the_name_of_its_field(
    folder: FederationFolder, tmp_path: Path, change: dict[str, object]
) -> None:
    invitation = invite(folder, "north", NOW)
    values = invitation.model_dump(mode="json") | change
    (tmp_path / "bad.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError) as refusal:
        read_invitation(tmp_path / "bad.json")
    assert invitation.code not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"x" * 100_000])
def test_what_is_no_invitation_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ConfigError, match="invitation"):
        read_invitation(tmp_path / "bad.json")


def test_an_invitation_replaces_no_file(tmp_path: Path) -> None:
    require_new_file(tmp_path / "new.json")
    (tmp_path / "old.json").touch()
    for path in (tmp_path / "old.json", tmp_path / "no" / "new.json"):
        with pytest.raises(ConfigError):
            require_new_file(path)


@pytest.mark.parametrize(
    ("address", "parts"),
    [("h.org:80", ("h.org", 80)), ("[::1]:8443", ("::1", 8443)), ("10.0.0.1:1", ("10.0.0.1", 1))],
)
def test_addresses_are_split(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
