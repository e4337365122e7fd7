"""`skinml predict`: answers about single images, their page, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import skinml as package
from skinml.config import load_config, parse_config
from skinml.data.images import PREPARATION
from skinml.data.settings import ImageLimits
from skinml.data.skin_tone import ToneSettings, measure_tone
from skinml.data.tone_colour import read_light
from skinml.fairness.label_sets import LabelSets
from skinml.fairness.model_answer import CLINICIAN, NOT_CHECKED
from skinml.models.bundle import Bundle, BundleSpec, load_bundle, save_bundle, score
from skinml.models.linear_head import item_features
from skinml.models.networks import build_network, network_arrays
from skinml.seeding import Seeds

# The few validation patients of a small run hold seven of ten, without noise, all in one group.
SETS = (
    "fairness.label_sets.share=0.5",
    "fairness.label_sets.group=null",
    "fairness.label_sets.coverage=0.7",
    "privacy.trust=none",
)


@pytest.fixture(scope="module")
def asked(
    run_beside: Callable[..., tuple[Path, str, list[Path]]],
) -> tuple[Path, str, list[Path]]:
    """A run with label sets: its working folder, its id, and some images."""
    place, run, pictures = run_beside("asked", "quickstart", *SETS, "clinic.policy.trust=[none]")
    return place, run, pictures[:3]


@pytest.fixture
def predict(skinml: Callable[..., Any], asked: tuple[Path, str, list[Path]]) -> Callable[..., Any]:
    return lambda *words: skinml("predict", asked[1], *words, "--work-dir", asked[0])


def test_the_answers_have_chances_a_set_and_the_words_that_a_clinician_decides(
    predict: Callable[..., Any], asked: tuple[Path, str, list[Path]]
) -> None:
    found = predict(*asked[2], "--json").json
    assert found["run"] == asked[1]
    assert "clinician decides" in found["who_decides"]
    assert [each["images"] for each in found["answers"]] == [[1], [2], [3]]
    assert found["label_sets"] == {"coverage": 0.7, "attribute": "everybody", "groups": []}
    for each in found["answers"]:
        assert sum(each["probabilities"].values()) == pytest.approx(1)
        assert each["cannot_tell"] == bool(each["reasons"])
        assert set(each["label_set"]) <= {"benign", "malignant"}
        assert "clinician decides" in each["who_decides"]
        assert 0.5 < each["likeness"] < 1.3
    assert all(path.name not in json.dumps(found) for path in asked[2])


def test_an_answer_does_not_depend_on_the_images_beside_it(
    predict: Callable[..., Any], asked: tuple[Path, str, list[Path]]
) -> None:
    together = predict(*asked[2], "--json").json["answers"]
    alone = predict(asked[2][1], "--json").json["answers"][0]
    assert alone | {"images": [2]} == together[1]


def test_the_chances_are_those_of_the_saved_model(
    predict: Callable[..., Any], asked: tuple[Path, str, list[Path]]
) -> None:
    from skinml.experiments.evaluate import embedder

    folder = asked[0] / "runs" / asked[1] / "model"
    bundle = load_bundle(folder)
    rows = embedder(parse_config(bundle.spec.config), bundle)([asked[2][0]])
    (chances,), _ = score(bundle, item_features(rows[:, None]))
    raw = dict(zip(bundle.spec.classes.names, map(float, chances), strict=True))
    spec = json.loads((folder / "bundle.json").read_text())["spec"]
    line = spec["calibration"]
    chance = np.clip(raw["malignant"], 1e-6, 1 - 1e-6)
    odds = line["intercept"] + line["slope"] * np.log(chance / (1 - chance))
    shown = predict(asked[2][0], "--json").json["answers"][0]
    assert shown["probabilities"]["malignant"] == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-4)
    assert shown["alarm"] == (raw["malignant"] >= spec["threshold"])
    low, high = spec["label_sets"]["cuts"]["everybody"]
    assert low == high
    names = ("benign", "malignant")
    expected = {name for name in names if low is None or 1 - raw[name] < low}
    assert set(shown["label_set"]) == expected


def test_a_picture_of_something_else_is_called_unlike(
    predict: Callable[..., Any], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    answer = predict(tmp_path / "noise.png", "--json").json["answers"][0]
    assert answer["cannot_tell"]
    assert "unlike" in answer["reasons"][0]


def test_a_served_model_calls_a_picture_of_something_else_unlike_too(
    predict: Callable[..., Any], asked: tuple[Path, str, list[Path]], tmp_path: Path
) -> None:
    from skinml.experiments.evaluate import load_scorer

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    files = [asked[2][0], tmp_path / "noise.png"]
    scored = load_scorer(asked[0] / "runs" / asked[1] / "model")
    served = scored([path.read_bytes() for path in files], [None, None])
    told = predict(*files, "--json").json
    assert told["likeness_checked"]
    for mine, theirs in zip(served, told["answers"], strict=True):
        assert mine["reasons"] == theirs["reasons"]
        assert mine["likeness_checked"]
    assert "unlike" in served[1]["reasons"][0]


def network(place: Path, sets: LabelSets, **data: Any) -> Path:
    """A run's folder with a network that learnt nothing."""
    config = load_config("quickstart_end_to_end")
    stream = np.random.Generator(np.random.Philox(0))
    spec = BundleSpec(
        kind="network",
        labels=("benign", "malignant"),
        malignant=(False, True),
        network="small_cnn",
        image_size=64,
        views=("any",),
        preprocessing=PREPARATION,
        taxonomy_version="1",
        label_sets=sets.values(),
        config=config.model_copy(
            update={"data": config.data.model_copy(update=data)},
        ).model_dump(mode="json"),
    )
    save_bundle(
        place / "model", Bundle(spec, network_arrays(build_network("small_cnn", 2, stream)))
    )
    return place


