"""The check as a user of a clinic asks for it: role, purpose, and a line in the audit log."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from skinml.clinic.answers import answered, usual_answers
from skinml.clinic.check_clinic import check_clinic
from skinml.clinic.check_machine import Moment
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.new_clinic import make_clinic
from skinml.clinic.policies import put_in_force
from skinml.errors import PolicyError
from skinml.stewardship.roles import os_user

NOW = datetime.datetime(2026, 11, 22, 9, tzinfo=datetime.UTC)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    rows = []
    for number in range(4):
        Image.radial_gradient("L").rotate(90 * number).resize((40 + number, 40)).save(
            root / f"{number}.png"
        )
        diagnosis = "mel" if number % 2 else "nv"
        rows.append((f"{number}.png", f"P{number}", diagnosis, "CC0" if number < 3 else ""))
    columns = ["image", "patient_id", "diagnosis", "licence"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "manifest.csv", index=False)
    return root


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ClinicFolder]:
    def build(licences: tuple[str, ...] = ("CC0",), **typed: str) -> ClinicFolder:
        answers = usual_answers(tmp_path / "north", {"XDG_STATE_HOME": str(tmp_path / "state")})
        answers = answers.model_copy(update={"licences": licences})
        for name, text in ({"unlock": str(tmp_path / "north.key")} | typed).items():
            answers = answered(answers, name, text)
        return make_clinic(tmp_path / "north", answers, str).folder

    return build


def clocks() -> Callable[[], Moment]:
    seconds = itertools.count(4e9)
    return lambda: Moment(*[float(next(seconds))] * 2)


def test_a_check_is_logged_with_its_counts(make: Callable[..., ClinicFolder], data: Path) -> None:
    folder = make()
    report = check_clinic(folder, data, now=NOW, clocks=clocks())
    assert (report.purpose, report.num_patients) == ("federated_training", 3)
    entry = folder.audit.entries()[-1]
    assert (entry.event, entry.actor) == ("admission", os_user())
    assert entry.fields["patients"] == 3
    assert entry.fields["admitted"] == {"licence": 3}
    assert entry.fields["refused"] == {"no consent": 1}


def test_what_a_list_says_of_its_licence_opens_nothing_where_the_policy_names_none(
    make: Callable[..., ClinicFolder], data: Path
) -> None:
    folder = make(licences=())
    report = check_clinic(folder, data, now=NOW, clocks=clocks())
    assert (report.num_patients, report.num_images) == (0, 0)
    (about,) = [finding for finding in report.findings if finding.topic == "Consents"]
    assert about.colour == "red"
    assert "licence not allowed: 3, no consent: 1" in about.found
    assert "the policy names it under `licences`" in about.do
    refused = folder.audit.entries()[-1].fields["refused"]
    assert refused == {"licence not allowed": 3, "no consent": 1}


def test_the_usual_purpose_is_one_that_the_policy_allows(
    make: Callable[..., ClinicFolder], data: Path
) -> None:
    folder = make(purposes="research teaching")
    assert check_clinic(folder, data, now=NOW, clocks=clocks()).purpose == "research"


def test_a_list_that_cannot_be_read_admits_nobody_in_the_log(
    make: Callable[..., ClinicFolder], data: Path
) -> None:
    (data / "manifest.csv").unlink()
    folder = make()
    report = check_clinic(folder, data, now=NOW, clocks=clocks())
    assert report.colour == "red"
    assert "admission" not in {entry.event for entry in folder.audit.entries()}


def test_another_purpose_is_refused_before_the_data_are_touched(
    make: Callable[..., ClinicFolder],
) -> None:
    folder = make()
    with pytest.raises(PolicyError, match="purpose"):
        check_clinic(folder, Path("nowhere"), now=NOW, clocks=clocks(), purpose="teaching")
    entry = folder.audit.entries()[-1]
    assert (entry.event, entry.fields["reason"]) == ("refusal", "policy")


def test_who_may_not_check_is_refused_and_logged(
    make: Callable[..., ClinicFolder], data: Path
) -> None:
    folder = make()
    policy = folder.policy
    roles = policy.roles.model_copy(
        update={"steward": ("nobody-here",), "operator": (), "auditor": (os_user(),)}
    )
    put_in_force(folder, policy.model_copy(update={"roles": roles}), "root", now=NOW)
    with pytest.raises(PolicyError, match="check"):
        check_clinic(folder, data, now=NOW, clocks=clocks())
    assert folder.audit.entries()[-1].event == "refusal"
