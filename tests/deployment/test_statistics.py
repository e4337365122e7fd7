"""Statistics of real clinics: asked for, approved or refused, charged, summed, shown."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from skinml.cli.clinic_approve import print_card
from skinml.deployment import proposals
from skinml.deployment.card import card_of
from skinml.deployment.submission import hand_in, read_standing
from skinml.deployment.superlink import free_port
from skinml.errors import ConfigError, PolicyError
from skinml.experiments.statistics import statistics_config
from skinml.records import EVERY_SPLIT
from tests.deployment.local_federation import LocalFederation
from tests.deployment.real_federation import SKINML, Machine, name_of, wait_for
from tests.experiments.counted_list import CLINICS, meant, write_list

TABLES = ("diagnosis", "skin_tone", "diagnosis:treatment")
BOTH = {"purposes": "[federated_training, statistics]", "least_clinics": "3"}
BY_RULE = "approval: {without_asking: [statistics]}\n"


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], pd.DataFrame]:
    """Each clinic's own list, and all rows."""
    return write_lists(tmp_path_factory.mktemp("lists"))


def write_lists(place: Path) -> tuple[dict[str, Path], pd.DataFrame]:
    rows = write_list(place / "whole")
    folders = {}
    for name in CLINICS:
        folders[name] = place / f"images-{name}"
        shutil.copytree(place / "whole" / "images", folders[name] / "images")
        own = rows[rows["clinic"] == name]
        own.to_csv(folders[name] / "manifest.csv", index=False)
    return folders, rows


def federation(
    place: Path, lists: dict[str, Path], rule: str = BY_RULE, **policy: str
) -> LocalFederation:
    return LocalFederation(place, lists, rule=rule, asked_for=("statistics",), **{**BOTH, **policy})


def ask(here: LocalFederation, *overrides: str, **words: Any) -> str:
    config = statistics_config(
        "statistics",
        ["federation.round_deadline_s=20", *overrides],
        tables=TABLES,
        deployed=True,
        **words,
    )
    return hand_in(here.folder, config)


def told(here: LocalFederation, run: str) -> dict[str, Any]:
    found = json.loads((here.folder.runs / run / "statistics.json").read_text())
    assert isinstance(found, dict)
    return found


def off_by(found: dict[str, Any], rows: pd.DataFrame) -> list[float]:
    """By how much each count that is shown differs from that of the lists."""
    groups = meant(rows)
    exact: dict[tuple[str, ...], int] = {}
    for table in TABLES:
        for key, number in groups.groupby(table.split(":")).size().items():
            exact[(table, *(key if isinstance(key, tuple) else (key,)))] = int(number)
    return [
        cell["patients"] - exact.get((table["table"], *cell["groups"]), 0)
        for table in found["tables"]
        for cell in table["cells"]
        if not cell["suppressed"]
    ]


def test_clinics_count_under_masks_and_nothing_else_of_theirs_is_shown(
    lists: tuple[dict[str, Path], pd.DataFrame], tmp_path: Path
) -> None:
    here = federation(tmp_path, lists[0])
    run = ask(here)
    here.conduct(run)
    found = told(here, run)
    assert (found["complete"], found["privacy"]["simulated"]) == (True, False)
    assert found["secure_sums"] == {"clinics": 3, "threshold": 3, "colluding": 0}
    off = off_by(found, lists[1])
    assert off
    assert max(map(abs, off)) < 6 * found["noise"]["std"]
    assert read_standing(here.folder.runs / run).stage == "finished"
    for name, folder in here.clinics.items():
        (entry,) = folder.ledger.entries()
        assert (entry.name, entry.split, entry.binding.simulated) == (
            "statistics",
            EVERY_SPLIT,
            False,
        )
        assert found["privacy"]["clinics"][name]["total_epsilon"] is None
        assert not list(folder.path.rglob("samples-*"))
    kept = "".join(
        path.read_text(errors="replace") for path in here.folder.runs.rglob("*") if path.is_file()
    )
    assert not re.search(r"\bP-\d", kept)


def test_a_clinic_sees_what_would_be_counted_and_what_it_costs(
    lists: tuple[dict[str, Path], pd.DataFrame], tmp_path: Path
) -> None:
    here = federation(tmp_path, lists[0], rule="")
    run = ask(here)
    proposals.receive(here.clinics["north"], _proposal(here, run))
    card = card_of(here.clinics["north"], run)
    own = int((lists[1]["clinic"] == "north").sum())
    assert card.data is not None
    assert (card.data.num_patients, card.tables) == (own, TABLES)
    assert card.refused == ()
    assert {each.what for each in card.leaving} == {"statistics"}
    (cost, *_) = card.costs
    assert 0.9 < cost.reached <= 1
    said = io.StringIO()
    print_card(card, Console(file=said, width=80))
    text = said.getvalue()
    for words in ("diagnosis by treatment", "would be counted, once in each table", "statistics"):
        assert words in text
    assert "train the model" not in text


def _proposal(here: LocalFederation, run: str) -> Any:
    from skinml.deployment.submission import find_submitted, read_proposal

    return read_proposal(find_submitted(here.folder, run))


def test_a_policy_without_the_purpose_refuses_and_nothing_is_charged(
    lists: tuple[dict[str, Path], pd.DataFrame], tmp_path: Path
) -> None:
    here = federation(tmp_path, lists[0], rule="", purposes="[federated_training]")
    run = ask(here)
    clinic = here.clinics["north"]
    proposals.receive(clinic, _proposal(here, run))
    with pytest.raises(PolicyError, match="purpose"):
        proposals.decide(clinic, run, True, "ada")
    assert not clinic.ledger.entries()


