"""What is installed, what is missing or of a wrong version, what to type."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from skinml.experiments.workspace import Workspace

_NAMED = ("torch", "torchvision", "flwr", "opacus", "mlflow")
"""Packages that have a line of their own even where all is well."""
_EXTRAS = {
    "pretrained": "frozen backbones, as in quickstart",
    "import": "'skinml clinic import'",
}
_LEAST_FREE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        what: What was looked at.
        ok: Whether skinml can work with it.
        found: What was found.
        do: What to do where it is not so, or may be wanted otherwise.
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
    asked = [Requirement(line) for line in requires("skinml") or ()]
    return (
        Finding("skinml", True, version("skinml")),
        Finding("Python", True, platform.python_version()),
        Finding("processor cores", True, str(os.cpu_count())),
        *needed([each for each in asked if each.marker is None or each.marker.evaluate()]),
        *(
            optional(name, use, [each for each in asked if _is_of(each, name)])
            for name, use in _EXTRAS.items()
        ),
        *_folder(work_dir),
    )


def needed(asked: Sequence[Requirement]) -> tuple[Finding, ...]:
    """Hold what is installed against what skinml asks for.

    Args:
        asked: What it cannot do without.

    Returns:
        A line for each that is missing or of another version, for those whose versions people
        ask for first, and one for the others together.
    """
    lines, others = [], 0
    for each in asked:
        found, fits = _installed(each)
        if fits and each.name not in _NAMED:
            others += 1
            continue
        do = "" if fits else f"pip install '{each.name}{each.specifier}'"
        lines.append(Finding(each.name, fits, found, do))
    return (*lines, Finding("other packages", True, f"{others}, of the versions asked for"))


def optional(extra: str, use: str, asked: Sequence[Requirement]) -> Finding:
    """Tell of packages that some commands need and others do not.

    Args:
        extra: The extra's name.
        use: What it is for.
        asked: Its packages.

    Returns:
        One line; not installed is no fault, half of it or another version is one.
    """
    looked = {each: _installed(each) for each in asked}
    do, what = f"pip install 'skinml[{extra}]'", f"extra {extra}"
    if all(fits for _, fits in looked.values()):
        return Finding(what, True, ", ".join(f"{e.name} {v}" for e, (v, _) in looked.items()))
    if all(found == "missing" for found, _ in looked.values()):
        return Finding(what, True, f"not installed; for {use}", do)
    wrong = ", ".join(f"{e.name} {v}" for e, (v, fits) in looked.items() if not fits)
    return Finding(what, False, wrong, do)


def _is_of(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and not marker.evaluate() and marker.evaluate({"extra": extra})


def _installed(requirement: Requirement) -> tuple[str, bool]:
    """The version that is there, and whether it is one that is asked for."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return "missing", False
    fits = requirement.specifier.contains(found, prereleases=True)
    return (found if fits else f"{found}, not {requirement.specifier}"), fits


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
        *(
            Finding("unfinished run", True, run, f"skinml run --resume {run}")
            for run in _unfinished(work_dir)
        ),
    ]


def _unfinished(work_dir: Path) -> list[str]:
    """Runs that somebody is at, or that were broken off."""
    return [path.name[1 : -len(".draft")] for path in Workspace(work_dir).drafts]
