"""Where the time of the main runs goes: py-spy's samples as text, for docs/performance.md.

    OMP_NUM_THREADS=1 python scripts/bench_profile.py [NAME ...]
    python scripts/bench_page.py

Each run goes on for some seconds under py-spy, worker processes and threads included, and what was
seen is added up twice: by skinml's function that was at work, and by the function at the very end
of the stack. Only samples with work under way count, without the loading of modules and, where a
step is done again and again, without what comes before. Texts are kept in docs/profiles, one a run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

PLACE = Path(__file__).resolve().parents[1] / "docs" / "profiles"
LEAST_S, RATE = 15.0, 100
_MOST_LINES = 12
_OWN, _HERE = "skinml/", "bench_profile.py"
_BEFORE = ("save_drawn (", "lay_out (")
_WAITING = ("Condition.wait (", "Thread.join (", "select (", "poll (")
_AGAIN, _LOADING, _DRAWING = f"_again ({_HERE}", "importlib._bootstrap", "data/synthetic/"


def main(arguments: list[str]) -> int:
    """Profile runs, or be the run that is profiled.

    Args:
        arguments: The command line's words.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--inside", choices=list(RUNS), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.inside:
        with tempfile.TemporaryDirectory(prefix="bench-") as place:
            RUNS[asked.inside](Path(place))
        return 0
    if unknown := set(asked.names) - set(RUNS):
        parser.error(f"expected names of {', '.join(RUNS)}; got {', '.join(sorted(unknown))}")
    PLACE.mkdir(exist_ok=True)
    for name in asked.names or RUNS:
        (PLACE / f"{name}.txt").write_text(text_of(recorded(name)), encoding="utf-8")
    return 0


def recorded(name: str) -> list[str]:
    """Run one of `RUNS` under py-spy.

    Args:
        name: Which.

    Returns:
        Stacks as py-spy writes them: frames from the outermost, divided by semicolons, and a count.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        raw = Path(place) / "stacks"
        spy = str(Path(sys.executable).with_name("py-spy"))
        words = [spy, "record", "--format", "raw", "--function", "--subprocesses"]
        words += ["--nonblocking", "--rate", str(RATE), "--output", str(raw), "--", sys.executable]
        words += [__file__, "--inside", name]
        ran = subprocess.run(words, check=False, capture_output=True, text=True)  # noqa: S603  our own
        if ran.returncode or not raw.is_file():
            raise RuntimeError(f"py-spy ended with {ran.returncode}: {ran.stderr[-2000:]}")
        return raw.read_text(encoding="utf-8").splitlines()


def text_of(stacks: Iterable[str]) -> str:
    """Add stacks up.

    Args:
        stacks: Lines of py-spy's raw format.

    Returns:
        Two lists with shares of all samples: by skinml's innermost function, and by the function
        at the end of the stack.
    """
    own: Counter[str] = Counter()
    leaves: Counter[str] = Counter()
    counted = [line.rpartition(" ") for line in stacks]
    repeated = any(_AGAIN in frames for frames, _, _ in counted)
    for frames, _, count in counted:
        names = [each for each in frames.split(";") if not each.startswith("process ")]
        if names and not _left_out(frames, names, repeated):
            leaves[names[-1]] += int(count)
            inner = next((each for each in reversed(names) if _OWN in each), "outside skinml")
            own[inner] += int(count)
    total = sum(own.values())
    lines = [f"{total:,} samples, {RATE} a second of each thread at work"]
    for title, found in (("skinml's function", own), ("function at the end", leaves)):
        lines += ["", f"share  {title}"]
        lines += [
            f"{count / total:>5.1%}  {name}" for name, count in found.most_common(_MOST_LINES)
        ]
    return "\n".join(lines) + "\n"


def _left_out(frames: str, names: list[str], repeated: bool) -> bool:
    """Whether a stack is of the loading of modules, of waiting, or of what comes before the run."""
    prepares = any(each in frames for each in _BEFORE)
    if repeated:
        prepares |= _DRAWING in frames
        prepares |= _AGAIN not in frames and any(_HERE in each for each in names)
    return prepares or _LOADING in frames or names[-1].startswith(_WAITING)


def _again(step: Callable[[], object]) -> None:
    """Do a step again and again for some seconds."""
    until = time.monotonic() + LEAST_S
    while time.monotonic() < until:
        step()


def _features(place: Path) -> None:
    bench = import_module("bench_features")
    drawn = bench._drawn(place / "pictures", 192, 450)
    pictures = [(path, bench.hashlib.sha256(path.read_bytes()).digest()) for path in drawn]
    compute = bench._ours("float32")
    turns = iter(range(1000))

    def step() -> None:
        folder = place / str(next(turns))
        folder.mkdir()
        compute(pictures, folder)

    _again(step)


def _head(place: Path) -> None:
    bench = import_module("bench_head")
    cohort = bench.drawn(5000, 1280, 7)
    side = bench.Side(place, cohort, "local", 800)
    _again(side.answer)


def _dpsgd(place: Path) -> None:
    del place
    bench = import_module("bench_dpsgd")
    bench.torch.set_num_threads(1)
    bench.keep_freed_memory()
    case = bench.FULL[1]
    _again(bench.Ours(case, *bench.batch(case)).step)


def _training(place: Path) -> None:
    bench = import_module("bench_malignancy")
    features = place / "features.npz"
    bench.save_drawn(features, 7000)
    bench.run("bench_malignancy.py", features, place, 30)


def _fairness(place: Path) -> None:
    del place
    bench = import_module("bench_fairness")
    made = bench.draw(16_577, 16_577, groups=6)
    _again(lambda: bench.ours_of(made))


def _manifest(place: Path) -> None:
    bench = import_module("bench_manifest")
    bench.lay_out(place, 100_000)
    bench.measured(place)


def _quickstart(place: Path) -> None:
    words = [str(Path(sys.executable).with_name("skinml")), "run", "quickstart"]
    subprocess.run(words, cwd=place, check=True, capture_output=True)  # noqa: S603  # ourselves


RUNS: dict[str, Callable[[Path], None]] = {
    "features": _features,
    "head": _head,
    "dpsgd": _dpsgd,
    "training": _training,
    "fairness": _fairness,
    "manifest": _manifest,
    "quickstart": _quickstart,
}
"""Name of a run, and what it does in an empty folder."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
