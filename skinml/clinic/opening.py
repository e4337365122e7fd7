"""Opening a clinic's folder for the person at the screen."""

from __future__ import annotations

import os
from pathlib import Path

from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.stewardship.passphrases import source_from


def open_at_screen(path: Path) -> ClinicFolder:
    """Open a folder; where it needs a passphrase, ask at the terminal or read the private file.

    Args:
        path: The folder.

    Returns:
        The folder, verified.

    Raises:
        ConfigError: If it is no clinic's folder.
        EnvironmentProblem: If others can open it, or its key cannot be unlocked.
        IntegrityError: If the passphrase is wrong or anything in the folder was changed.
    """
    return open_folder(path, source_from(os.environ))
