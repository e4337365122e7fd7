"""What is asked for wrongly is told at once: nothing heavy is loaded for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skinml.clinic.folder import create_folder
from skinml.stewardship.policy import parse_policy
from tests.clinic.hostile_pictures import jpeg, skin
from tests.policy_text import policy_text

HEAVY = ("torch", "torchvision", "mlflow", "flwr", "ray", "opacus", "sklearn", "matplotlib")

# One process loads the command line; each command is then tried in a copy of it.
TRIED = """
import contextlib, io, json, os, sys
import typer
from skinml.cli.main import app, main

heavy, extra = json.loads(sys.argv[1]), json.loads(sys.argv[2])

def commands(group, path=()):
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))
    if not hasattr(group, "commands"):
        yield list(path)

def tried(words):
    out, into = os.pipe()
    if os.fork() == 0:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(words)
        found = [name for name in heavy if name in sys.modules]
        os.write(into, json.dumps([words, code, found]).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as file:
        return json.loads(file.read())

every = list(commands(typer.main.get_command(app)))
tries = [[*path, word] for path in every for word in ("--help", "--no-such-option")]
print(json.dumps([tried(words) for words in [*tries, *extra]]))
"""

WRONG = [
    ["run"],
    ["run", "quickstrat"],
    ["run", "quickstart", "privacy.epsilom=1"],
    ["run", "quickstart", "privacy.epsilon=-1"],
    ["run", "--resume", "nowhere", "seed=2"],
    ["evaluate", "nowhere", "--data", "nowhere"],
    ["predict", "nowhere", "nowhere.png"],
    ["compare", "quickstrat"],
    ["compare", "quickstart", "privacy.epsilom=1"],
    ["data", "tone", "nowhere.csv"],
    ["data", "prepare", "nothing", "nowhere"],
    ["clinic", "check", "--data", "nowhere", "--folder", "nowhere"],
    ["clinic", "review", "--folder", "nowhere"],
    ["clinic", "status", "--folder", "nowhere"],
    ["clinic", "ledger", "--folder", "nowhere"],
    ["clinic", "erase", "--folder", "nowhere"],
    ["clinic", "contributions", "--folder", "nowhere"],
    ["privacy", "audit", "quickstrat"],
    ["federation", "status", "--folder", "nowhere"],
]


# A clinic's own work that no network has a part in; the second import finds all unchanged.
DESK = [
    ["clinic", "policy", "compare", "quickstart", "--clinics", "6", "--folder", "north"],
    ["clinic", "import", "camera", "--records", "list.csv", "--folder", "north"],
    ["clinic", "import", "camera", "--records", "list.csv", "--folder", "north", "--json"],
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[int, str]]:
    place = tmp_path_factory.mktemp("empty")
    policy, anchors = parse_policy(policy_text().encode()), place / "anchors"
    create_folder(place / "north", name="north", policy=policy, anchors=anchors, virtual=True)
    (place / "camera").mkdir()
    (place / "camera" / "1.jpg").write_bytes(jpeg(skin(1)))
    (place / "list.csv").write_text("patient_id,image,diagnosis\nada,1.jpg,nevus\n")
    done = subprocess.run(
        [sys.executable, "-c", TRIED, json.dumps(HEAVY), json.dumps([*WRONG, *DESK])],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return {
        tuple(words): (code, ", ".join(found))
        for words, code, found in json.loads(done.stdout.splitlines()[-1])
    }


def test_help_and_unknown_options_of_every_command_load_nothing_heavy(
    outcomes: dict[tuple[str, ...], tuple[int, str]],
) -> None:
    for word, expected in (("--help", 0), ("--no-such-option", 2)):
        found = {words: each for words, each in outcomes.items() if words[-1] == word}
        assert len(found) > 50
        assert {words: each for words, each in found.items() if each != (expected, "")} == {}


def test_a_wrong_name_or_place_is_told_before_anything_heavy_is_loaded(
    outcomes: dict[tuple[str, ...], tuple[int, str]],
) -> None:
    assert {words: outcomes[tuple(words)] for words in map(tuple, WRONG)} == {
        tuple(words): (2, "") for words in WRONG
    }


def test_the_desk_compares_and_imports_without_torch(
    outcomes: dict[tuple[str, ...], tuple[int, str]],
) -> None:
    found = [outcomes[tuple(words)] for words in DESK]
    assert [code for code, _ in found] == [0, 0, 0]
    assert [loaded for _, loaded in found if "torch" in loaded] == []
