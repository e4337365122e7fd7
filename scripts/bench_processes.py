"""The two federations of `bench_latency.py` as processes: skinml's own, and Flower's bare one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar

from skinml.clinic.folder import create_folder, open_folder
from skinml.config import load_config
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.deployment.enrolment import invite
from skinml.deployment.federation_folder import FederationFolder, make_federation
from skinml.deployment.flower_runs import list_runs, start_run
from skinml.deployment.joining import join
from skinml.deployment.standing import standings
from skinml.deployment.submission import submit
from skinml.deployment.superlink import (
    FLOWER_QUIET,
    LOOPBACK,
    control,
    executor_part,
    free_port,
    listed,
    register,
    superlink_part,
    wait_ready,
)
from skinml.deployment.supervision import JsonLog, Part, Supervision
from skinml.stewardship.policy import parse_policy

NAME, PATIENTS, PATIENCE_S = "bench", 40, 900.0
SKINML = (sys.executable, "-c", "import sys; from skinml.cli.main import main; sys.exit(main())")
FAMILIES = {
    "flower-superlink": "SuperLink",
    "deployment.proxy": "proxy",
    "flwr-serverapp": "coordinator's app",
    "flower-supernode": "clinics' SuperNodes",
    "deployment.runner": "clinics' runners",
}
Lines = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Done:
    """What came of a run of ours.

    Attributes:
        run: Its id.
        round_s: Seconds of each gradient round, as the coordinator has them.
        cpu_s: CPU seconds of a round by process.
        bytes_down: Bytes of a message to a clinic, on average.
        bytes_up: Bytes of an answer.
    """

    run: str
    round_s: list[float]
    cpu_s: dict[str, float]
    bytes_down: int
    bytes_up: int


class Ours(AbstractContextManager["Ours"]):
    """A federation that is served, with clinics that ask nobody.

    Args:
        place: A new folder.
        clinics: How many.
    """

    def __init__(self, place: Path, clinics: int) -> None:
        place.mkdir()
        self._place = place
        self._names = [f"clinic-{number}" for number in range(clinics)]
        address = f"{LOOPBACK}:{free_port()}"
        self._folder = make_federation(place / "net", NAME, address, datetime.now(UTC))
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Start the coordinator, make the clinics, and start them too."""
        try:
            self._start("federation", "serve", "--folder", str(self._folder.path))
            for number, name in enumerate(self._names):
                self._make(name, number)
            _wait(lambda: self._folder.served() is not None and _answers(self._folder))
            for name in self._names:
                clinic, now = open_folder(self._place / name), datetime.now(UTC)
                invitation = invite(self._folder, name, now, purposes=("federated_training",))
                join(clinic, invitation, data=self._place / f"images-{name}")
                self._start("clinic", "serve", "--folder", str(clinic.path))
            _wait(lambda: _online(self._folder) == len(self._names))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End all processes."""
        for process in self._started:
            process.send_signal(signal.SIGTERM)
        for process in self._started:
            process.wait(timeout=60)

    def run(self, rounds: int, spare: int) -> Done:
        """Run the quickstart under secure sums.

        Args:
            rounds: Gradient rounds.
            spare: Clinics that may drop out of a sum.

        Returns:
            What came of it.
        """
        words = (f"training.head.rounds={rounds}", "data.groups=[skin_tone]")
        words = (*words, f"privacy.tolerated_dropouts={spare}")
        run = submit(self._folder, "quickstart", (*words, "tracking.enabled=false"))
        with control(self._folder) as client:
            start_run(client, run)
        cpu = self._watch(run, rounds)
        with control(self._folder) as client:
            _wait(lambda: all(each.over for each in list_runs(client)))
            found = list(client.ListRuns(ListRunsRequest()).run_dict.values())
        mine = next(each for each in found if each.override_config["run"].string == run)
        lines = _read(self._folder.runs / run / "log.jsonl")
        seconds = {
            line["round"]: line["seconds"] for line in lines if line["event"] == "round done"
        }
        answers = sum(
            line.get("event") == "answered" and line.get("run") == run
            for each in self.lines().values()
            for line in each
        )
        gradients = [seconds[number] for number in range(2, rounds + 2)]
        return Done(run, gradients, cpu, mine.bytes_sent // answers, mine.bytes_recv // answers)

    def lines(self) -> Lines:
        """Give each clinic's log."""
        logs = {name: self._place / name / "federation" / "node.log" for name in self._names}
        return {name: _read(log) for name, log in logs.items()}

    def _watch(self, run: str, rounds: int) -> dict[str, float]:
        """Wait for the end of a run; the CPU seconds of its gradient rounds, by process."""
        first: Counter[str] | None = None
        last: Counter[str] = Counter()
        until = time.monotonic() + PATIENCE_S
        while (now := standings(self._folder)[run]).stage != "finished":
            if now.stage == "failed" or time.monotonic() > until:
                raise SystemExit(f"error: the run did not finish: {now.stage} {now.problem}")
            if now.stage == "round" and 1 <= now.round <= rounds + 1:
                last = self._cpu()
                first = first or last
            time.sleep(0.2)
        spent = last - (first or Counter())
        return {name: spent[name] / rounds for name in FAMILIES.values()}

    def _cpu(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for parent in self._started:
            with suppress(psutil.Error):
                for each in psutil.Process(parent.pid).children(recursive=True):
                    with suppress(psutil.Error):
                        words, times = " ".join(each.cmdline()), each.cpu_times()
                        for word, name in FAMILIES.items():
                            if word in words.split(str(self._place))[0]:
                                found[name] += times.user + times.system
        return found

    def _make(self, name: str, number: int) -> None:
        drawn = SyntheticSettings(num_patients=PATIENTS, num_clinics=1, image_size=64)
        write_cohort(self._place / f"images-{name}", drawn, seed=number)
        told = load_config("quickstart").clinic.policy.model_dump(mode="json")
        told |= {"clinic": name, "coordinators": [NAME]}
        told["approval"] = {"without_asking": ["quickstart"]}
        policy = parse_policy(json.dumps(told).encode())
        anchors = self._place / f"anchors-{name}"
        create_folder(self._place / name, name=name, policy=policy, anchors=anchors, virtual=True)

    def _start(self, *words: str) -> None:
        with (self._place / f"out-{len(self._started)}").open("wb") as out:
            self._started.append(
                subprocess.Popen(  # noqa: S603 skinml itself
                    [*SKINML, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )


class Bare(AbstractContextManager["Bare"]):
    """A SuperLink and SuperNodes of the same release with the same settings, and stock apps.

    Args:
        place: A new folder.
        clinics: How many nodes.
        down: Bytes of a message.
        up: Bytes of an answer.
    """

    def __init__(self, place: Path, clinics: int, down: int, up: int) -> None:
        place.mkdir()
        (place / "empty").mkdir()
        self._place = place
        self._nodes = [f"node-{number}" for number in range(clinics)]
        self._bytes = (down, up)
        self._port = free_port()
        address = f"{LOOPBACK}:{self._port}"
        self._folder = make_federation(place / "net", NAME, address, datetime.now(UTC))
        self._log = JsonLog(place / "log")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start the SuperLink, its executor and the nodes."""
        folder = self._folder
        (folder.superlink / "secret").write_text(os.urandom(32).hex())
        part = superlink_part(folder, self._port)
        supervision = Supervision((part,), self._log, self._place / "processes")
        with self._stack:
            self._stack.enter_context(supervision.running())
            wait_ready(folder, self._port)
            supervision.add(executor_part(folder, self._port))
            with control(folder, self._port) as client:
                for name in self._nodes:
                    supervision.add(self._node(name, lambda key, at: register(client, key, at)))
                _wait(lambda: sum(n.status == "online" for n in listed(client)) == len(self._nodes))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End all processes."""
        self._stack.close()

    def run(self, messages: int) -> tuple[list[float], Lines]:
        """Send messages to all nodes, one after another.

        Args:
            messages: How many.

        Returns:
            Seconds of each message until all answers were there; each node's log, with a line
            where its app was done.
        """
        out = self._place / "times.json"
        content = _bare_bundle()
        config = {
            "out": Scalar(string=str(out)),
            "messages": Scalar(sint64=messages),
            "nodes": Scalar(sint64=len(self._nodes)),
            "down": Scalar(sint64=self._bytes[0]),
            "up": Scalar(sint64=self._bytes[1]),
        }
        fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        with control(self._folder, self._port) as client:
            client.StartRun(StartRunRequest(fab=fab, override_config=config))
            _wait(lambda: out.exists() and all(each.over for each in list_runs(client)))
            names = {str(node.id): node.name for node in listed(client)}
        told = json.loads(out.read_text())
        lines: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for line in _read(self._place / "log"):
            lines[line["part"]].append(line)
        for number, each in enumerate(told["answers"]):
            for node, (began, answered) in each.items():
                at = datetime.fromtimestamp(answered, UTC).isoformat()
                done = {"at": at, "event": "answered", "seconds": answered - began}
                lines[names[node]].append(done | {"kind": "train", "run": "bare", "round": number})
        ordered = {name: sorted(lines[name], key=lambda line: line["at"]) for name in self._nodes}
        return told["seconds"], ordered

    def _node(self, name: str, known: Callable[[bytes, str], int]) -> Part:
        key = ec.generate_private_key(ec.SECP384R1())
        file = self._place / f"{name}.key"
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        file.chmod(0o600)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        known(public, name)
        programs = Path(sys.executable).parent
        command = (
            str(programs / "flower-supernode"),
            *("--superlink", f"{LOOPBACK}:{self._port}"),
            *("--root-certificates", str(self._folder.ca_certificate)),
            *("--auth-supernode-private-key", str(file)),
            *("--host", LOOPBACK, "--port", str(free_port())),
        )
        own = {
            "FLWR_HOME": str(self._place / f"home-{name}"),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }
        return Part(name, command, self._place / "empty", FLOWER_QUIET | own)


def _bare_bundle() -> bytes:
    """Build the bundle of `bench_bare_app.py`, as Flower builds one."""
    source = (Path(__file__).parent / "bench_bare_app.py").read_bytes()
    project = b"""
[project]
name = "bare"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "bench_bare_app:server"
clientapp = "bench_bare_app:client"

[tool.flwr.app.config]
out = ""
messages = 0
nodes = 0
down = 0
up = 0
"""
    files = {"bench_bare_app.py": source, "pyproject.toml": project}
    listed_ = [f"{name},{hashlib.sha256(b).hexdigest()},{8 * len(b)}" for name, b in files.items()]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in (files | {".info/CONTENT": "\n".join(listed_).encode()}).items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 10, 1, 0, 0, 0)), text)
    return content.getvalue()


def _answers(folder: FederationFolder) -> bool:
    try:
        with control(folder) as client:
            listed(client)
    except Exception:  # noqa: BLE001 not yet, for whatever reason
        return False
    return True


def _online(folder: FederationFolder) -> int:
    with control(folder) as client:
        return sum(node.status == "online" for node in listed(client))


def _read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def _wait(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise SystemExit("error: waited in vain; the machine may be too busy.")
        time.sleep(0.3)
