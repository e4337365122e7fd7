"""Systemd units of both roles: what they start, what they may write, and systemd's own view."""

from __future__ import annotations

import configparser
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skinml.cli.main import main
from skinml.clinic.folder import create_folder, open_folder
from skinml.deployment.federation_folder import make_federation
from skinml.deployment.joining import Membership, find_membership
from skinml.deployment.units import clinic_unit, coordinator_unit
from skinml.stewardship.policy import parse_policy
from skinml.stewardship.unlocking import by_passphrase
from tests.deployment.clinic_place import make_folder
from tests.deployment.test_approve import member_with
from tests.policy_text import policy_text


def coordinators(place: Path, port: int = 8443) -> str:
    address = f"fl.example.org:{port}"
    return coordinator_unit(make_federation(place / "net", "derm-net", address, datetime.now(UTC)))


def membership(place: Path) -> Membership:
    folder = make_folder(place)
    member_with(folder, place)
    found = find_membership(folder)
    assert found is not None
    return found


def clinics(place: Path) -> str:
    member = membership(place)
    return clinic_unit(open_folder(place / "north"), member)


def read(text: str) -> dict[str, str]:
    """The service's settings; configparser holds each to be there once."""
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their letters
    unit.read_string(text)
    assert set(unit) - {"DEFAULT"} == {"Unit", "Service", "Install"}
    return dict(unit["Service"])


Unit = Callable[[Path], str]


@pytest.mark.parametrize(
    ("unit", "command", "folder"),
    [(coordinators, "federation", "net"), (clinics, "clinic", "north")],
    ids=["coordinator", "clinic"],
)
class TestBothRoles:
    def test_it_serves_the_folder_and_may_write_no_other(
        self, unit: Unit, command: str, folder: str, tmp_path: Path
    ) -> None:
        found = read(unit(tmp_path))
        place = str((tmp_path / folder).resolve())
        assert shlex.split(found["ExecStart"])[1:] == [command, "serve", "--folder", place]
        anchors = [str((tmp_path / "anchors").resolve())] if command == "clinic" else []
        assert shlex.split(found["ReadWritePaths"]) == [place, *anchors]
        assert found["ProtectSystem"] == "strict"
        assert found["Restart"] == "on-failure"
        for name in ("NoNewPrivileges", "PrivateTmp", "RestrictNamespaces"):
            assert found[name] == "yes"
        assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == ""
        assert found["User"]

    def test_systemd_reads_it_without_a_complaint(
        self, unit: Unit, command: str, folder: str, tmp_path: Path
    ) -> None:
        del folder
        if shutil.which("systemd-analyze") is None:
            pytest.skip("systemd-analyze is not installed")
        file = tmp_path / f"skinml-{command}.service"
        text = unit(tmp_path)
        file.write_text(text)
        verified = analyze("verify", "--man=no", str(file))
        assert (verified.returncode, complaints(verified, file)) == (0, [])
        file.write_text(text.replace("PrivateTmp=yes", "PrivateTmp=perhaps\nPri=yes"))
        assert len(complaints(analyze("verify", "--man=no", str(file)), file)) == 2


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def complaints(done: subprocess.CompletedProcess[str], file: Path) -> list[str]:
    return [line for line in done.stderr.splitlines() if file.name in line]


@pytest.mark.parametrize(("port", "right"), [(443, "CAP_NET_BIND_SERVICE"), (8443, "")])
def test_a_low_port_is_the_only_right_that_is_given(port: int, right: str, tmp_path: Path) -> None:
    found = read(coordinators(tmp_path, port))
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == right


def test_a_passphrase_comes_from_systemd_and_is_not_in_the_unit(tmp_path: Path) -> None:
    phrase = "a long passphrase of words"
    create_folder(
        tmp_path / "south",
        name="south",
        policy=parse_policy(policy_text().encode()),
        anchors=tmp_path / "anchors-south",
        unlock=by_passphrase(),
        source=lambda: phrase,
    )
    text = clinic_unit(open_folder(tmp_path / "south", lambda: phrase), membership(tmp_path))
    assert phrase not in text
    name, file = read(text)["LoadCredential"].split(":")
    assert f"SKINML_PASSPHRASE_FILE=%d/{name}" in read(text)["Environment"].split()
    assert file.startswith("/etc/skinml/")
    assert "LoadCredential" not in clinics(tmp_path / "other")  # whose key lies open


def test_serve_writes_a_unit_once_and_under_a_name_that_systemd_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_federation(tmp_path / "net", "derm-net", "fl.example.org:8443", datetime.now(UTC))
    file = tmp_path / "skinml.service"
    words = ["federation", "serve", "--folder", str(tmp_path / "net"), "--unit"]
    assert main([*words, str(tmp_path / "skinml.txt")]) == 2
    assert "ends in .service" in capsys.readouterr().err
    assert main([*words, str(file)]) == 0
    assert "systemctl enable --now skinml.service" in capsys.readouterr().out
    before = file.read_text()
    assert read(before)["ExecStart"]
    assert main([*words, str(file)]) == 6
    assert "nothing is written over" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "other.service"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert Path(shown["unit"]).read_text() == before
