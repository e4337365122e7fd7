"""Look for passwords and keys in the files that go into the repository; red if there is a new one.

    python scripts/find_secrets.py [FILE ...]
    python scripts/find_secrets.py --accept     once each that it names was looked at

Nothing is sent anywhere to see whether it works. What looks like a secret and is none, such as a
digest in a test, stands in .secrets.baseline as a hash, and moves with its line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.core import baseline
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / ".secrets.baseline"
_MADE = {"build", "dist", "runs", "clinics", "cohorts", "mlartifacts", "__pycache__"}


def main() -> int:
    """Look, and name each file and line; never the secret.

    Returns:
        0 if nothing new was found, else 1.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--accept", action="store_true", help="write the baseline anew")
    given = parser.parse_args()
    files = [str(path.resolve()) for path in given.files] or project_files(ROOT)
    os.chdir(ROOT)  # so that the baseline names files from the root on
    settings = json.loads(BASELINE.read_text())
    # Without the filter that asks a service whether a secret works, which would send it there.
    filters = [each for each in settings["filters_used"] if "verification" not in each["path"]]
    with transient_settings({"plugins_used": settings["plugins_used"], "filters_used": filters}):
        found = SecretsCollection()
        found.scan_files(*files)
        if given.accept:
            kept = baseline.format_for_output(found, is_slim_mode=True)
            BASELINE.write_text(json.dumps(kept, indent=1) + "\n")
            print(f"secrets: {len(list(found))} accepted, in {BASELINE.name}")
            return 0
        new = found - SecretsCollection.load_from_baseline(settings)
    for file, secret in new:
        print(f"secrets: {file}:{secret.line_number}: {secret.type}")
    if new:
        print("secrets: take it out and change it; if it is none: scripts/find_secrets.py --accept")
    else:
        print(f"secrets: none in {len(files)} files.")
    return 1 if new else 0


def project_files(root: Path) -> Sequence[str]:
    """List the files that git tracks; without git, those that a checkout would have.

    Args:
        root: The checkout.

    Returns:
        Their paths from the root on.
    """
    if (root / ".git").exists():
        tracked = subprocess.run(
            ["git", "ls-files", "-z"],  # noqa: S607 the git of whoever works here
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        files = [name for name in tracked if name]
    else:
        files = [
            path.relative_to(root).as_posix()
            for path in sorted(root.rglob("*"))
            if not _MADE & set(path.relative_to(root).parts)
            and not any(part[0] == "." and part != ".ci" for part in path.relative_to(root).parts)
        ]
    return [name for name in files if (root / name).is_file() and name != BASELINE.name]


if __name__ == "__main__":
    sys.exit(main())
