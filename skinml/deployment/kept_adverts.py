"""The public keys that clinics advertised for a run's secure sums, kept in its draft folder.

A run that is resumed asks for them anew. One clinic that is dead by then would keep all others
from any sum: with the keys that it advertised before, it is missing as in any other round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skinml.durable import read_whole, write_whole
from skinml.errors import IntegrityError
from skinml.federated.secure_session import Signed, packed, unpacked

ADVERTS = "adverts.json"
_WHAT = "advertised keys of a run"


@dataclass(frozen=True)
class AdvertFile:
    """Keeps them; nothing in it is secret, and each is signed by its clinic for this run.

    Attributes:
        draft: The run's draft folder.
    """

    draft: Path

    def load(self) -> dict[str, Signed]:
        """Read what was advertised.

        Returns:
            By clinic its signed keys, not yet verified; none before they were all there once.

        Raises:
            EnvironmentProblem: If it cannot be read.
            IntegrityError: If it is of another form.
        """
        path = self.draft / ADVERTS
        if not path.exists():
            return {}
        try:
            found = json.loads(read_whole(path, _WHAT))
            return {str(name): unpacked(bytes.fromhex(each)) for name, each in found.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise IntegrityError(
                rule=f"{ADVERTS} as it was written",
                got="a file of another form",
                do="Restore it from a backup, or submit the run anew.",
            ) from error

    def save(self, adverts: Mapping[str, Signed]) -> None:
        """Write down what was advertised.

        Args:
            adverts: By clinic its signed keys, verified.

        Raises:
            EnvironmentProblem: If it cannot be written.
        """
        told = {name: packed(each).hex() for name, each in adverts.items()}
        write_whole(self.draft / ADVERTS, json.dumps(told).encode(), _WHAT)
