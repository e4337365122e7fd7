"""Which code made a figure: the release, and a digest of the very files that ran."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import skinml

SOURCE = "skinml source"
_KINDS = (".py", ".j2", ".css", ".yaml")


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Compute a digest of the installed package's own files.

    Returns:
        "sha256:" and the first 16 hexadecimal digits; it changes with any change of any file.
    """
    root = Path(skinml.__file__).parent
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in _KINDS:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            whole.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return f"sha256:{whole.hexdigest()[:16]}"


def code_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Collect the versions of what ran.

    Args:
        packages: Names of installed packages, skinml among them.

    Returns:
        By package its version, and under "skinml source" the digest of the files.
    """
    return {**{package: version(package) for package in packages}, SOURCE: source_digest()}
