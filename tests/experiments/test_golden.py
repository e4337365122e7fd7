"""Figures of a run at a fixed seed, kept in golden.json: what no gain in speed may change.

A small run without privacy, whose figures follow from the seed alone. Computed layer by layer
(model.precision=reference) they are the same to the last digit wherever PyTorch and the
processor are those that the file names; elsewhere, and with folded layers, they are within 0.001.
As shipped, AUROC and calibration error are; a threshold and what is counted beyond it go in steps.

To renew the file after a change that is meant to move figures, and to see by how much:

    SKINML_RENEW_GOLDEN=1 pytest tests/experiments/test_golden.py
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from skinml.experiments.run import Finished

RunSmall = Callable[..., Finished]
FILE = Path(__file__).with_name("golden.json")
WITHIN = 0.001


def _made_by() -> dict[str, str]:
    """Say what the last digits depend on."""
    return {
        "torch": torch.__version__.partition("+")[0],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
    }


def _processor() -> str:
    """Name the kind of processor: libraries choose their ways by it."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    return " ".join(fields.get(name, "?") for name in ("vendor_id", "cpu family", "model"))


def _figures(finished: Finished) -> dict[str, Any]:
    result = finished.result
    values = {name: result["metrics"][name] for name in ("auroc", "balanced_accuracy", "ece")}
    return {**values, "threshold": result["threshold"]["value"]}


def _run(run_small: RunSmall, place: Path, precision: str) -> dict[str, Any]:
    words = ("federation=centralised", "privacy.trust=none", f"model.precision={precision}")
    return _figures(run_small(place, *words))


def test_figures_on_the_reference_path_are_those_of_the_golden_file(
    run_small: RunSmall, fresh_place: Path
) -> None:
    found = {"made_by": _made_by(), "figures": _run(run_small, fresh_place, "reference")}
    if os.environ.get("SKINML_RENEW_GOLDEN"):
        before = FILE.read_text(encoding="utf-8")
        FILE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        pytest.skip(f"golden.json was {before}and is {FILE.read_text(encoding='utf-8')}")
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    if kept["made_by"] == found["made_by"]:
        assert found == kept
    assert found["figures"] == pytest.approx(kept["figures"], rel=0, abs=WITHIN)


def test_figures_with_folded_layers_are_those_of_the_reference_path(
    run_small: RunSmall, fresh_place: Path
) -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8"))["figures"]
    assert _run(run_small, fresh_place, "float32") == pytest.approx(kept, rel=0, abs=WITHIN)


def test_figures_as_shipped_are_those_of_the_reference_path(not_private: Finished) -> None:
    """A threshold lies on a grid of 1/64; balanced accuracy goes by an image of 25 at a time."""
    kept = json.loads(FILE.read_text(encoding="utf-8"))["figures"]
    found = _figures(not_private)
    assert not_private.record.config["model"]["precision"] == "auto"
    assert found["auroc"] == pytest.approx(kept["auroc"], rel=0, abs=WITHIN)
    assert found["ece"] == pytest.approx(kept["ece"], rel=0, abs=WITHIN)
    assert found["balanced_accuracy"] == pytest.approx(kept["balanced_accuracy"], rel=0, abs=0.05)
    assert found["threshold"] == pytest.approx(kept["threshold"], rel=0, abs=1 / 64)