def test_a_network_says_first_that_it_does_not_find_other_pictures(
    skinml: Callable[..., Any], asked: tuple[Path, str, list[Path]], tmp_path: Path
) -> None:
    run = network(tmp_path / "run", LabelSets("everybody", 0.9, {"everybody": (0.9, 0.9)}))
    shown = skinml("predict", run, asked[2][0], "--page", tmp_path / "page.html")
    assert shown.code == 0, shown.told
    assert " ".join(shown.out.split("Image 1")[0].split()) == f"{CLINICIAN} {NOT_CHECKED}"
    text = (tmp_path / "page.html").read_text()
    assert "OTHER PICTURES ARE NOT FOUND" in text
    assert "or where the image is unlike" not in text
    told = skinml("predict", run, asked[2][0], "--json").json
    assert told["likeness_checked"] is told["answers"][0]["likeness_checked"] is False
    assert told["answers"][0]["likeness"] is None


def test_a_tone_is_measured_where_the_runs_own_were_and_refused_where_people_noted_them(
    skinml: Callable[..., Any], asked: tuple[Path, str, list[Path]], tmp_path: Path
) -> None:
    sets = LabelSets("skin_tone", 0.9, {"dark": (0.9, 0.9), "light": (0.1, 0.1)})
    noted = network(tmp_path / "noted", sets)
    refused = skinml("predict", noted, asked[2][0], "--tone", "measure")
    assert refused.code == 2
    assert "which people noted" in refused.err
    dark, light = ("groh_6", "groh_5", "groh_4"), ("groh_3", "groh_2", "groh_1")
    bins = {"skin_tone": {"dark": dark, "light": light}}
    run = network(tmp_path / "run", sets, tone_scale="ita_apparent_groh_2021", bins=bins)
    light_of, _ = read_light(asked[2][0], ImageLimits())
    tone, _ = measure_tone(light_of, ToneSettings(table="groh_2021"), Seeds(3), "another stream")
    page = tmp_path / "page.html"
    words = ("--tone", "measure", "--page", page, "--json")
    (told,) = skinml("predict", run, asked[2][0], *words).json["answers"]
    assert tone.bin is not None
    assert told["tone"]["image_tone"] == tone.bin
    assert told["group"] == ("dark" if tone.bin in dark else "light")
    assert told["tone"]["ita_low"] < told["tone"]["ita_degrees"] < told["tone"]["ita_high"]
    assert f"{told['group']}, measured" in page.read_text()
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(tmp_path / "black.png")
    (nothing,) = skinml("predict", run, tmp_path / "black.png", *words).json["answers"]
    assert nothing["group"] is None
    assert nothing["tone"]["not_measurable"]


