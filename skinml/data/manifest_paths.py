"""Whether a manifest's images are files below its folder, for very many of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path


def path_problems(images: Iterable[str], root: Path) -> list[tuple[int, str]]:
    """Look every image up.

    Args:
        images: Paths below the root, as a manifest writes them; empty ones are passed over.
        root: The folder.

    Returns:
        The position of each image that breaks a rule, and what it breaks.

    Guarantees:
        What passes is, or leads by links to, a regular file inside the root.
    """
    real_root = os.path.realpath(root)
    folders: dict[str, str | None] = {}
    problems = []
    for position, image in enumerate(images):
        # Images share folders: each is followed once, and a file that is no link is one look.
        head, slash, tail = image.rpartition("/")
        if head not in folders:
            folders[head] = _real_folder(head, real_root)
        folder = folders[head] if head or not slash else None
        if not image or (folder is not None and _is_plain_file(folder, tail)):
            continue
        problem = _path_problem(image, real_root)
        if problem is not None:
            problems.append((position, problem))
    return problems


def _real_folder(head: str, real_root: str) -> str | None:
    """Follow the folder part of paths; None where each of them is to be looked at by itself."""
    if not head:
        return real_root
    if not head.isprintable() or os.path.isabs(head) or ".." in head.split("/"):
        return None
    try:
        real = os.path.realpath(os.path.join(real_root, head))
    except OSError:
        return None
    return real if _is_inside(real, real_root) else None


def _is_plain_file(folder: str, name: str) -> bool:
    if not name.isprintable():
        return False
    try:
        return stat.S_ISREG(os.lstat(f"{folder}/{name}").st_mode)
    except OSError:
        return False


def _path_problem(image: str, real_root: str) -> str | None:
    if not image.isprintable():
        return "image must not hold control characters"
    if os.path.isabs(image) or ".." in Path(image).parts:
        return "image must be a path below the data folder"
    try:
        real = os.path.realpath(os.path.join(real_root, image))
        if not _is_inside(real, real_root):
            return "image must not leave the data folder by a link"
        if not stat.S_ISREG(os.stat(real).st_mode):
            return "image must be a file"
    except OSError:
        return "image names a file that is not there"
    return None


def _is_inside(real: str, real_root: str) -> bool:
    return os.path.commonpath([real_root, real]) == real_root
