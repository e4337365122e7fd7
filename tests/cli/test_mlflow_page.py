"""`skinml mlflow`: MLflow's page of a real store, on this computer only, gone after Ctrl-C."""

from __future__ import annotations

import signal
import socket
import subprocess
import urllib.request
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.error import URLError

import pytest

from skinml.tracking.mlflow_tracker import MlflowTracker
from skinml.tracking.settings import TrackingSettings
from tests.cli.conftest import COMMAND


def test_without_a_store_it_says_what_to_do(skinml, tmp_path: Path) -> None:
    found = skinml("mlflow", "--work-dir", tmp_path)
    assert found.code == 2
    assert "Run an experiment there first" in found.err
    assert list(tmp_path.iterdir()) == []


def status(port: int, path: str, host: str) -> int:
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as line:
        line.request("GET", path, headers={"Host": f"{host}:{port}"})
        answer = line.getresponse()
        answer.read()
        return answer.status


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_page_answers_here_only_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    MlflowTracker(TrackingSettings(), tmp_path).start("toy-1", "toy", {"seed": 1}, ())
    command = [*COMMAND, "mlflow", "--work-dir", str(tmp_path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as served:
        try:
            assert served.stdout
            served.stdout.readline()
            address = served.stdout.readline().strip()
            port = int(address.partition("/#")[0].rpartition(":")[2])
            assert address.endswith("viewStateShareKey=skinml")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
                assert b"MLflow" in page.read()
            assert status(port, "/api/2.0/mlflow/experiments/search", "evil.example") == 403
            # The assistant would run commands for whoever asks.
            assert status(port, "/ajax-api/3.0/mlflow/assistant/config", "localhost") == 404
            served.send_signal(signal.SIGINT)
            assert served.wait(60) == 0
        finally:
            served.terminate()
    with pytest.raises((URLError, ConnectionError)):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))
