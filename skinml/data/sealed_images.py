"""Pictures that lie sealed in a clinic's vault, read where others are read from a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from skinml.errors import ConfigError
from skinml.stewardship.pictures import PICTURE
from skinml.stewardship.vault import Vault


@dataclass(frozen=True)
class SealedImage:
    """One picture in a vault; stands where a path would.

    Attributes:
        vault: The clinic's vault.
        object: The id of its object.
    """

    vault: Vault = field(repr=False)
    object: str

    def read(self) -> bytes:
        """Decrypt it.

        Returns:
            The file as it was put in.

        Raises:
            DataError: If its patient was erased.
            EnvironmentProblem: If it cannot be read.
            IntegrityError: If it was changed, is missing, or is no picture that may be used, such
                as one that waits for a person, or an original file.
        """
        return self.vault.read(self.object, [PICTURE])


@dataclass(frozen=True)
class SealedImages:
    """The pictures of a clinic; stands where their folder would.

    Attributes:
        vault: The clinic's vault.
    """

    vault: Vault = field(repr=False)

    def __truediv__(self, image: str) -> SealedImage:
        return SealedImage(self.vault, image)


ImageFile = Path | SealedImage
"""What can be decoded."""

ImageFolder = Path | SealedImages
"""What a manifest's images are below."""


def require_folder(root: ImageFolder) -> Path:
    """Refuse a clinic's vault where files are needed.

    Args:
        root: Where images are.

    Returns:
        The folder.

    Raises:
        ConfigError: If it is a vault.
    """
    if isinstance(root, Path):
        return root
    raise ConfigError(
        rule="images in a folder of their own for this",
        got="a clinic's imported pictures, which stay sealed",
        do="Use data.root=FOLDER with a manifest in it.",
    )
