"""The app bundle that travels: a shim that names skinml's apps and holds no code."""

from __future__ import annotations

import hashlib
import io
import zipfile

SERVER_APP = "skinml.deployment.server_app:app"
CLIENT_APP = "skinml.deployment.site_app:app"
PUBLISHED = "8f343d5fa50dd988fa52d1af3bab5580843ca5f4648ba5e69cdae4e6232b434d"
"""SHA-256 of the bundle of this release, which people can compare by eye."""

_PROJECT = f"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "skinml-run"
version = "1.0.0"
description = "Names a run of skinml; the code is what is installed."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "skinml"

[tool.flwr.app.components]
serverapp = "{SERVER_APP}"
clientapp = "{CLIENT_APP}"

[tool.flwr.app.config]
run = ""
"""
_DATE = (2024, 10, 1, 0, 0, 0)  # Flower's own date of a bundle's files
_UNIX = 3


def build() -> bytes:
    """Build the bundle.

    Returns:
        A zip archive that Flower takes: pyproject.toml and the list of its digests.

    Guarantees:
        The same bytes on every machine: nothing in it is compressed, dated or asked of the system.
    """
    project = _PROJECT.encode()
    listed = f"pyproject.toml,{hashlib.sha256(project).hexdigest()},{8 * len(project)}"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, text in (("pyproject.toml", project), (".info/CONTENT", listed.encode())):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = _UNIX
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, text)
    return content.getvalue()


def digest() -> str:
    """Give the bundle's digest, by which a clinic knows it.

    Returns:
        SHA-256, in hexadecimal digits.
    """
    return hashlib.sha256(build()).hexdigest()
