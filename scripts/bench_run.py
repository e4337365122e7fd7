"""Times skinml beside what people would use instead, part by part, and prints a table.

    scripts/bench --smoke | --full [--json FILE] [--only NAME ...]

The smoke size takes a minute, checks that both sides compute the same, and says nothing about
time, so that its parts run beside each other, one a core. The full size takes an hour or so:
medians of at least five turns, ours and the peer's in alternation. Times are the machine's and the
hour's: read ratios. Each part runs in a process of its own, so that no part's allocator, threads or
imports are another's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench_rows import Row, Size, shown

PARTS: dict[str, Callable[[], Any]] = {
    "head": lambda: import_module("bench_head"),
    "start": lambda: import_module("bench_start"),
    "manifest": lambda: import_module("bench_manifest"),
    "fairness": lambda: import_module("bench_fairness"),
    "rounds": lambda: import_module("bench_rounds"),
    "dpsgd": lambda: import_module("bench_dpsgd"),
    "malignancy": lambda: import_module("bench_malignancy"),
    "features": lambda: import_module("bench_features"),
}
"""Name of a part, and what opens its module; each part is opened in a process of its own."""
PACKAGES = (
    "skinml",
    "numpy",
    "scipy",
    "torch",
    "opacus",
    "flwr",
    "ray",
    "scikit-learn",
    "fairlearn",
    "pandas",
    "pyarrow",
    "pillow",
    "onnxruntime",
    "dp-accounting",
)
_SCRIPTS = Path(__file__).resolve().parent
_MOST_AT_ONCE = 4  # parts at smoke size, for each takes up to a gigabyte


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are asked for.

    Args:
        arguments: The command line's words.

    Returns:
        The exit code: 1 where a part ended with an error.
    """
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n")[0])
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--smoke", action="store_true", help="small sizes; asserts nothing of time")
    size.add_argument("--full", action="store_true", help="the sizes of docs/performance.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all rows")
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), metavar="NAME", help=", ".join(PARTS)
    )
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    chosen: Size = "smoke" if asked.smoke else "full"
    if asked.part:
        return _one(asked.part, chosen, asked.json)
    return _all(asked.only or list(PARTS), chosen, asked.json)


def machine() -> dict[str, Any]:
    """Say what a benchmark ran on.

    Returns:
        Processor, cores, memory, system, and the versions of packages.
    """
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "missing"
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gib": round(pages / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "packages": packages,
    }


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields = dict.fromkeys(("model name", "cpu family", "model"), "?")
    flags = ""
    for line in info.read_text().splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in fields and fields[key] == "?":
            fields[key] = value
        flags = flags or (value if key == "flags" else "")
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    kind = f"family {fields['cpu family']} model {fields['model']}"
    return ", ".join([fields["model name"], kind, *wide])


def _one(part: str, size: Size, place: Path) -> int:
    """Measure one part, in this process."""
    rows: list[Row] = PARTS[part]().rows(size)
    place.write_text(json.dumps([asdict(each) for each in rows]))
    return 0


def _all(parts: Sequence[str], size: Size, place: Path | None) -> int:
    """Measure parts, each in a process of its own; where time is told, one after another."""
    at_once = min(_cores() or 1, _MOST_AT_ONCE) if size == "smoke" else 1
    found: dict[str, Any] = {
        "size": size,
        "time": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": machine(),
        "rows": [],
    }
    failed = []
    sys.stdout.write(f"{'':<58}{'ours':>9}{'peer':>9}{'ratio':>8}  low to high, goal\n")
    with ThreadPoolExecutor(at_once) as threads:
        for part, rows in zip(parts, threads.map(partial(_apart, size=size), parts), strict=True):
            if rows is None:
                failed.append(part)
                continue
            for each in rows:
                sys.stdout.write(line(Row(**each)) + "\n")
            found["rows"] += [{"part": part, **each} for each in rows]
            if place is not None:
                place.write_text(json.dumps(found, indent=1) + "\n")
            sys.stdout.flush()
    for part in failed:
        sys.stdout.write(f"part {part} ended with an error\n")
    return 1 if failed else 0


def _apart(part: str, size: Size) -> list[dict[str, Any]] | None:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder) / "rows.json"
        words = [sys.executable, str(_SCRIPTS / "bench_run.py"), f"--{size}", "--part", part]
        ran = subprocess.run([*words, "--json", str(place)], check=False)  # noqa: S603  # ourselves
        return json.loads(place.read_text()) if ran.returncode == 0 else None


def line(row: Row) -> str:
    """Write a row for the screen.

    Args:
        row: The row.

    Returns:
        One line.
    """
    start = f"{f'{row.name}, {row.unit}':<58}{shown(row.ours):>9}{shown(row.peer):>9}"
    start += f"{shown(row.ratio):>8}"
    if row.ratio is not None:
        start += f"  {shown(row.low)} to {shown(row.high)}"
    if row.goal is not None:
        start += f"  {row.goal}"
    if row.met is not None:
        start += ", met" if row.met else ", NOT met"
    return start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
