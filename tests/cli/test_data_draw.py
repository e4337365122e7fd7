"""`skinml data draw`: a list and images that anybody can try skinml with."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from skinml.cli.main import main


def drawn(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, str]]:
    assert main(["data", "draw", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with Path(told["manifest"]).open() as file:
        rows = list(csv.DictReader(file))
    assert told["images"] == len(rows)
    assert told["patients"] == len({row["patient_id"] for row in rows})
    return rows


def test_patients_of_one_clinic_are_drawn_and_others_with_another_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ("--patients", "12", "--size", "32")
    found = {name: str(tmp_path / name) for name in ("a", "b", "c")}
    first = drawn(capsys, found["a"], *size)
    again = drawn(capsys, found["b"], *size)
    other = drawn(capsys, found["c"], *size, "--seed", "1")
    assert len({row["patient_id"] for row in first}) == 12
    assert len({row["clinic"] for row in first}) == 1
    assert first == again != other
    assert all((tmp_path / "a" / row["image"]).is_file() for row in first)


@pytest.mark.parametrize("words", [("--patients", "0"), ("--size", "8"), ("--seed", "-1")])
def test_a_number_out_of_range_is_told_in_a_line(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "images"
    assert main(["data", "draw", str(place), *words]) == 2
    assert f"{words[0][2:]} from" in capsys.readouterr().err
    assert not place.exists()


def test_nothing_is_drawn_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["data", "draw", str(tmp_path)]) == 2
    assert "files in it" in capsys.readouterr().err
