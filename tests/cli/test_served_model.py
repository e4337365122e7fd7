"""The registered model behind a real `mlflow models serve`, asked with a real request."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest


def asked(port: int, body: dict[str, object]) -> list[dict[str, object]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - this computer
        return json.loads(answer.read())["predictions"]


def wait(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 240
    while time.monotonic() < until:
        assert server.poll() is None, "the server ended by itself"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    raise AssertionError("the server did not answer")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_served_model_answers_with_probabilities_a_label_set_and_that_it_cannot_tell(
    skinml, small, centralised, tmp_path: Path
) -> None:
    (tmp_path / "cohorts").symlink_to(centralised[0] / "cohorts")
    place = (f"work_dir={tmp_path}", "tracking.enabled=true", "--json")
    made = skinml("run", "quickstart", *small, "federation=centralised", *place)
    assert made.code == 0, made.told
    cohorts = (tmp_path / "cohorts").resolve()
    image = next(each for each in cohorts.rglob("*") if each.suffix in (".png", ".jpg"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = ["models:/skinml-quickstart/1", "--env-manager", "local", "--host", "127.0.0.1"]
    words = [sys.executable, "-P", "-m", "mlflow", "models", "serve", "-m", *served]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    # As in an environment that is switched on: MLflow looks for its server on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
    environment = {**os.environ, **quiet}
    with subprocess.Popen(
        [*words, "--port", str(port)], env=environment, cwd=tmp_path, start_new_session=True
    ) as server:
        try:
            wait(port, server)
            text = base64.b64encode(image.read_bytes()).decode()
            columns = {"columns": ["image"], "data": [[text], [text]]}
            one, same = asked(port, {"dataframe_split": columns})
        finally:
            os.killpg(server.pid, signal.SIGTERM)
    assert one == same
    assert one["benign"] + one["malignant"] == pytest.approx(1)
    assert one["decision"] in ("benign", "malignant")
    assert one["cannot_tell"] is bool(one["reasons"])
    assert set(one["label_set"] or ()) <= {"benign", "malignant"}
    assert one["likeness_checked"] is True
    assert "clinician decides" in one["who_decides"]