def test_the_screen_and_the_page_say_the_same_and_name_no_file(
    predict: Callable[..., Any], asked: tuple[Path, str, list[Path]], tmp_path: Path
) -> None:
    page = tmp_path / "answer.html"
    shown = predict(asked[2][0], "--page", page)
    assert shown.code == 0
    assert shown.out.startswith("A clinician decides.")
    assert "Image 1: " in shown.out
    text = page.read_text()
    assert text.count("A clinician decides.") >= 2
    headline = shown.out.split("Image 1: ")[1].splitlines()[0]
    assert headline in text
    assert asked[2][0].name not in text
    assert "<script" not in text
    assert "<img" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["answer.html"]


def test_python_answers_as_the_command_does(
    predict: Callable[..., Any], asked: tuple[Path, str, list[Path]]
) -> None:
    result = package.open_run(asked[1], work_dir=asked[0])
    (found,) = result.predict([str(asked[2][0])])
    told = predict(asked[2][0], "--json").json["answers"][0]
    assert found.values() == {name: told[name] for name in found.values()}


def test_the_report_has_the_sets_coverage_and_verify_computes_it_anew(
    skinml: Callable[..., Any], asked: tuple[Path, str, list[Path]], tmp_path: Path
) -> None:
    place, run, _ = asked
    folder = place / "runs" / run
    told = json.loads((folder / "result.json").read_text())["label_sets"]
    found = package.open_run(run, work_dir=place).label_set_coverage()
    own = found[found["sets"] == "by group"].drop(columns="sets")
    assert own.to_dict("records") == told["by_group"] != []
    verified = skinml("report", "verify", run, "--work-dir", place, "--json")
    assert verified.code == 0, verified.told
    checks = {each["what"]: each["outcome"] for each in verified.json["checks"]}
    assert checks["coverage of label sets computed anew"] == "agrees"
    assert checks["each number of the page is in report.json"] == "agrees"
    (cohort,) = (place / "cohorts").iterdir()
    done = skinml("evaluate", run, "--data", cohort, "--work-dir", place, "--json")
    again = done.json["label_sets"]
    assert again["by_group"] == told["by_group"]  # its own test patients
    assert again["one_limit"] == []


def test_a_run_without_counts_for_sets_cannot_tell(
    skinml: Callable[..., Any], centralised: tuple[Path, Any], asked: tuple[Path, str, list[Path]]
) -> None:
    words = ("--work-dir", centralised[0], "--json")
    (each,) = skinml("predict", centralised[1].json["run"], asked[2][0], *words).json["answers"]
    assert each["cannot_tell"]
    assert each["label_set"] is None
    assert "fairness.label_sets.share" in " ".join(each["reasons"])
    named = ("--tone", "4-6", "--work-dir", centralised[0])
    refused = skinml("predict", centralised[1].json["run"], asked[2][0], *named)
    assert refused.code == 2
    assert "this model has no label sets" in refused.err
    assert "fairness.label_sets.share" in refused.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nowhere.png"], 2, "image 1: no such file"),
        (["{text}"], 2, "image 1: no image in"),
        (["{image}", "--tone", "green"], 2, "label sets are one for everybody"),
        (["{image}", "--page", "{text}/below/x.html"], 6, "Make the folder first"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    predict: Callable[..., Any],
    asked: tuple[Path, str, list[Path]],
    tmp_path: Path,
    words: list[str],
    code: int,
    told: str,
) -> None:
    (tmp_path / "patient-4711.png").write_text("no picture")
    names = {"image": asked[2][0], "text": tmp_path / "patient-4711.png"}
    done = predict(*(word.format(**names) for word in words))
    assert done.code == code
    assert told in done.err
    assert done.err.count("\n") == 1
    assert "4711" not in done.err


def test_a_changed_model_is_refused(
    skinml: Callable[..., Any], asked: tuple[Path, str, list[Path]], tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(asked[0] / "runs" / asked[1], copy)
    spec = copy / "model" / "bundle.json"
    spec.write_text(spec.read_text().replace('"coverage": 0.7', '"coverage": 0.5'))
    assert skinml("predict", copy, asked[2][0]).code == 5
