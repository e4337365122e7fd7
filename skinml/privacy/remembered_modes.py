"""The fastest gradient mode of a network on this machine, found once and remembered.

The file is a cache: without it, or where it cannot be written, the modes are tried again. Nothing
in it is secret or says anything about patients: drawn images were timed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from skinml.durable import make_folder, read_whole, write_whole
from skinml.errors import EnvironmentProblem
from skinml.privacy.gradient_modes import MODES, fastest_mode
from skinml.privacy.losses import LOSSES

_FILE = "gradient-modes.json"
_WORDS = "remembered gradient modes"
_MOST = 1000  # lines of the file; more would be a defect, and it begins anew


def remembered_mode(
    module: nn.Module,
    image_shape: Sequence[int],
    loss: str,
    images: int = 1,
    *,
    folder: Path | None = None,
    find: Callable[..., str] = fastest_mode,
) -> str:
    """Look up the fastest mode, or find and remember it.

    Args:
        module: The network; not changed.
        image_shape: (channels, height, width).
        loss: Name of the loss in `LOSSES`.
        images: Images of a patient in a step, views included.
        folder: Where the file is; None: skinml's folder in the user's cache.
        find: Finds it, as `fastest_mode` does.

    Returns:
        One of `MODES`.
    """
    folder = folder or cache_folder()
    if folder is None:
        return find(module, image_shape, LOSSES[loss], images=images)
    path = folder / _FILE
    key = mode_key(module, image_shape, loss, images)
    known = _read(path)
    if known.get(key) in MODES:
        return known[key]
    found = find(module, image_shape, LOSSES[loss], images=images)
    _write(path, _read(path) | {key: found})  # another process may have written meanwhile
    return found


def mode_key(module: nn.Module, image_shape: Sequence[int], loss: str, images: int) -> str:
    """Name all that the fastest mode depends on.

    Args:
        module: The network.
        image_shape: (channels, height, width).
        loss: Name of the loss.
        images: Images of a patient in a step.

    Returns:
        A digest of the network's layers and shapes, of the images' shape, the processor, the number
        of threads and the releases of the packages that compute.
    """
    shapes = [(name, tuple(p.shape), p.requires_grad) for name, p in module.named_parameters()]
    releases = [version(name) for name in ("skinml", "torch", "opacus", "numpy")]
    what = [str(module), shapes, tuple(image_shape), loss, images]
    where = [_processor(), torch.get_num_threads(), releases, MODES]
    return hashlib.sha256(json.dumps([what, where], default=str).encode()).hexdigest()


def cache_folder() -> Path | None:
    """Find skinml's folder in the user's cache.

    Returns:
        It may not be there yet; None where the user has no home.

    Source:
        XDG Base Directory Specification 0.8.
    """
    for root in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if Path(root).is_absolute():
            return Path(root) / "skinml"
    return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    kinds = ("vendor_id", "cpu family", "model", "model name", "flags")
    lines = {line for line in info.read_text().splitlines() if line.startswith(kinds)}
    return " ".join(sorted(lines))


def _read(path: Path) -> dict[str, str]:
    """Read the file; whatever is wrong with it, nothing is known then."""
    try:
        values = json.loads(read_whole(path, _WORDS)) if path.exists() else {}
    except (EnvironmentProblem, OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict) or len(values) > _MOST:
        return {}
    return {str(key): str(mode) for key, mode in values.items()}


def _write(path: Path, values: dict[str, str]) -> None:
    """Write the file where that is possible."""
    try:
        make_folder(path.parent, "skinml's cache")
        write_whole(path, json.dumps(values, indent=1).encode(), _WORDS)
    except (EnvironmentProblem, OSError):
        return
