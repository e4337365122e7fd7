"""Anybody's predictions files: what is understood, and what is refused in one clear line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from skinml.cli.main import main
from skinml.errors import DataError
from skinml.experiments.predictions_file import PredictionsSettings, read_predictions_file

NAMES = ["image", "patient", "truth", "p", "tone", "sex"]
OPTIONS = ("--label", "truth", "--score", "p", "--patient", "patient", "--group", "tone")
QUICK = {"fairness": {"replicates": 100, "null_draws": 100, "groups": ["tone"], "primary": None}}


def rows(num: int = 60) -> list[list[object]]:
    rng = np.random.default_rng(5)
    found = []
    for at in range(num):
        truth = int(at % 3 == 0)
        score = round(float(np.clip(0.3 + 0.3 * truth + rng.normal(0, 0.15), 0, 1)), 6)
        tone = ("light", "dark", "")[at % 5 % 3]
        found.append([f"img{at}", f"MRN-{at // 2:05d}", truth, score, tone, "fm"[at % 2]])
    return found


@pytest.fixture
def write(tmp_path):
    def writer(lines, names=NAMES, name="scores.csv", delimiter=","):
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([names, *lines] if names else lines)
        return path

    return writer


def settings(path: Path, **changes: object) -> PredictionsSettings:
    usual = {"label": "truth", "scores": ("p",), "patient": "patient", "groups": {"tone": "tone"}}
    return PredictionsSettings.model_validate({"path": path, **usual, **changes})


def test_csv_and_parquet_say_the_same_whatever_the_types(write, tmp_path):
    lines = rows()
    path = write(lines)
    table = pa.table(
        {
            "patient": [line[1] for line in lines],
            "truth": pa.array([bool(line[2]) for line in lines]),
            "p": pa.array([line[3] for line in lines], pa.float64()),
            "tone": pa.array([line[4] or None for line in lines]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "scores.parquet", row_group_size=7)
    one = read_predictions_file(settings(path)).predictions
    other = read_predictions_file(settings(tmp_path / "scores.parquet")).predictions
    assert one.classes == other.classes
    for name in ("labels", "probabilities", "patients", "decisions"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.groups["tone"], other.groups["tone"])
    assert one.probabilities[:, 1].tolist() == [line[3] for line in lines]
    assert one.labels.tolist() == [line[2] for line in lines]


def test_patients_are_numbered_and_their_ids_are_gone(write):
    found = read_predictions_file(settings(write(rows()))).predictions
    assert len(set(found.patients.tolist())) == 30
    assert found.patients[0] == found.patients[1] != found.patients[2]
    assert not any("MRN" in each for each in found.patients.tolist())


def test_what_is_not_known_is_a_group_of_its_own(write):
    lines = rows()
    for line, word in zip(
        lines, ("unknown", "NA", "", "n/a", "?", "None", "not known"), strict=False
    ):
        line[4] = word
    found = read_predictions_file(settings(write(lines))).predictions.groups["tone"]
    assert set(found[:7].tolist()) == {"unknown"}
    assert set(found.tolist()) == {"light", "dark", "unknown"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_usual_separators_and_a_byte_order_mark_are_understood(write, delimiter):
    path = write(rows(), delimiter=delimiter)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = read_predictions_file(settings(path, label="truth")).predictions
    assert len(found) == 60


def test_labels_in_other_words_need_to_be_told_which_is_looked_for(write):
    lines = [[*line[:2], ("nevus", "melanoma")[line[2]], *line[3:]] for line in rows()]
    path = write(lines)
    with pytest.raises(DataError, match=r"truth has melanoma, nevus.*--positive WORD"):
        read_predictions_file(settings(path))
    found = read_predictions_file(settings(path, positive=("Melanoma",)))
    assert found.predictions.classes.names == ("nevus", "melanoma")
    assert found.positive == ("melanoma",)
    assert found.predictions.labels.tolist() == [line[2] for line in rows()]


def test_a_threshold_or_a_column_decides_and_without_both_nothing_does(write):
    lines = [[*line, int(line[3] > 0.4)] for line in rows()]
    path = write(lines, [*NAMES, "call"])
    by_column = read_predictions_file(settings(path, prediction="call"))
    by_threshold = read_predictions_file(settings(path, threshold=0.4))
    assert by_column.decided
    assert by_threshold.decided
    assert not read_predictions_file(settings(path)).decided
    assert by_column.predictions.decisions.tolist() == [line[-1] for line in lines]
    np.testing.assert_array_equal(
        by_threshold.predictions.decisions, [int(line[3] >= 0.4) for line in lines]
    )
    with pytest.raises(DataError, match="not both"):
        read_predictions_file(settings(path, prediction="call", threshold=0.4))


def test_several_classes_each_have_a_score(write):
    rng = np.random.default_rng(2)
    parts = rng.dirichlet([1, 1, 1], size=90)
    lines = [
        [f"p{at}", ("mel", "bcc", "nev")[at % 3], *part.tolist()] for at, part in enumerate(parts)
    ]
    path = write(lines, ["patient", "truth", "s1", "s2", "s3"])
    many = {"scores": ("s1", "s2", "s3"), "groups": {}, "classes": ("mel", "bcc", "nev")}
    found = read_predictions_file(settings(path, **many, positive=("mel", "bcc"))).predictions
    assert found.classes.malignant == (True, True, False)
    np.testing.assert_allclose(found.probabilities, parts)
    np.testing.assert_array_equal(found.decisions, parts.argmax(axis=1))
    with pytest.raises(DataError, match="which classes count"):
        read_predictions_file(settings(path, **many))
    with pytest.raises(DataError, match="among the classes a, b, c"):
        read_predictions_file(settings(path, **{**many, "classes": ("a", "b", "c")}))


def test_equal_rows_are_counted_and_kept(write):
    lines = rows()
    found = read_predictions_file(settings(write([*lines, *lines[:4]])))
    assert (found.num_alike, len(found.predictions)) == (4, 64)
    assert read_predictions_file(settings(write(lines))).num_alike == 0


def changed(at: int, column: int, value: object) -> list[list[object]]:
    lines = rows()
    lines[at][column] = value
    return lines


BAD = {
    "a missing column": (rows(), NAMES, {"label": "Truth"}, r"a column Truth.*Did you mean truth"),
    "no line of names": (rows(), None, {}, "a first line with numbers in it"),
    "a score above 1": (changed(7, 3, 1.2), NAMES, {}, r"scores from 0 to 1.*row 8 below"),
    "a negative score": (changed(7, 3, -0.2), NAMES, {}, r"scores from 0 to 1.*row 8 below"),
    "NaN": (changed(7, 3, "NaN"), NAMES, {}, r"not NaN; got other rows, such as row 8 below"),
    "an infinite score": (changed(7, 3, "inf"), NAMES, {}, r"scores from 0 to 1.*row 8 below"),
    "a score in words": (changed(7, 3, "0,7"), NAMES, {}, r"numbers in the column p.*row 8 below"),
    "no label": (changed(7, 2, ""), NAMES, {}, r"a value in each row of truth.*row 8 below"),
    "no patient": (changed(7, 1, ""), NAMES, {}, r"an id in each row of patient.*row 8 below"),
    "one row": (rows()[:1], NAMES, {}, "at least two patients; got num_rows=1"),
    "no row": ([], NAMES, {}, "rows below the line of names; got none"),
    "all of one class": (
        [line for line in rows() if line[2] == 0],
        NAMES,
        {},
        "rows of both kinds in truth; got num_rows=40, all not looked for",
    ),
    "an image twice": (
        [*rows(), rows()[3]],
        NAMES,
        {"item": "image"},
        r"each id of image once; got 1 that come more than once, such as that of row 4",
    ),
    "ids as groups": (rows(), NAMES, {"groups": {"tone": "patient"}}, "a column for each thing"),
    "images as groups": (rows(), NAMES, {"groups": {"tone": "image"}}, "at most 50 groups"),
    "a label of ids": (rows(), NAMES, {"label": "image"}, "image has 60 different values"),
    "patients' names as groups": (
        changed(7, 4, "patient 0417"),
        NAMES,
        {},
        "groups of tone that point at nobody",
    ),
}


@pytest.mark.parametrize(("lines", "names", "changes", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_in_one_line_that_shows_no_patient(
    write, lines, names, changes, words
):
    with pytest.raises(DataError, match=words) as refused:
        read_predictions_file(settings(write(lines, names), **changes))
    told = str(refused.value)
    assert "\n" not in told
    assert "MRN" not in told
    assert "0417" not in told


def test_what_is_no_table_is_refused(tmp_path, write):
    (tmp_path / "a.parquet").write_bytes(b"MRN-00001,not a table")
    (tmp_path / "b.csv").write_bytes(b"patient,truth,p,tone\nMRN-00001,1\n\xff\xfe")
    for name in ("a.parquet", "b.csv"):
        with pytest.raises(DataError, match="cannot be read as one") as refused:
            read_predictions_file(settings(tmp_path / name))
        assert "MRN" not in str(refused.value)
    with pytest.raises(DataError, match=r"no file nowhere\.csv"):
        read_predictions_file(settings(tmp_path / "nowhere.csv"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*OPTIONS, "--threshold", "1.5"), "a possible --threshold"),
        (OPTIONS[2:], "--label COLUMN"),
        (OPTIONS[:4], "--patient COLUMN"),
        ((*OPTIONS, "--label", "diagnosis"), "a column diagnosis"),
    ],
)
def test_the_command_ends_with_code_2_and_one_line(write, tmp_path, capsys, words, told):
    path = write(rows())
    code = main(["report", "--predictions", str(path), *words, "--out", str(tmp_path / "r")])
    said = capsys.readouterr()
    assert code == 2
    assert told in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_the_report_has_the_figures_of_the_file_and_no_patient(write, tmp_path, capsys):
    lines, out = rows(), tmp_path / "report"
    (tmp_path / "quick.yaml").write_text(json.dumps(QUICK))
    words = ["report", "--predictions", str(write(lines)), *OPTIONS, "--settings"]
    code = main([*words, str(tmp_path / "quick.yaml"), "--out", str(out), "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0
    document = Path(told["artifacts"]["json"]).read_text()
    record = json.loads(document)["record"]
    expected = roc_auc_score([line[2] for line in lines], [line[3] for line in lines])
    assert record["overall"]["estimates"]["auroc"]["value"] == pytest.approx(expected)
    assert "sensitivity" not in record["overall"]["estimates"]
    assert {each["group"] for each in record["groups"]} == {"light", "dark", "unknown"}
    page = Path(told["artifacts"]["report"]).read_text()
    assert "MRN" not in document + page
    assert "no threshold" in page.lower()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_of_two_gigabytes_is_read_in_little_memory(tmp_path):
    """4.2 million rows of 500 letters; the process that reads them stays far below the file."""
    path, num = tmp_path / "big.csv", 4_200_000
    note = "n" * 470
    with path.open("w", encoding="utf-8") as file:
        file.write("patient,truth,p,tone,note\n")
        for at in range(num):
            file.write(
                f"P{at // 20:07d},{int(at % 4 == 0)},0.{at % 997:03d},{'IV'[at % 2]},{note}\n"
            )
    assert path.stat().st_size > 2_000_000_000
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from skinml.experiments.predictions_file import *\n"
        "s = PredictionsSettings(path=Path(sys.argv[1]), label='truth', scores=('p',),"
        " patient='patient', groups={'tone': 'tone'})\n"
        "found = read_predictions_file(s).predictions\n"
        "print(len(found), len(set(found.patients.tolist())))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    counts, peak = done.stdout.splitlines()
    assert counts == f"{num} {num // 20}"
    assert int(peak) * 1024 < 1_500_000_000
