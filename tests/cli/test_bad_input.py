"""Whatever is wrong with the input: exit 2, one clear line, nothing half-written, no patient."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

PATIENT = "Zanzibar-Quux"
PICTURE = "quuxshot"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clinics with 80 patients of one noisy image each; every second one malignant."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = []
    for number in range(80):
        name = f"images/{PICTURE}-{number}.png"
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
        rows.append(
            {
                "image": name,
                "patient_id": f"{PATIENT}-{number:03d}",
                "clinic": "north" if number < 40 else "south",
                "diagnosis": "mel" if number % 2 else "nv",
                "age": str(20 + number % 50),
                "sex": "female" if number % 3 else "male",
                "skin_tone": str(1 + number % 10),
                "skin_tone_scale": "monk",
                "licence": "CC BY 4.0",
            }
        )
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    return root


@pytest.fixture
def refused(
    skinml: Callable[..., Any], small: tuple[str, ...], data: Path, tmp_path: Path
) -> Callable[..., str]:
    """Run on the data, check all that every refusal has in common, and return what was said."""

    def check(*overrides: str, experiment: str = "quickstart") -> str:
        place = tmp_path / "work"
        source = ("data.source=manifest", f"data.root={data}", f"work_dir={place}")
        outcome = skinml("run", experiment, *small, *source, *overrides)
        assert outcome.code == 2, outcome.told
        assert outcome.out == ""
        _require_one_error(outcome.err)
        assert PATIENT not in outcome.told
        assert PICTURE not in outcome.told
        assert not list(place.glob("runs/*"))
        assert not list(place.rglob("ledger*"))
        assert not list(place.rglob("*.store"))
        return str(outcome.err)

    return check


def _require_one_error(told: str) -> None:
    first, *details = told.splitlines()
    assert first.startswith("error: expected ")
    assert "; got " in first
    assert all(line.startswith("  ") for line in details)
    assert "Traceback" not in told


def _change(data: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    path = data / "manifest.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    changed = change(frame)
    (frame if changed is None else changed).to_csv(path, index=False)


def _set(data: Path, row: int, column: str, value: str) -> None:
    _change(data, lambda frame: frame.__setitem__(column, _with(frame[column], row, value)))


def _with(values: pd.Series[str], row: int, value: str) -> pd.Series[str]:
    changed = values.copy()
    changed.iloc[row - 2] = value
    return changed


@pytest.mark.parametrize("column", ["image", "patient_id", "diagnosis"])
def test_a_missing_column_is_named(data: Path, refused: Callable[..., str], column: str) -> None:
    _change(data, lambda frame: frame.drop(columns=column))
    assert f"column {column} is missing" in refused()


def test_wrong_types_are_collected_with_their_rows(data: Path, refused: Callable[..., str]) -> None:
    _set(data, 5, "age", "old")
    _set(data, 9, "sex", "yes")
    told = refused()
    assert "row 5: age must be a number of years" in told
    assert "row 9: sex must be one of" in told


def test_unmapped_diagnoses_are_listed_with_their_counts(
    data: Path, refused: Callable[..., str]
) -> None:
    for row, word in ((3, "zebra"), (4, "zebra"), (7, "gnu")):
        _set(data, row, "diagnosis", word)
    told = refused()
    assert "'zebra' in 2 rows" in told
    assert "'gnu' in 1 rows" in told


def _gigantic() -> bytes:
    """A PNG of 100 bytes whose header claims 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        pytest.param(lambda whole: None, "a file that is not there", id="missing"),
        pytest.param(lambda whole: b"not an image at all", "no image in", id="corrupt"),
        pytest.param(lambda whole: whole[: len(whole) // 2], "truncated", id="truncated"),
        pytest.param(lambda whole: _gigantic(), "more pixels than 50000000", id="gigantic"),
        pytest.param(lambda whole: b"", "no image in", id="empty"),
    ],
)
def test_a_broken_image_is_reported_by_its_row(
    data: Path,
    refused: Callable[..., str],
    broken: Callable[[bytes], bytes | None],
    expected: str,
) -> None:
    path = data / "images" / f"{PICTURE}-11.png"
    content = broken(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    told = refused()
    assert "row 13" in told
    assert expected in told


def test_all_broken_images_are_reported_at_once(data: Path, refused: Callable[..., str]) -> None:
    for number in (2, 70):
        (data / "images" / f"{PICTURE}-{number}.png").write_bytes(b"x")
    told = refused()
    assert "2 images" in told
    assert "row 4" in told
    assert "row 72" in told


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_a_path_that_leaves_the_folder_is_refused(
    data: Path, refused: Callable[..., str], kind: str
) -> None:
    outside = data.parent / f"{PICTURE}-outside.png"
    (data / "images" / f"{PICTURE}-5.png").rename(outside)
    if kind == "link":
        (data / "images" / f"{PICTURE}-5.png").symlink_to(outside)
    else:
        _set(data, 7, "image", str(outside) if kind == "absolute" else f"../{outside.name}")
    told = refused()
    assert "row 7: image must" in told


def test_one_image_under_two_patients_is_refused_by_rows(
    data: Path, refused: Callable[..., str]
) -> None:
    first, second = (data / "images" / f"{PICTURE}-{number}.png" for number in (1, 50))
    second.write_bytes(first.read_bytes())
    # With one clinic's images read apart from another's, the copy must still be found.
    assert "rows 3 and 52" in refused()


def test_a_lesion_of_two_patients_is_refused(data: Path, refused: Callable[..., str]) -> None:
    _change(data, lambda frame: frame.assign(lesion_id=["L1", "L1", *map(str, range(78))]))
    assert "lesion_id" in refused()


def test_near_duplicates_across_splits_are_refused_by_rows(
    data: Path, refused: Callable[..., str]
) -> None:
    pairs = _near_duplicates(data)
    told = refused()
    assert "near-duplicate" in told
    assert f"rows {pairs[0]} and {pairs[1]}" in told


def _near_duplicates(data: Path) -> tuple[int, int]:
    """Give a training patient's picture, a little darker, to a test patient."""
    from skinml.data.settings import SplitFractions
    from skinml.data.splits import assign_splits

    patients = [f"{PATIENT}-{number:03d}" for number in range(80)]
    splits = assign_splits(patients, "skinml-1", SplitFractions()).tolist()
    train, test = splits.index("train"), splits.index("test")
    pixels = np.asarray(Image.open(data / "images" / f"{PICTURE}-{train}.png")).astype(np.float64)
    darker = Image.fromarray((pixels * 0.97).astype(np.uint8))
    darker.save(data / "images" / f"{PICTURE}-{test}.png")
    first, second = sorted((train + 2, test + 2))
    return first, second


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        pytest.param(lambda n: n < 40 or n % 2 == 0, "2 classes in training", id="one class"),
        pytest.param(lambda n: n < 40 or n == 51, "2 training patients", id="one patient"),
    ],
)
def test_a_clinic_that_has_nothing_to_learn_from_is_named(
    data: Path, refused: Callable[..., str], chosen: Callable[[int], bool], expected: str
) -> None:
    _change(data, lambda frame: frame[[chosen(number) for number in range(80)]])
    told = refused()
    assert expected in told
    assert "at clinic south" in told


