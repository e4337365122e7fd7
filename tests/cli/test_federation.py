"""`skinml federation ...` on the command line: words, JSON and exit codes, nothing served."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from skinml.cli.main import main
from skinml.deployment.enrolment import invite
from skinml.deployment.federation_folder import make_federation, open_federation
from skinml.deployment.superlink import free_port

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["federation", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def net(tmp_path: Path, run: Run, own_place: None) -> str:
    place = str(tmp_path / "net")
    address = f"127.0.0.1:{free_port()}"
    assert run("init", place, "--name", "skin-net", "--address", address)[0] == 0
    return place


@pytest.fixture
def own_place(tmp_path: Path) -> Any:
    """Stand in a folder of one's own: `enrol` writes where it stands."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def test_init_tells_what_to_compare_and_what_comes_next(tmp_path: Path, run: Run) -> None:
    place = str(tmp_path / "net")
    code, out, _ = run(
        "init",
        place,
        "--name",
        "n",
        "--address",
        "fl.example.org:8443",
        "--host",
        "10.0.0.7",
        "--json",
    )
    told = json.loads(out)
    assert code == 0
    assert told["listen"] == "0.0.0.0:8443"
    assert len(told["authority"]["sha256"]) == 64
    assert open_federation(tmp_path / "net").settings.hosts == ("fl.example.org", "10.0.0.7")
    code, out, _ = run(
        "init", "--folder", str(tmp_path / "two"), "--name", "n", "--address", "h.org:1"
    )
    assert code == 0
    assert "skinml federation enrol" in out
    assert "skinml federation serve" in out


def test_enrol_writes_one_file_and_status_knows_the_clinic(net: str, run: Run) -> None:
    code, out, _ = run("enrol", "north wing", "--folder", net, "--json", "--purpose", "research")
    told = json.loads(out)
    assert code == 0
    assert told["invitation"] == "north-wing.invitation.json"
    assert json.loads(Path(told["invitation"]).read_text())["purposes"] == ["research"]
    found = json.loads(run("status", "--folder", net, "--json")[1])
    assert found["clinics"]["north wing"]["state"] == "invited"
    assert found["served_since"] is None
    code, out, _ = run("status", "--folder", net)
    assert code == 0
    assert "north wing" in out
    assert "not served" in out


def test_a_code_is_never_on_the_screen(net: str, run: Run) -> None:
    _, out, err = run("enrol", "north", "--folder", net)
    code = json.loads(Path("north.invitation.json").read_text())["code"]
    _, table, _ = run("status", "--folder", net)
    _, values, _ = run("status", "--folder", net, "--json")
    assert code not in out + err + table + values


def test_revoke_and_stop_work_without_a_server(net: str, run: Run) -> None:
    run("enrol", "north", "--folder", net)
    assert json.loads(run("revoke", "north", "--folder", net, "--json")[1])["before"] == "invited"
    assert run("revoke", "north", "--folder", net)[0] == 0
    assert json.loads(run("stop", "--folder", net, "--json")[1]) == {"ended": 0}
    assert "Nothing was running" in run("stop", "--folder", net)[1]


def test_status_says_when_a_code_or_a_certificate_has_ended(tmp_path: Path, run: Run) -> None:
    made = datetime.now(UTC) - timedelta(days=400)
    folder = make_federation(tmp_path / "net", "n", "h.org:1", made)
    invite(folder, "north", made)
    code, out, _ = run("status", "--folder", str(folder.path))
    assert code == 0
    assert "expired" in out.split("north")[1]
    assert "certificate has expired" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["init", "net", "--name", "n", "--address", "h.org:1"], 2, "new or empty folder"),
        (["init", "new", "--name", "n n", "--address", "h.org:1"], 2, "name="),
        (["init", "new", "--name", "n", "--address", "h.org"], 2, "HOST:PORT"),
        (["init", "new", "--name", "n", "--address", "h.org:1", "--host", "a b"], 2, "host="),
        (["init", "new", "--name", "n", "--address", "h.org:1", "--listen", "x"], 2, "HOST:PORT"),
        (["init", "new", "--name", "n"], 2, "--address"),
        (["init", "--name", "n", "--address", "h.org:1"], 2, "one folder to be made; got none"),
        (["init", "a", "--folder", "b", "--name", "n", "--address", "h.org:1"], 2, "got two"),
        (["enrol", "north", "--folder", "nowhere"], 2, "federation init"),
        (["enrol", "../north", "--folder", "net"], 2, "clinic="),
        (["enrol", "north", "--folder", "net", "--purpose", "sale"], 2, "purpose=sale"),
        (["enrol", "north", "--folder", "net", "--out", "no/such/x.json"], 2, "--out"),
        (["enrol", "north", "--folder", "net", "--days", "0"], 2, "90 days"),
        (["revoke", "nobody", "--folder", "net"], 2, "federation status"),
        (["status", "--folder", "nowhere"], 2, "federation init"),
        (["serve", "--folder", "nowhere"], 2, "federation init"),
        (["stop", "--folder", "nowhere"], 2, "federation init"),
    ],
)
def test_bad_input_is_one_clear_line(
    net: str, run: Run, words: list[str], code: int, said: str
) -> None:
    got, out, err = run(*words)
    assert (got, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert said in err
    got, out, _ = run(*words, "--json")
    assert got == code
    assert json.loads(out)["error"]["code"] == code
    assert not Path("new").exists()


def test_damaged_files_are_code_5_and_are_named(net: str, run: Run) -> None:
    place = Path(net)
    (place / "enrolments.json").write_text("{")
    code, _, err = run("status", "--folder", net)
    assert (code, "enrolments.json" in err) == (5, True)
    (place / "server.key").chmod(0o644)
    code, _, err = run("serve", "--folder", net)
    assert (code, "server.key" in err) == (5, True)
    (place / "federation.json").write_text("{}")
    assert run("status", "--folder", net)[0] == 5


def test_serve_says_when_its_address_is_taken(net: str, run: Run) -> None:
    host, port = open_federation(Path(net)).settings.listen.split(":")
    with socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        code, _, err = run("serve", "--folder", net)
    assert code == 6
    assert "listen" in err
