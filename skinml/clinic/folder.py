"""A clinic's folder: its key, its ledger, its caches. A virtual clinic of a simulation has one too.

clinics/NAME/
  key                      32 bytes, mode 0600, made once, never leaves the folder
  ledger.jsonl             what was released, one line a release
  inspections.sealed       digests and perceptual hashes of its images
  features/VERSION.sealed  what frozen networks made of its images
  runs/RUN/*.sealed        a run's samples and predictions
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from skinml.errors import DataError, EnvironmentProblem
from skinml.privacy.ledger import Ledger
from skinml.stewardship.encryption import keyed_digest, new_key, read_key, write_key

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")


@dataclass(frozen=True)
class ClinicFolder:
    """An opened folder.

    Attributes:
        name: The clinic's name.
        path: The folder.
        key: The clinic's key; never logged, never sent.
    """

    name: str
    path: Path
    key: bytes

    @property
    def ledger(self) -> Ledger:
        """The clinic's privacy ledger."""
        return Ledger(self.path / "ledger.jsonl", self.name)

    @property
    def inspections(self) -> Path:
        """Where what is known of its images is kept."""
        return self.path / "inspections.sealed"

    @property
    def features(self) -> Path:
        """The folder of what networks made of its images."""
        return self.path / "features"

    def run(self, run: str) -> Path:
        """Name the folder of one run.

        Args:
            run: The run's id.

        Returns:
            The folder.
        """
        return self.path / "runs" / run

    def secret_number(self, purpose: str) -> int:
        """Derive a secret number from the clinic's key.

        Args:
            purpose: What it is for; another purpose gives an unrelated number.

        Returns:
            A number below 2**128.
        """
        return int(keyed_digest(self.key, purpose.encode())[:32], 16)


def open_folder(root: Path, name: str) -> ClinicFolder:
    """Open a clinic's folder, or make it with a new key.

    Args:
        root: The folder of all clinics of this machine.
        name: The clinic's name.

    Returns:
        The folder.

    Raises:
        DataError: If the name could not be a folder's.
        EnvironmentProblem: If the folder cannot be written.
        IntegrityError: If the key's file is damaged.
    """
    if not _NAME.fullmatch(name):
        raise DataError(
            rule="clinic names of up to 64 letters, digits, spaces, '_', '-' and '.'",
            got=f"clinic={name[:80]!r}",
            do="Rename the clinic in the manifest.",
        )
    path = root / name
    try:
        (path / "features").mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
        (path / "runs").mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise EnvironmentProblem(
            rule="a working folder that can be written",
            got=f"{root} ({error.strerror})",
            do="Check its permissions and the space on the disk, or choose another work_dir.",
        ) from error
    if not (path / "key").exists():
        write_key(path / "key", new_key())
    return ClinicFolder(name, path, read_key(path / "key"))