def test_counts_do_not_pass_under_the_name_of_a_training_that_runs_without_asking(
    lists: tuple[dict[str, Path], pd.DataFrame], tmp_path: Path
) -> None:
    """A coordinator who writes the proposal by hand."""
    here = federation(tmp_path, lists[0], rule="approval: {without_asking: [quickstart]}\n")
    clinic, own = here.clinics["north"], _proposal(here, ask(here))
    config = json.loads(own.config) | {"name": "quickstart"}
    said = {"experiment": "quickstart", "config": json.dumps(config)}
    with pytest.raises(ConfigError, match="the name statistics where patients are counted"):
        proposals.receive(clinic, own.model_copy(update=said))
    assert not proposals.states(clinic)


@pytest.mark.parametrize(("message", "charges"), [(4, [1, 1, 1]), (5, [1, 1, 2])])
def test_counts_that_were_broken_off_go_on_and_are_charged_once_more_at_most(
    lists: tuple[dict[str, Path], pd.DataFrame], tmp_path: Path, message: int, charges: list[int]
) -> None:
    """Three give their keys, then their counts: at the fifth message one has counted."""
    here = federation(tmp_path, lists[0])
    run = ask(here)
    asked: list[str] = []

    def before(clinic: str, kind: str) -> None:
        asked.append(kind)
        if asked.count("train") == message:
            raise KeyboardInterrupt

    here.before = before
    with pytest.raises(KeyboardInterrupt):
        here.conduct(run)
    here.before = lambda clinic, kind: None
    here.conduct(run)
    assert told(here, run)["complete"]
    assert sorted(len(each.ledger.entries()) for each in here.clinics.values()) == charges


def test_regions_are_of_the_clinics_that_are_asked_and_hold_the_policys_floor(
    lists: tuple[dict[str, Path], pd.DataFrame], tmp_path: Path
) -> None:
    here = federation(tmp_path, lists[0])
    with pytest.raises(ConfigError, match="regions of all clinics"):
        ask(here, regions={"coast": ("east", "west")})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_clinics_of_their_own_processes_are_counted(tmp_path: Path) -> None:
    here = Machine(tmp_path)
    folders, rows = write_lists(tmp_path)
    try:
        run = _counted_for_real(here, folders)
    finally:
        assert not here.end()
    found = json.loads((tmp_path / "net/runs" / run / "statistics.json").read_text())
    off = off_by(found, rows)
    assert found["secure_sums"] == {"clinics": 3, "threshold": 3, "colluding": 0}
    assert off
    assert max(map(abs, off)) < 6 * found["noise"]["std"]
    assert np.isclose(found["privacy"]["epsilon"], 1, atol=1e-3)
    for name in CLINICS:
        ledger = tmp_path / name / "ledger.jsonl"
        assert ledger.read_bytes().count(b"\n") == 1
        assert not list((tmp_path / name).rglob("samples-*"))


def _counted_for_real(here: Machine, folders: dict[str, Path]) -> str:
    """Make, join and serve everything by the command line, and count."""
    place = here.place
    address = f"127.0.0.1:{free_port()}"
    here.say("federation", "init", "net", "--name", "skin-network", "--address", address)
    for name in CLINICS:
        _make_clinic(here, name)
        out = ("--folder", "net", "--purpose", "statistics", "--out", f"{name}.json")
        here.say("federation", "enrol", name, *out)
    here.start("federation", "serve", "--folder", "net")
    wait_for(lambda: here.say("federation", "status", "--folder", "net")["answers"])
    for name in CLINICS:
        data = str(folders[name].relative_to(place))
        joining = ("--invitation", f"{name}.json", "--folder", name, "--data", data)
        here.say("clinic", "join", *joining)
        here.start("clinic", "serve", "--folder", name)
    asked = ("--tables", ",".join(TABLES), "--folder", "net")
    run = str(here.say("federation", "statistics", *asked)["run"])

    def standing() -> dict[str, Any]:
        found = here.say("federation", "runs", "--folder", "net")["runs"][run]
        assert found["stage"] != "failed", found
        return dict(found)

    wait_for(lambda: set(standing()["clinics"].values()) == {"pending"})
    for name in CLINICS:
        here.say("clinic", "approve", run, "--yes", "--folder", name)
    wait_for(lambda: standing()["stage"] == "finished")
    page = (Path(__file__).parents[2] / "docs/statistics.md").read_text()
    (block,) = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert {name_of(line.split()[1:]) for line in block.splitlines()} <= here.said
    return run


def _make_clinic(here: Machine, name: str) -> None:
    (here.place / f"stick-{name}").mkdir()
    answers = here.place / f"answers-{name}.yaml"
    answers.write_text(
        f"name: {name}\npurposes: [care, statistics]\nlicences: [CC0]\n"
        "epsilon: {per_run: 2, per_year: 4, for_life: 8}\nleast_patients: 10\n"
        f"unlock: {here.place}/stick-{name}/key\nanchor: {here.place}/stick-{name}/anchors\n"
    )
    here.say("clinic", "init", "--folder", name, "--answers", answers.name)
    shown = subprocess.run(
        [*SKINML, "clinic", "policy", "show", "--yaml", "--folder", name],
        cwd=here.place,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    changed = shown.replace("coordinators: [simulation]", "coordinators: [skin-network]")
    (here.place / f"policy-{name}.yaml").write_text(changed)
    here.say("clinic", "policy", "change", f"policy-{name}.yaml", "--folder", name, "--yes")
