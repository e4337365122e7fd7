"""A network trained end to end that keeps a mean of public features finds other pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skinml.config import load_config
from skinml.errors import IntegrityError
from skinml.experiments import likeness as looking
from skinml.experiments.evaluate import load_scorer
from skinml.fairness.model_answer import NOT_CHECKED
from skinml.models.bundle import load_bundle, save_bundle
from skinml.models.likeness import CENTRE
from skinml.records import Samples

# 54 validation patients, so many that more of their mean than of the noise is in the sum.
NETWORK = (
    "privacy.likeness_share=0.8",
    "data.fractions.train=0.2",
    "data.fractions.validation=0.6",
    "training.network.rounds=1",
    "training.network.steps_per_round=1",
    "training.network.sampling_prob=1",
    "training.network.expected_patients=18",
)


@pytest.fixture(scope="module")
def asked(
    run_beside: Callable[..., tuple[Path, str, list[Path]]],
) -> tuple[Path, str, list[Path]]:
    """A network's private run: its folder, an image of its kind and one of nothing."""
    place, run, pictures = run_beside("looking", "quickstart_end_to_end", *NETWORK)
    rng = np.random.default_rng(0)
    noise = place / "noise.png"
    Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(noise)
    return place / "runs" / run, run, [pictures[0], noise]


def test_a_picture_of_something_else_is_found_on_screen_in_json_and_by_a_served_model(
    skinml: Callable[..., Any], asked: tuple[Path, str, list[Path]], tmp_path: Path
) -> None:
    run, _, files = asked
    told = skinml("predict", run, *files, "--json").json
    assert told["likeness_checked"]
    near, far = told["answers"]
    assert 0.8 < near["likeness"] < 1.2
    assert not any("unlike" in reason for reason in near["reasons"])
    assert far["likeness"] < 0.7
    assert "unlike" in far["reasons"][0]
    shown = skinml("predict", run, *files, "--page", tmp_path / "page.html")
    assert NOT_CHECKED[:20] not in shown.out
    assert "OTHER PICTURES ARE NOT FOUND" not in (tmp_path / "page.html").read_text()
    served = load_scorer(run / "model")([path.read_bytes() for path in files], [None, None])
    assert [each["likeness_checked"] for each in served] == [True, True]
    assert [each["reasons"] for each in served] == [near["reasons"], far["reasons"]]


def test_report_and_ledger_name_it_and_verify_agrees(
    skinml: Callable[..., Any], asked: tuple[Path, str, list[Path]], tmp_path: Path
) -> None:
    run, name, _ = asked
    place = run.parents[1]
    ledger = (place / "clinics" / "pooled" / "ledger.jsonl").read_text()
    assert "validation_scores_and_features" in ledger
    assert "features by which other pictures are found" in (run / "report.html").read_text()
    verified = skinml("report", "verify", name, "--work-dir", place, "--json")
    assert verified.code == 0, verified.told
    words = ("--work-dir", place, "--with-model", "--out", tmp_path / "run.bundle.zip")
    assert skinml("bundle", name, *words).code == 0
    assert skinml("bundle", "verify", tmp_path / "run.bundle.zip").code == 0


def test_a_model_without_the_mean_is_not_checked_and_one_of_other_weights_is_refused(
    skinml: Callable[..., Any], asked: tuple[Path, str, list[Path]], tmp_path: Path
) -> None:
    run, _, files = asked
    bundle = load_bundle(run / "model")
    bare = {name: values for name, values in bundle.arrays.items() if name != CENTRE}
    save_bundle(tmp_path / "run" / "model", type(bundle)(bundle.spec, bare))
    told = skinml("predict", tmp_path / "run", files[1], "--json").json
    assert told["likeness_checked"] is False
    other = bundle.spec.model_copy(update={"backbone_version": "another"})
    save_bundle(tmp_path / "run" / "model", type(bundle)(other, bundle.arrays))
    assert skinml("predict", tmp_path / "run", files[1]).code == 5
    with pytest.raises(IntegrityError, match="that the run looked by"):
        load_scorer(tmp_path / "run" / "model")


def test_without_the_public_network_a_run_is_refused_before_anything_is_released(
    skinml: Callable[..., Any],
    small: tuple[str, ...],
    asked: tuple[Path, str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cohorts").symlink_to(asked[0].parents[1] / "cohorts")
    looking._backbone.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    words = ("federation=centralised", f"work_dir={tmp_path}", "--json")
    done = skinml("run", "quickstart_end_to_end", *small, *NETWORK, *words)
    assert done.code == 6
    assert "skinml[pretrained]" in json.dumps(done.json)
    ledgers = [path.read_text() for path in tmp_path.rglob("ledger.jsonl")]
    assert not any("validation" in told or "weights" in told for told in ledgers)


def test_an_image_is_looked_at_alone_in_every_bit() -> None:
    words = ("privacy.likeness_share=0.2", "model.image_size=32")
    part = looking.feature_part(load_config("quickstart_end_to_end", words))
    assert part is not None
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    names = np.array([f"p{number}" for number in range(9)])
    whole = part.look(Samples(images, np.zeros(9, int), names))
    assert np.allclose(np.linalg.norm(whole, axis=1), 1)
    for kept in (slice(1, None), slice(4, 5), slice(0, 8), slice(0, 0)):
        alone = part.look(Samples(images[kept], np.zeros(9, int)[kept], names[kept]))
        assert np.array_equal(alone, whole[kept])