def test_a_clinic_without_any_patient_is_named(refused: Callable[..., str]) -> None:
    told = refused("data.partition.by=random", "data.partition.num_clinics=60")
    assert "training patients at clinic clinic-" in told


@pytest.mark.parametrize("content", ["image,patient_id,diagnosis\n", ""], ids=["rows", "bytes"])
def test_an_empty_manifest_is_refused(
    data: Path, refused: Callable[..., str], content: str
) -> None:
    (data / "manifest.csv").write_text(content)
    assert "empty" in refused()


def test_a_folder_without_a_manifest_is_refused(data: Path, refused: Callable[..., str]) -> None:
    (data / "manifest.csv").unlink()
    assert "data.root" in refused()


def test_a_clinic_name_that_no_folder_could_have_is_refused(
    data: Path, refused: Callable[..., str]
) -> None:
    _change(data, lambda frame: frame.assign(clinic="../" + frame["clinic"]))
    assert "clinic names" in refused()


def test_the_error_is_also_one_json_object(
    skinml: Callable[..., Any], data: Path, tmp_path: Path
) -> None:
    _set(data, 5, "age", "old")
    source = ("data.source=manifest", f"data.root={data}", f"work_dir={tmp_path / 'work'}")
    outcome = skinml("run", "quickstart", *source, "tracking.enabled=false", "--json")
    assert outcome.code == 2
    error = json.loads(outcome.out)["error"]
    assert error["code"] == 2
    assert error["rule"]
    assert "row 5" in error["got"]
    assert error["do"]
    _require_one_error(outcome.err)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("privacy.epsilom=1",), "Did you mean epsilon?"),
        (("privcy.epsilon=1",), "Did you mean privacy?"),
        (("privacy.epsilon=0",), "privacy.epsilon"),
        (("privacy.epsilon=-1",), "privacy.epsilon"),
        (("privacy.epsilon=.nan",), "privacy.epsilon"),
        (("privacy.epsilon=nan",), "privacy.epsilon"),
        (("privacy.epsilon=inf",), "privacy.epsilon"),
        (("privacy.epsilon=1e9",), "privacy.epsilon"),
        (("privacy.epsilon=three",), "privacy.epsilon"),
        (("privacy.epsilon=",), "privacy.epsilon"),
        (("privacy.delta=1",), "privacy.delta"),
        (("privacy.trust=everyone",), "privacy.trust"),
        (("privacy.epsilon",), "key=value"),
        (("=3",), "key=value"),
        (("privacy.epsilon=[1",), "key=value"),
        (("federation=everywhere",), "federation"),
        (("data.fractions.train=0.9",), "fractions"),
        (("model=small_cnn",), "privacy=local"),
        (("model=small_cnn", "privacy=local", "data.views=[a,b]"), "one view"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_an_impossible_config_names_the_key(
    refused: Callable[..., str], words: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(*words)


def test_an_unknown_experiment_gets_the_nearest_name(refused: Callable[..., str]) -> None:
    assert "Did you mean quickstart?" in refused(experiment="quikstart")


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "quickstart", "--jsn"),
        ("rn", "quickstart"),
        ("evaluate", "some-run"),
        ("evaluate", "some-run", "--data", "/nowhere"),
        ("data", "prepare", "no-such-dataset", "/nowhere"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_input_errors(
    skinml: Callable[..., Any], tmp_path: Path, words: tuple[str, ...]
) -> None:
    outcome = skinml(*words)
    assert outcome.code == 2
    _require_one_error(outcome.err)
