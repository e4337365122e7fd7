"""What must hold after each fault, whatever became of the run."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.deployment.real_federation import Federation, family

_TRACES = (".partial", ".tmp", ".sock")


@contextmanager
def left_sound(net: Federation) -> Iterator[None]:
    """Let a fault happen, then hold what it left against what must be."""
    yield
    require_ledgers_whole(net)
    require_nothing_private(net)
    require_no_strays(net)
    require_no_traces(net)


def released(folder: Path) -> list[dict[str, object]]:
    """The attempts whose sum a run has put on record."""
    for name in ("result.json", "record.json"):
        if (folder / name).exists():
            found = json.loads((folder / name).read_text())["participation"]
            return [each for each in found if each["noise"] is not None]
    return []


def require_ledgers_whole(net: Federation) -> None:
    """No ledger is below the truth: each sum on record was charged by each clinic in it."""
    for folder in net.folder.runs.iterdir():
        run = folder.name.removeprefix(".").removesuffix(".draft")
        for clinic in net.clinics:
            charged = Counter(net.charged(clinic, run))
            for each in released(folder):
                if clinic in each["took_part"]:
                    assert charged[each["round"], each["attempt"]] >= 1, (clinic, each)


def require_nothing_private(net: Federation) -> None:
    """No patient, picture or folder of pictures at the coordinator or in any log."""
    hidden = net.hidden()
    places = [path for path in net.folder.path.rglob("*") if path.is_file()]
    places += [*net.machine.place.glob("out-*.log")]
    places += [clinic.path / "federation" / "node.log" for clinic in net.clinics.values()]
    places += [clinic.path / "audit.journal" for clinic in net.clinics.values()]
    assert any(path.name == "state.db" for path in places)
    for path in places:
        with contextlib.suppress(FileNotFoundError):  # a partial file that was put in its place
            content = path.read_bytes()
            found = [word for word in hidden if word in content]
            assert not found, (path, found)


def require_no_strays(net: Federation) -> None:
    """No process but those of whoever serves now, and so no port but theirs."""
    serving = [child.pid for child in net.serving.values() if child.poll() is None]
    mine = {pid for root in serving for pid in (root, *(each.pid for each in family(root)))}
    strays = [each for each in net.machine.processes() if each.pid not in mine]
    with contextlib.suppress(psutil.Error):
        assert not strays, [each.cmdline() for each in strays if each.is_running()]


def require_no_traces(net: Federation) -> None:
    """No temporary file, in the folders or where the system keeps such."""
    place = net.machine.place
    kept = [path for at in place.glob("tmp-*") for path in at.rglob("*") if not _of_torch(path)]
    kept += [path for path in place.rglob(".*") if path.name.endswith(_TRACES)]
    assert not kept, kept


def _of_torch(path: Path) -> bool:
    """A folder that torchvision makes when it is imported, with nothing in it."""
    return path.name.startswith("torchinductor_") and not any(path.iterdir())
