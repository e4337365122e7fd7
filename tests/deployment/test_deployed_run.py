"""A run of two real clinics as separate processes, and the coordinator's app killed on the way."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.deployment.federation_folder import open_federation
from skinml.deployment.submission import Standing, standings
from skinml.deployment.superlink import free_port
from tests.deployment.real_federation import (
    SKINML,
    Machine,
    family,
    name_of,
    wait_for,
    words_of,
)

CLINICS = ("north", "south")
ROUNDS = 3
ANSWERS = """
name: {name}
purposes: [care, federated_training]
licences: [CC0]
epsilon: {{per_run: 8, per_year: 8, for_life: 10}}
least_patients: 10
unlock: {place}/stick-{name}/key
anchor: {place}/stick-{name}/anchors
"""


def standing(machine: Machine, run: str) -> Standing:
    """How far the run is: a command for each look would keep a core from the run itself."""
    found = standings(open_federation(machine.place / "net"))[run]
    assert found.stage != "failed", found
    return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    here = Machine(tmp_path)
    yield here
    assert not here.end()


def make(here: Machine) -> None:
    """The federation and its clinics, each with patients of its own."""
    address = f"127.0.0.1:{free_port()}"
    here.say("federation", "init", "net", "--name", "skin-network", "--address", address)
    for number, name in enumerate(CLINICS):
        drawn = SyntheticSettings(num_patients=60, num_clinics=1, image_size=64)
        write_cohort(here.place / f"images-{name}", drawn, seed=number)
        (here.place / f"stick-{name}").mkdir()
        text = ANSWERS.format(name=name, place=here.place)
        (here.place / f"answers-{name}.yaml").write_text(text)
        here.say("clinic", "init", "--folder", name, "--answers", f"answers-{name}.yaml")
        policy = here.place / f"policy-{name}.yaml"
        here.said.add("clinic policy show")
        shown = subprocess.run(
            [*SKINML, "clinic", "policy", "show", "--yaml", "--folder", name],
            cwd=here.place,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "coordinators: [simulation]" in shown
        shown = shown.replace("coordinators: [simulation]", "coordinators: [skin-network]")
        policy.write_text(shown.replace("least_clinics: 3", "least_clinics: 2"))
        here.say("clinic", "policy", "change", policy.name, "--folder", name, "--yes")
        words = ("--folder", "net", "--purpose", "federated_training", "--out", f"{name}.json")
        here.say("federation", "enrol", name, *words)


def test_a_run_of_two_clinics_outlives_the_coordinators_app(machine: Machine) -> None:
    make(machine)
    machine.start("federation", "serve", "--folder", "net")
    wait_for(lambda: open_federation(machine.place / "net").served())
    wait_for(lambda: machine.say("federation", "status", "--folder", "net")["answers"])
    for name in CLINICS:
        joining = ("--invitation", f"{name}.json", "--folder", name, "--data", f"images-{name}")
        machine.say("clinic", "join", *joining)
        machine.start("clinic", "serve", "--folder", name)
    settings = (
        "privacy.trust=local",
        f"training.head.rounds={ROUNDS}",
        "data.groups=[skin_tone]",
        "tracking.enabled=false",
    )
    run = machine.say("federation", "submit", "quickstart", *settings, "--folder", "net")["run"]
    wait_for(lambda: set(standing(machine, run).clinics.values()) == {"pending"})
    for name in CLINICS:
        machine.say("clinic", "approve", run, "--yes", "--folder", name)
    wait_for(lambda: standing(machine, run).round >= 1)
    apps = [
        each for each in family(machine.started[0].pid) if "serverapp" in " ".join(words_of(each))
    ]
    assert apps
    for each in apps:
        each.kill()
    machine.say("federation", "resume", run, "--folder", "net")
    wait_for(lambda: standing(machine, run).stage == "finished")
    told = machine.say("federation", "runs", "--folder", "net")["runs"][run]
    assert (told["stage"], told["round"]) == ("finished", ROUNDS + 2)
    page = (Path(__file__).parents[2] / "docs/deployment.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [line.split()[1:] for block in blocks for line in block.splitlines()]
    assert len(lines) > 10
    assert {name_of(line) for line in lines} <= machine.said
    folder = machine.place / "net/runs" / run
    result = json.loads((folder / "result.json").read_text())
    assert (result["complete"], result["resumes"]) == (True, 1)
    assert result["evaluation"]["source"] == "dp_counts"
    assert result["privacy"]["simulated"] is False
    assert (folder / "report.html").is_file()
    for name in CLINICS:
        ledger = machine.place / name / "ledger.jsonl"
        planned = 2 + ROUNDS + 2  # statistics, gradients, the two of the evaluation
        assert planned <= ledger.read_bytes().count(b"\n") <= planned + 2
        assert not list((machine.place / name).rglob("samples-*"))
