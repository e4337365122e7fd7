"""The file of a bundle: one zip that is always packed alike, signed, and opened with suspicion.

Nothing in it is compressed, so that nothing can swell, and nothing is ever unpacked to a disk: its
members are read in memory and may have no other names than those below.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skinml.durable import read_whole
from skinml.errors import DataError
from skinml.journal import canonical
from skinml.stewardship.signing import Signature, public_key_hex

FORMAT = "skinml-bundle-1"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
README = "README.txt"
PAGE, REPORT = "report.html", "report.json"
CARD, CARD_PAGE, GUARANTEE = "model/README.md", "model-card.html", "guarantee.html"
PARTICIPATION, LEDGERS = "participation.json", "ledgers.json"
DIGESTS, ENVIRONMENT, CHECKS = "digests.json", "environment.json", "checks.json"
SPEC, WEIGHTS = "model/bundle.json", "model/model.safetensors"
NAMES = frozenset(
    (
        *(MANIFEST, SIGNATURE, README, PAGE, REPORT, CARD, CARD_PAGE, GUARANTEE),
        *(PARTICIPATION, LEDGERS, DIGESTS, ENVIRONMENT, CHECKS, SPEC, WEIGHTS),
    )
)
_ABOUT = b"skinml bundle\n"
_DATE = (2024, 1, 1, 0, 0, 0)
_UNIX, _MODE = 3, stat.S_IFREG | 0o600
_HEADER, _HEADER_BYTES = b"PK\x03\x04", 30
_LARGEST, _LARGEST_TEXT = 2**30, 2**26  # a model of a gigabyte; 64 MB of text
_DO = "Ask whoever made the bundle for the file as skinml bundle wrote it."


@dataclass(frozen=True, repr=False)
class Archive:
    """An opened bundle.

    Attributes:
        members: Each member's content by name, the manifest and its signature included.
        manifest: What the manifest says; nothing of it is believed yet.
        alike: Whether the file is packed as skinml packs these members, to the byte.
    """

    members: Mapping[str, bytes]
    manifest: Mapping[str, Any]
    alike: bool

    @property
    def listed(self) -> dict[str, str]:
        """The digests that the manifest lists, by member."""
        found = self.manifest.get("members")
        if not isinstance(found, Mapping):
            return {}
        return {str(name): str(each) for name, each in found.items()}

    @property
    def key(self) -> str:
        """The public key that the manifest names."""
        return str(self.manifest.get("key", ""))


def pack(run: str, members: Mapping[str, bytes], signing_key: bytes) -> bytes:
    """Sign members and pack them.

    Args:
        run: The run's id.
        members: Content by name.
        signing_key: 32 secret bytes.

    Returns:
        The file's content.

    Guarantees:
        Equal arguments give equal bytes on every machine.
    """
    key = public_key_hex(signing_key)
    listed = {name: sha256(content) for name, content in sorted(members.items())}
    manifest = canonical({"format": FORMAT, "key": key, "members": listed, "run": run}) + b"\n"
    seal = Signature(key, signing_key, about=_ABOUT).make(manifest)
    return _packed({**members, MANIFEST: manifest, SIGNATURE: f"{seal}\n".encode()})


def open_archive(path: Path) -> Archive:
    """Read a bundle without believing anything in it.

    Args:
        path: The file.

    Returns:
        Its members.

    Raises:
        DataError: If it is no bundle, is too large, or holds anything that skinml never packs:
            other names, doubles, links, compressed or hidden content.
        EnvironmentProblem: If it cannot be read.

    Guarantees:
        Memory stays within a small multiple of the file's own size, and nothing is written.
    """
    if not path.is_file():
        raise _no_bundle(f"no file at {path}")
    if path.stat().st_size > _LARGEST:
        raise _no_bundle(f"a file of more than {_LARGEST >> 20} MB")
    content = read_whole(path, "bundle")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
    # What zipfile raises at a central directory that was made up.
    except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, NotImplementedError):
        raise _no_bundle("a file that is no zip") from None
    members = _members(content, entries)
    manifest = read_json(members.get(MANIFEST, b""))
    if manifest.get("format") != FORMAT or SIGNATURE not in members:
        raise _no_bundle("a zip without skinml's manifest")
    return Archive(members, manifest, _packed(members) == content)


def is_signed(archive: Archive) -> bool:
    """Tell whether the manifest's signature is of the key that the manifest names.

    Args:
        archive: The bundle.

    Returns:
        Whether it is; whose key that is, it cannot tell.

    Raises:
        ConfigError: If the manifest's key is no public key.
    """
    seal = archive.members[SIGNATURE].decode("ascii", errors="replace").removesuffix("\n")
    return Signature(archive.key, about=_ABOUT).fits(archive.members[MANIFEST], seal)


def read_json(content: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        content: What may be one.

    Returns:
        The object; an empty one where it is none.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def sha256(content: bytes) -> str:
    """Compute the digest of a member.

    Args:
        content: The member.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(content).hexdigest()


def _packed(members: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(members.items()):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = _UNIX, _MODE << 16
            archive.writestr(entry, content)
    return target.getvalue()


def _members(content: bytes, entries: list[zipfile.ZipInfo]) -> dict[str, bytes]:
    """Cut the members out, by hand: what a directory says of sizes is held against the file."""
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise _no_bundle("a zip with two members of one name")
    if not NAMES.issuperset(names):
        raise _no_bundle(f"a zip with {len(set(names) - NAMES)} members that no bundle has")
    if sum(entry.file_size for entry in entries) > len(content):
        raise _no_bundle("members that are larger than their file")
    return {entry.filename: _member(content, entry) for entry in entries}


def _member(content: bytes, entry: zipfile.ZipInfo) -> bytes:
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise _no_bundle(f"{entry.filename} compressed")
    if entry.flag_bits & 1 or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise _no_bundle(f"{entry.filename} as a link, or encrypted")
    if entry.filename != WEIGHTS and entry.file_size > _LARGEST_TEXT:
        raise _no_bundle(f"{entry.filename} of more than {_LARGEST_TEXT >> 20} MB")
    header = content[entry.header_offset : entry.header_offset + _HEADER_BYTES]
    if len(header) < _HEADER_BYTES or not header.startswith(_HEADER):
        raise _no_bundle(f"{entry.filename} at a place where no member is")
    start = entry.header_offset + _HEADER_BYTES + sum(struct.unpack("<HH", header[26:30]))
    body = content[start : start + entry.file_size]
    if len(body) < entry.file_size:
        raise _no_bundle(f"{entry.filename} cut short")
    return body


def _no_bundle(got: str) -> DataError:
    return DataError(rule="a bundle that skinml made", got=got, do=_DO)
