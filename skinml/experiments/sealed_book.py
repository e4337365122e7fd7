"""What a clinic has answered in a secure sum, sealed in the folder of its run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.durable import read_whole, write_whole
from skinml.stewardship.encryption import seal, unseal

_FILE = "secure-sum.sealed"


@dataclass(frozen=True)
class SealedBook:
    """Keeps the answers of the latest attempt, see `federated.secure_clinic.StepBook`.

    Attributes:
        folder: The clinic's folder.
        run: The run's id.
    """

    folder: ClinicFolder
    run: str

    def load(self) -> bytes:
        """Read what was saved last.

        Returns:
            The content; empty where nothing was saved yet.

        Raises:
            EnvironmentProblem: If it cannot be read.
            IntegrityError: If it was changed.
        """
        if not self._path.exists():
            return b""
        sealed = read_whole(self._path, "answers of a secure sum")
        return unseal(self.folder.key, sealed, context=self._context)

    def save(self, content: bytes) -> None:
        """Save what was answered, synced to the disk.

        Args:
            content: The content.

        Raises:
            EnvironmentProblem: If it cannot be written: nothing leaves then.
        """
        sealed = seal(self.folder.key, content, context=self._context)
        write_whole(self._path, sealed, "answers of a secure sum")

    def drop(self) -> None:
        """Remove it once the run is over."""
        with suppress(FileNotFoundError):
            self._path.unlink()

    @property
    def _path(self) -> Path:
        return self.folder.run(self.run) / _FILE

    @property
    def _context(self) -> bytes:
        return f"secure sum of run {self.run}".encode()
