"""Reports that were changed are found out; criteria hold a model back, one reason a line."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import yaml

from skinml.cli.main import main
from skinml.experiments.predictions_file import PredictionsSettings
from skinml.experiments.predictions_report import report_predictions
from skinml.experiments.report_anew import ANEW
from skinml.experiments.report_check import verify_report
from skinml.fairness.settings import FairnessSettings
from skinml.reports.verification import AGREES, DIFFERS, NOT_CHECKED

PASSES = {"figure": "auroc", "at_least": 0.6}


def fairness(*criteria: dict[str, object]) -> FairnessSettings:
    return FairnessSettings.model_validate(
        {
            "replicates": 100,
            "null_draws": 100,
            "groups": ["tone"],
            "primary": None,
            "metrics": ["auroc", "sensitivity"],
            "acceptance": criteria,
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A predictions file, and a function that writes the report of it with some criteria."""
    place = tmp_path_factory.mktemp("reports")
    rng, path = np.random.default_rng(8), place / "scores.csv"
    lines = ["patient,truth,p,tone"]
    for at in range(400):
        truth, dark = at % 3 == 0, at % 4 == 0
        score = np.clip(0.35 + (0.12 if dark else 0.4) * truth + rng.normal(0, 0.12), 0, 1)
        lines.append(f"P{at // 2},{int(truth)},{score:.5f},{'dark' if dark else 'light'}")
    path.write_text("\n".join(lines))
    columns = {"label": "truth", "scores": ("p",), "patient": "patient", "threshold": 0.5}
    settings = PredictionsSettings(path=path, groups={"tone": "tone"}, **columns)

    def write(name, *criteria):
        report_predictions(settings, place / name, fairness=fairness(*criteria))
        return place / name

    return path, write


@pytest.fixture(scope="module")
def report(made):
    return made[1]("whole", PASSES)


@pytest.fixture
def copy(report, tmp_path):
    return shutil.copytree(report, tmp_path / "copy")


def outcomes(folder, path):
    return {each.what: each for each in verify_report(str(folder), predictions=path).checks}


def test_a_report_as_it_was_written_agrees_in_everything(report, made):
    found = outcomes(report, made[0])
    assert {each.outcome for each in found.values()} == {AGREES}
    assert int(re.match(r"[\d,]+", found[ANEW].detail).group().replace(",", "")) > 200
    document = json.loads((report / "report.json").read_text())
    assert document["made_from"]["run"].startswith("predictions-")
    assert document["made_from"]["data_digest"].startswith("sha256:")
    assert re.fullmatch(r"sha256:[0-9a-f]{16}", document["made_from"]["skinml_source"])


def test_what_cannot_be_computed_anew_is_said(copy, made):
    shutil.move(copy / "report.html", copy / "other.html")
    found = {each.what: each for each in verify_report(str(copy)).checks}
    assert found["the page"].outcome == NOT_CHECKED
    assert found[ANEW].outcome == NOT_CHECKED
    assert "--predictions" in found[ANEW].detail


