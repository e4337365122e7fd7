"""The other clinics' signing keys, remembered from the first run on.

Whoever chooses the keys of a secure sum could invent all of a clinic's peers. A clinic therefore
remembers the key of each name that it first met and takes no other one later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from skinml.clinic.folder import ClinicFolder
from skinml.errors import IntegrityError

PEERS = "peers.json"
_WHAT = "keys of other clinics"


def require_known_keys(folder: ClinicFolder, registered: Sequence[tuple[str, str]]) -> None:
    """Hold the keys that a coordinator names against those that are known here.

    Args:
        folder: The clinic's folder.
        registered: Each clinic of a run with its public signing key, 64 hexadecimal digits.

    Raises:
        IntegrityError: If one is another than it was, two clinics share one, or this clinic's own
            is not its own.
        EnvironmentProblem: If they cannot be written.

    Guarantees:
        What is remembered is anchored like the clinic's other files: set back, it shows.
    """
    named = dict(registered)
    if not named:
        return
    content = folder.anchors.find(folder.path / PEERS, _WHAT)
    known: dict[str, str] = {} if content is None else json.loads(content)
    expected = known | {folder.name: folder.identity.public_key}
    changed = sorted(name for name, key in named.items() if expected.get(name, key) != key)
    if changed or len(set(named.values())) != len(named) or folder.name not in named:
        raise IntegrityError(
            rule="the signing keys by which this clinic knows the others, one of each",
            got=f"another key of {', '.join(changed) or 'a clinic'}",
            do="Ask that clinic by telephone whether it made a new key; if so, remove its line "
            f"from {PEERS} and anchor anew.",
        )
    if set(named) - set(known):
        told = json.dumps(known | named, indent=1, sort_keys=True).encode() + b"\n"
        folder.anchors.replace(folder.path / PEERS, told, _WHAT)
