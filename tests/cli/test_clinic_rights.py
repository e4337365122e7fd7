"""`skinml clinic contributions`, `erase` and what a withdrawal tells: words, JSON, and no id."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from typer.testing import CliRunner

from skinml.cli import clinic_rights
from skinml.cli.clinic import app
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.errors import ConfigError, DataError, InputError
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import GaussianEvent
from tests.clinic.rights import NOW, enrol, log_run, make, release

PATIENT, OTHER = "Mustermann-4711", "Beispiel-4712"
STEP = GaussianEvent(6.0)
GRADIENT = ("gradient", "training", "train", STEP)
Desk = Callable[..., Result]


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path)
    enrol(folder, PATIENT, OTHER)
    for number in (1, 2):
        release(folder, "derm-20260301-0930", number, [GRADIENT], {"train": [PATIENT]})
    log_run(folder, "derm-20260301-0930", "derm_malignancy")
    return folder


@pytest.fixture
def desk(clinic: ClinicFolder) -> Desk:
    """A command with a patient's id piped in; a failure of skinml's own is raised."""

    def invoke(*words: str, patient: str = PATIENT) -> Result:
        arguments = [*words, "--folder", str(clinic.path)]
        result = CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments, input=f"{patient}\n")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


_WHOLE = r"next: skinml |Certificate: |   skinml "


def one_line(result: Result) -> str:
    lines = result.stdout.splitlines()
    # A command is one line, however long its paths are, so that it can be copied.
    assert max(len(line) for line in lines if not re.match(_WHOLE, line)) <= 80
    assert PATIENT not in result.output
    return re.sub(r"\s+", " ", result.stdout)


def test_a_patient_is_told_which_models_what_bounds_it_and_what_is_not_claimed(desk: Desk) -> None:
    text = one_line(desk("contributions"))
    eps = epsilon([STEP, STEP], 1e-5)
    assert f"epsilon {eps:.3f} at delta 1e-05" in text
    # Gaussian differential privacy mu: right at most Phi(mu / 2) of the time.
    right = math.ceil(50 * (1 + math.erf(math.sqrt(2) / 6 / 2 / math.sqrt(2))))
    assert f"at most {right} times in 100" in text
    assert "1 model learnt from this patient's data." in text
    assert "keeps what it learnt" in text
    assert "trained on" in text
    other = one_line(desk("contributions", patient=OTHER))
    assert "No run that this clinic has a record of read this patient's data." in other
    assert "epsilon" not in other


def test_an_erasure_says_what_is_gone_what_stays_and_that_no_model_was_changed(
    desk: Desk, clinic: ClinicFolder
) -> None:
    text = one_line(desk("erase", "--yes"))
    assert "The patient's key is destroyed: what was sealed under it" in text
    assert "Consent is withdrawn for all but care" in text
    assert "No model was changed, and none will be" in text
    assert "Care records that the clinic keeps elsewhere" in text
    assert not open_folder(clinic.path).vault.objects(PATIENT)
    counted = json.loads(desk("consent", "show", "--json", patient="").stdout)
    assert counted["num_erased"] == 1
    assert not any(tally.get("withdrawn") for tally in counted["purposes"].values())
    assert one_line(desk("erase", "--yes")).startswith("The patient has no key here")


def test_without_a_terminal_nothing_is_erased_unasked(desk: Desk, clinic: ClinicFolder) -> None:
    with pytest.raises(ConfigError, match="nothing was erased"):
        desk("erase")
    assert clinic.vault.objects(PATIENT)


def test_a_no_at_the_terminal_erases_nothing_and_says_so(
    desk: Desk, clinic: ClinicFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(clinic_rights, "sys", terminal)
    result = desk("erase", patient=f"{PATIENT}\nn")
    assert (result.exit_code, result.stdout) == (0, "Nothing was erased.\n")
    assert clinic.vault.objects(PATIENT)


def test_json_is_one_object(desk: Desk) -> None:
    told = json.loads(desk("contributions", "--json").stdout)
    assert (told["models"], told["erased"], told["delta"]) == (1, False, 1e-5)
    (run,) = told["runs"]
    assert (run["experiment"], run["releases"]) == ("derm_malignancy", {"gradient": 2})
    assert run["first_day"] == NOW.date().isoformat()
    done = json.loads(desk("erase", "--yes", "--json").stdout)
    assert (done["key_destroyed"], done["objects"]) == (True, 1)
    assert done["contributions"]["erased"]
    assert done["contributions"]["runs"] == told["runs"]


def test_a_withdrawal_tells_what_was_before_it(desk: Desk) -> None:
    text = one_line(desk("consent", "withdraw"))
    assert "1 model learnt from this patient's data." in text
    told = json.loads(desk("consent", "withdraw", "--json").stdout)
    assert told["contributions"]["models"] == 1


@pytest.mark.parametrize("command", ["erase", "contributions"])
def test_an_id_as_an_argument_is_refused_and_not_repeated(desk: Desk, command: str) -> None:
    with pytest.raises(InputError) as refusal:
        desk(command, PATIENT)
    assert PATIENT not in str(refusal.value)
    with pytest.raises(DataError) as unknown:
        desk(command, *(["--yes"] if command == "erase" else []), patient="Nobody-0815")
    assert "Nobody" not in str(unknown.value)