def change_number(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def sign_anew(folder):
    """Put the changed page's digest into report.json, as a forger would."""
    digest = hashlib.sha256((folder / "report.html").read_bytes()).hexdigest()
    document = json.loads((folder / "report.json").read_text())
    document["page"]["sha256"] = f"sha256:{digest}"
    (folder / "report.json").write_text(json.dumps(document))


def auroc_of(folder):
    document = json.loads((folder / "report.json").read_text())
    return document["record"]["overall"]["estimates"]["auroc"]["value"]


def test_a_number_changed_on_the_page_is_found_even_with_its_digest_renewed(copy, made):
    shown = f"{auroc_of(copy):.3f}"
    change_number(copy / "report.html", shown, "0.987")
    found = outcomes(copy, made[0])
    assert found["the digest of the page"].outcome == DIFFERS
    sign_anew(copy)
    found = outcomes(copy, made[0])
    assert found["the digest of the page"].outcome == AGREES
    assert "0.987" in found["each number of the page is in report.json"].detail
    assert found["the page made anew from report.json"].outcome == DIFFERS


def test_two_numbers_swapped_on_the_page_are_found(copy, made):
    """Each of them is in report.json, so that only the page made anew tells."""
    words = re.search(r"finds about (\d+)\s", (copy / "report.html").read_text())
    assert words
    change_number(copy / "report.html", words.group(), "finds about 95 ")
    sign_anew(copy)
    found = outcomes(copy, made[0])
    assert found["the page made anew from report.json"].outcome == DIFFERS


def test_a_figure_changed_everywhere_is_found_by_computing_it_anew(made, copy, capsys):
    document = json.loads((copy / "report.json").read_text())
    document["record"]["overall"]["estimates"]["auroc"]["value"] += 0.01
    (copy / "report.json").write_text(json.dumps(document))
    found = outcomes(copy, made[0])[ANEW]
    assert found.outcome == DIFFERS
    assert found.detail == "at overall.estimates.auroc.value"
    assert main(["report", "verify", str(copy), "--predictions", str(made[0])]) == 5
    told = capsys.readouterr()
    assert "overall.estimates.auroc.value" in told.err
    assert "Do not rely on this report" in told.err


def test_where_other_code_made_a_report_that_differs_the_user_is_told_of_it(made, copy, capsys):
    document = json.loads((copy / "report.json").read_text())
    document["record"]["overall"]["estimates"]["auroc"]["value"] += 0.01
    document["record"]["versions"]["skinml source"] = "sha256:0123456789abcdef"
    (copy / "report.json").write_text(json.dumps(document))
    assert main(["report", "verify", str(copy), "--predictions", str(made[0])]) == 5
    assert "Other code of skinml made it" in capsys.readouterr().err


def test_a_changed_origin_is_found(copy, made):
    document = json.loads((copy / "report.json").read_text())
    document["made_from"]["data_digest"] = "sha256:0"
    (copy / "report.json").write_text(json.dumps(document))
    found = outcomes(copy, made[0])["run, data and code"]
    assert (found.outcome, found.detail) == (DIFFERS, "at data_digest")


def test_another_file_is_not_the_one_that_was_reported(copy, made, tmp_path):
    other = tmp_path / "scores.csv"
    other.write_text(made[0].read_text().replace("dark", "deep"))
    found = outcomes(copy, other)
    assert found["the predictions file scores.csv"].outcome == DIFFERS
    assert found[ANEW].outcome == NOT_CHECKED


def test_what_is_no_report_is_the_users_fault(tmp_path, capsys):
    (tmp_path / "report.json").write_text("[]")
    assert main(["report", "verify", str(tmp_path)]) == 2
    assert main(["report", "verify", "no-such-run"]) == 2
    assert "names of the folders in runs/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("criteria", "code", "words"),
    [
        ([PASSES], 0, "met: auroc of everybody at least 0.6 by its lower limit"),
        ([], 3, "expected acceptance criteria that were fixed before"),
        (
            [PASSES, {"figure": "auroc", "at_least": 0.999}],
            3,
            "1 of 2 not met",
        ),
        (
            [{"gap": "auroc", "column": "tone"}],
            3,
            "not met: gap in auroc by tone: ruled out within the margin; dark against light",
        ),
        (
            [{"gap": "auroc", "column": "sex"}],
            3,
            "cannot tell: gap in auroc by sex: ruled out within the margin; sex: not among the",
        ),
        (
            [{"gap": "auroc", "column": "sex", "allow_cannot_tell": True}],
            3,  # it was never measured
            "cannot tell: gap in auroc by sex",
        ),
    ],
)
def test_the_gate_opens_only_where_all_criteria_are_met(made, capsys, criteria, code, words):
    path, write = made
    folder = write(hashlib.sha256(json.dumps(criteria).encode()).hexdigest()[:8], *criteria)
    assert main(["report", "--gate", str(folder), "--predictions", str(path)]) == code
    told = capsys.readouterr()
    assert words in (told.err if code else told.out)
    lines = [line for line in told.err.splitlines() if line.startswith("  ")]
    assert len(lines) == (sum(word in told.err for word in ("1 of 2", "1 of 1")) if code else 0)


def test_a_changed_report_does_not_pass_the_gate(copy, made, capsys):
    change_number(copy / "report.html", f"{auroc_of(copy):.3f}", "0.987")
    assert main(["report", "--gate", str(copy), "--predictions", str(made[0])]) == 5
    assert "the digest of the page" in capsys.readouterr().err


def test_a_model_that_no_registry_knows_cannot_be_approved(copy, made, capsys):
    words = ["report", "--gate", str(copy), "--predictions", str(made[0]), "--approve"]
    assert main(words) == 2
    assert "leave out --approve" in capsys.readouterr().err
    assert main([*words[:3], "--approve"]) == 3
    assert "computed anew before a model is approved" in capsys.readouterr().err


def test_criteria_of_the_readme_kind_are_read_from_yaml(tmp_path):
    text = """
    - {figure: auroc, group: overall, at_least: .80, by: lower limit}
    - {gap: sensitivity, column: skin_tone, verdict: "ruled out within the margin"}
    """
    found = FairnessSettings.model_validate({"acceptance": yaml.safe_load(text)}).acceptance
    assert [each.words for each in found] == [
        "auroc of everybody at least 0.8 by its lower limit",
        "gap in sensitivity by skin_tone: ruled out within the margin",
    ]
