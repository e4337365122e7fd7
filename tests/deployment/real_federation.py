"""A federation of real processes on this machine, whose parts a test can kill, cut and read."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from skinml.cli.main import main
from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.deployment.enrolment import invite
from skinml.deployment.federation_folder import FederationFolder, make_federation
from skinml.deployment.flower_runs import list_runs
from skinml.deployment.joining import join
from skinml.deployment.submission import Standing, standings
from skinml.deployment.superlink import control, free_port, listed
from skinml.stewardship.policy import parse_policy
from tests.policy_text import policy_text

SKINML = (sys.executable, "-c", "import sys; from skinml.cli.main import main; sys.exit(main())")
PATIENCE_S = 900.0  # also on a machine that does much else
ROUNDS = 2
FIRST, LAST = 1, ROUNDS + 2  # the statistics, and the evaluation
QUICK = (
    f"training.head.rounds={ROUNDS}",
    "data.groups=[skin_tone]",
    "tracking.enabled=false",
)
LOCAL = ("privacy.trust=local",)
COORDINATOR = "skin-network"


def wait_for(condition: Callable[[], Any], *, poll_s: float = 0.2) -> Any:
    """Wait until something is there, and give it."""
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(poll_s)
    return found


def family(pid: int) -> list[psutil.Process]:
    """The living processes below one."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def words_of(process: psutil.Process) -> list[str]:
    """A process's command, empty where it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


class Machine:
    """One folder with a federation and its clinics, and the processes that were started there."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.started: list[subprocess.Popen[bytes]] = []
        self.said: set[str] = set()

    def say(self, *words: str) -> dict[str, Any]:
        """Give a command; its object."""
        self.said.add(name_of(words))
        done = subprocess.run(
            [*SKINML, *words, "--json"], cwd=self.place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(found, dict)
        return found

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command that stays."""
        self.said.add(name_of(words))
        return self.start_program([*SKINML, *words])

    def start_program(self, program: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start a program that stays, with a folder of its own for temporary files."""
        number = len(self.started)
        temporary = self.place / f"tmp-{number}"
        temporary.mkdir()
        with self.said_by(number).open("wb") as out:
            child = subprocess.Popen(
                program,
                cwd=self.place,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"} | environment,
                start_new_session=True,
            )
        self.started.append(child)
        return child

    def said_by(self, number: int) -> Path:
        """What a started command printed."""
        return self.place / f"out-{number}.log"

    def processes(self) -> list[psutil.Process]:
        """All living processes that came of what was started, whoever is their parent now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                at = process.environ().get("TMPDIR", "")
                living = process.status() != psutil.STATUS_ZOMBIE
                if living and process.pid != os.getpid() and Path(at).parent == self.place:
                    found.append(process)
        return found

    def end(self) -> list[psutil.Process]:
        """End what was started; gives what did not end with it, ended by force."""
        for process in self.started:
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            process.wait(timeout=60)
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return left


def name_of(words: Sequence[str]) -> str:
    """A command's groups and its name, such as "clinic policy show"."""
    return " ".join(
        itertools.takewhile(str.isalpha, words[:3] if words[1] == "policy" else words[:2])
    )


@dataclass
class Federation:
    """A coordinator and clinics that answer without asking anybody."""

    machine: Machine
    folder: FederationFolder
    clinics: dict[str, ClinicFolder]
    serving: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def serve(self, *names: str, **environment: str) -> None:
        """Start clinics by name, or the coordinator by "net"."""
        for name in names:
            group = "federation" if name == "net" else "clinic"
            place = self.folder.path if name == "net" else self.clinics[name].path
            words = (*SKINML, group, "serve", "--folder", str(place))
            self.serve_with(name, *words, **environment)
            if name == "net":
                wait_for(lambda: "proxy" in self.printed("net") and self.folder.served())

    def serve_with(self, name: str, *program: str, **environment: str) -> None:
        """Start a part by another program."""
        self.numbers[name] = len(self.machine.started)
        self.serving[name] = self.machine.start_program(program, **environment)

    def ready(self) -> None:
        """Serve whatever is not served, and wait until all clinics are connected."""
        dead = [name for name, child in self.serving.items() if child.poll() is not None]
        self.serve(*sorted(dead, key=lambda name: name != "net"))
        wait_for(lambda: self.online() == set(self.clinics), poll_s=1.0)

    def printed(self, name: str) -> str:
        """What the latest serving of a part printed."""
        return self.machine.said_by(self.numbers[name]).read_text()

    def crash(self, *names: str) -> None:
        """Kill whole families at once, as a power cut does: nobody sees another's end."""
        found = [psutil.Process(self.serving[name].pid) for name in names]
        found += [each for name in names for each in family(self.serving[name].pid)]
        kill_at_once(found)
        for name in names:
            self.serving[name].wait(timeout=20)
        psutil.wait_procs(found, timeout=20)

    def online(self) -> set[str]:
        """The clinics that Flower counts as connected."""
        with control(self.folder) as client:
            return {node.name for node in listed(client) if node.status == "online"}

    def submit(self, *settings: str, clinics: Sequence[str] = ()) -> str:
        """Submit a run of the quickstart; its id."""
        asked = [word for name in clinics for word in ("--clinic", name)]
        words = ("submit", "quickstart", *QUICK, *settings, *asked)
        return str(self.command(*words)["run"])

    def command(self, *words: str) -> dict[str, Any]:
        """Give the coordinator's command in this process."""
        code, said, complaint = self.tried(*words)
        assert code == 0, complaint
        found = json.loads(said.splitlines()[-1])
        assert isinstance(found, dict)
        return found

    def tried(self, *words: str) -> tuple[int, str, str]:
        """Give the coordinator's command; its exit code and what it printed."""
        out, complaint = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaint):
            code = main(["federation", *words, "--folder", str(self.folder.path), "--json"])
        return code, out.getvalue(), complaint.getvalue()

    def standing(self, run: str) -> Standing:
        """How far a run is."""
        return standings(self.folder)[run]

    def reached(self, run: str, stage: str, number: int = 0) -> bool:
        """Whether a run has come so far; one that has failed will not."""
        now = self.standing(run)
        assert now.stage != "failed", now
        order = ("proposed", "preparing", "round", "evaluating", "finished")
        return order.index(now.stage) >= order.index(stage) and now.round >= number

    def ended(self, run: str) -> Standing | None:
        """How a run ended; None while Flower still has a process for it."""
        now = self.standing(run)
        if now.stage not in ("finished", "failed"):
            return None
        with control(self.folder) as client:
            over = all(each.over for each in list_runs(client) if each.run == run)
        return self.standing(run) if over else None

    def finished(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run that must succeed; its result."""
        now = wait_for(lambda: self.ended(run), poll_s=1.0)
        assert now.stage == "finished", now
        found = json.loads((self.folder.runs / run / "result.json").read_text())
        assert isinstance(found, dict)
        return found

    def heard(self, name: str, pattern: str, start: int = 0) -> int:
        """How often a clinic's processes have said something, from a mark in their log on."""
        content = (self.clinics[name].path / "federation" / "node.log").read_bytes()[start:]
        return len(re.findall(pattern.encode(), content))

    def mark(self, name: str) -> int:
        """Where a clinic's log ends now."""
        log = self.clinics[name].path / "federation" / "node.log"
        return log.stat().st_size if log.exists() else 0

    def hidden(self) -> set[bytes]:
        """Patients, pictures and their folders: nowhere but at the clinic itself."""
        words = {f"PATIENT-{name.upper()}" for name in self.clinics}
        for name in self.clinics:
            pictures = self.machine.place / f"pictures-of-{name}"
            words |= {pictures.name} | {path.stem for path in (pictures / "images").iterdir()}
        return {word.encode() for word in words}

    def charged(self, name: str, run: str) -> list[tuple[int, int]]:
        """The rounds and attempts that a clinic's ledger has charged, one a release."""
        entries = open_folder(self.clinics[name].path).ledger.entries()
        return [(e.binding.round, e.binding.attempt) for e in entries if e.binding.run == run]


def kill_at_once(processes: Sequence[psutil.Process]) -> None:
    """Stop processes first, so that none acts on another's death, then kill them."""
    for how in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(how)


def make_clinic(place: Path, name: str, number: int, patients: int) -> ClinicFolder:
    """A clinic with drawn patients of its own, whose names can be recognised anywhere."""
    drawn = SyntheticSettings(num_patients=patients, num_clinics=1, image_size=64)
    images = write_cohort(place / f"pictures-of-{name}", drawn, seed=number)
    manifest = images / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("SYN-", f"PATIENT-{name.upper()}-"))
    policy = policy_text(
        clinic=name,
        coordinators=f"[{COORDINATOR}]",
        least_patients="10",
        max_epsilon_per_run="100.0",
        max_epsilon_per_year="1000.0",
        max_epsilon_for_life="1000.0",
    )
    policy += "approval: {without_asking: [quickstart]}\n"
    anchors = place / f"anchors-{name}"
    create_folder(
        place / name,
        name=name,
        policy=parse_policy(policy.encode()),
        anchors=anchors,
        virtual=True,
    )
    return open_folder(place / name)


@contextmanager
def real_federation(
    place: Path, *names: str, patients: int = 40, line: tuple[int, int] | None = None
) -> Iterator[Federation]:
    """A served federation whose clinics have joined and are connected.

    Args:
        place: Where it is made.
        names: The clinics.
        patients: Patients of each.
        line: The port that clinics connect to and the one that the coordinator listens at, where
            something lies between them.
    """
    machine = Machine(place)
    near, far = line or (free_port(),) * 2
    folder = make_federation(
        place / "net",
        COORDINATOR,
        f"127.0.0.1:{near}",
        datetime.now(UTC),
        listen=f"127.0.0.1:{far}",
    )
    clinics = {name: make_clinic(place, name, at, patients) for at, name in enumerate(names)}
    net = Federation(machine, folder, clinics)
    try:
        net.serve("net")
        for name, clinic in clinics.items():
            invitation = invite(folder, name, datetime.now(UTC), purposes=("federated_training",))
            join(clinic, invitation, data=place / f"pictures-of-{name}")
        net.serve(*names)
        wait_for(lambda: net.online() == set(names), poll_s=1.0)
        yield net
    finally:
        left = [" ".join(words_of(each)) for each in machine.end()]
    assert not left, left
