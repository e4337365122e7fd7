"""What a clinic has answered in a run, sealed in the folder of its run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.durable import locked, read_whole, write_over, write_whole
from skinml.errors import IntegrityError
from skinml.stewardship.encryption import seal, unseal

_FILE = "secure-sum.sealed"

PATIENCE_S = 3600.0
"""Seconds to wait for another process that answers: a whole round is computed under the lock, and
who is asked the same again meanwhile has to find that round's answer."""


@dataclass(frozen=True)
class SealedBook:
    """Keeps the answers of the latest attempt, see `federated.secure_clinic.StepBook`.

    Attributes:
        folder: The clinic's folder.
        run: The run's id.
        plain: Whether the answers are sums that leave as they are: one that is lost is made anew
            then, charged and with fresh noise, so that nobody waits for the disk, and damage is a
            loss like a power cut's. Of a secure sum it would show two sums under one mask: there,
            each answer is on the disk before it leaves, and damage ends the run.
    """

    folder: ClinicFolder
    run: str
    plain: bool = False

    def load(self) -> bytes:
        """Read what was saved last.

        Returns:
            The content; empty where nothing was saved yet, or where plain answers were lost.

        Raises:
            EnvironmentProblem: If it cannot be read.
            IntegrityError: If it was changed and the answers are not plain.
        """
        if not self._path.exists():
            return b""
        sealed = read_whole(self._path, "answers of a run")
        try:
            return unseal(self.folder.key, sealed, context=self._context)
        except IntegrityError:
            if self.plain:
                return b""
            raise

    def save(self, content: bytes) -> None:
        """Save what was answered; synced to the disk unless it is plain.

        Args:
            content: The content.

        Raises:
            EnvironmentProblem: If it cannot be written: nothing leaves then.
        """
        sealed = seal(self.folder.key, content, context=self._context)
        write = write_over if self.plain else write_whole
        write(self._path, sealed, "answers of a run")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes that answer for this clinic in this run out until the block ends.

        Yields:
            Nothing.

        Raises:
            EnvironmentProblem: If the lock cannot be taken.
        """
        with locked(self._lock, "answers of a run", patience_s=PATIENCE_S):
            yield

    @property
    def exists(self) -> bool:
        """Whether something is kept."""
        return self._path.exists()

    def drop(self) -> None:
        """Remove it once the run is over; the ledger still knows which sums were computed."""
        for path in (self._path, self._lock):
            path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.folder.run(self.run) / _FILE

    @property
    def _lock(self) -> Path:
        return self._path.with_name(f".{_FILE}.lock")

    @property
    def _context(self) -> bytes:
        return f"secure sum of run {self.run}".encode()
