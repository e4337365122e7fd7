"""`skinml bundle`: what a reviewer needs of a run, in one signed file."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from skinml.durable import make_folder, read_whole, write_whole
from skinml.errors import DataError
from skinml.experiments.bundle_archive import (
    CARD,
    CARD_PAGE,
    CHECKS,
    DIGESTS,
    ENVIRONMENT,
    GUARANTEE,
    LEDGERS,
    PAGE,
    PARTICIPATION,
    README,
    REPORT,
    SPEC,
    WEIGHTS,
    pack,
    sha256,
)
from skinml.experiments.bundle_key import fingerprint, signing_key
from skinml.experiments.code_version import SOURCE, source_digest
from skinml.experiments.predictions_report import KIND
from skinml.experiments.report_anew import clinic_folders
from skinml.experiments.report_check import Verified, require_unchanged, verify_report
from skinml.experiments.workspace import Workspace, home_of
from skinml.journal import canonical
from skinml.models.bundle import SPEC_FILE, WEIGHTS_FILE, load_bundle
from skinml.privacy.ledger_extract import extract_of, extracts_json
from skinml.records import RunRecord
from skinml.reports.card import card_html, card_markdown
from skinml.reports.document import record_to_json
from skinml.reports.guarantee_page import guarantee_html
from skinml.stewardship.signing import public_key_hex

_WORDS = """\
A run of skinml, for whoever reviews it. Nothing in here is a patient's picture, id or prediction.

  report.html          the report; report.json has each number of it
  guarantee.html       what a patient is promised, by itself
  model-card.html      what the model is for; model/README.md is the same for the Hugging Face Hub
  participation.json   who took part in which round
  ledgers.json         the run's own lines of each clinic's privacy ledger, with the digests at
                       their edges; only where the clinics were simulated on one machine
  digests.json         digests of data, code, settings and model
  environment.json     versions of what ran, and of what packed this
  checks.json          what was checked where the run is, before this was packed
  model/               the model itself, where it was asked for
  manifest.json        SHA-256 of each file here, signed in manifest.sig with Ed25519

To check it, without the data and without a network:

  skinml bundle verify THIS_FILE --key "THE FINGERPRINT THAT YOU WERE TOLD"

Whoever sent you this file tells you the fingerprint by another way, such as the telephone. Without
it you know that nothing was changed since somebody signed, and not who signed.
"""


@dataclass(frozen=True)
class Bundled:
    """A bundle that was written.

    Attributes:
        path: The file.
        run: The run.
        key: Fingerprint of the key that signed it.
        size: Its bytes.
        members: Names of what is in it.
        verified: What was checked of the report before.
    """

    path: Path
    run: str
    key: str
    size: int
    members: tuple[str, ...]
    verified: Verified


def make_bundle(
    target: str, *, work_dir: Path = Path(), out: Path | None = None, with_model: bool = False
) -> Bundled:
    """Pack a finished run for a reviewer, and sign it with the working folder's key.

    Args:
        target: A run's id, its folder, or the folder of one of its evaluations.
        work_dir: The working folder with runs and virtual clinics.
        out: The file to write; by default RUN.bundle.zip where the command is run.
        with_model: Whether the model itself goes with it.

    Returns:
        What was written.

    Raises:
        DataError: If there is no such run, or the report is of a predictions file.
        EnvironmentProblem: If the file or the key cannot be written.
        IntegrityError: If a check of the report finds something else than it says: no bundle is
            made of that; or a clinic's folder or the key was changed.

    Guarantees:
        The same run, packed by the same code and key on one machine, gives the same bytes, as long
        as its clinics keep what they kept.
    """
    verified = verify_report(target, work_dir=work_dir)
    record, folder = verified.record, verified.place
    if record.kind == KIND:
        raise DataError(
            rule="a run of skinml, whose ledgers and model are known",
            got="the report of a predictions file",
            do="Hand on its report.html and report.json: skinml report verify checks them.",
        )
    require_unchanged(verified)
    home = home_of(folder)
    root = home.parent.parent if home.parent.name == "runs" else work_dir
    members = _members(record, folder, home, Workspace(root))
    members[CHECKS] = _plain({"checks": [(each.what, each.outcome) for each in verified.checks]})
    if with_model:
        members |= _model(home)
    key = signing_key(root)
    content = pack(record.run, members, key)
    path = Path(f"{record.run}.bundle.zip") if out is None else out
    make_folder(path.parent, "folder of the bundle")
    write_whole(path, content, "bundle")
    told = fingerprint(public_key_hex(key))
    return Bundled(path, record.run, told, len(content), tuple(sorted(members)), verified)


def participation_json(record: RunRecord) -> dict[str, Any]:
    """Write who took part, as a bundle has it.

    Args:
        record: The run's record.

    Returns:
        Plain values.
    """
    told = record_to_json(record)["record"]
    return {"run": record.run, **{name: told[name] for name in ("complete", "participation")}}


def digests_json(record: RunRecord) -> dict[str, Any]:
    """Collect the digests that a record has.

    Args:
        record: The run's record.

    Returns:
        Plain values; a bundle has those of the model beside them.
    """
    config = record_to_json(record)["record"]["config"]
    return {
        "run": record.run,
        "data": record.data.get("digest", ""),
        "code": record.versions.get(SOURCE, ""),
        "config": sha256(canonical(config)),
    }


def _members(record: RunRecord, folder: Path, home: Path, workspace: Workspace) -> dict[str, bytes]:
    found = {
        README: _WORDS.encode(),
        PAGE: read_whole(folder / PAGE, "report"),
        REPORT: read_whole(folder / REPORT, "report"),
        GUARANTEE: guarantee_html(record).encode(),
        CARD: card_markdown(record).encode(),
        CARD_PAGE: card_html(record).encode(),
        PARTICIPATION: _plain(participation_json(record)),
        DIGESTS: _plain(digests_json(record) | {"model": _model_digests(home)}),
        ENVIRONMENT: _plain({"run": dict(record.versions), "packed_with": _environment()}),
    }
    folders = clinic_folders(record, (workspace.clinics,)) if record.guarantee.simulated else None
    if folders is not None:
        spends = record.guarantee.clinics
        found[LEDGERS] = extracts_json(
            extract_of(each.ledger, record.run, spends[name].num_read)
            for name, each in sorted(folders.items())
        )
    return found


def _model(home: Path) -> dict[str, bytes]:
    places = {SPEC: home / "model" / SPEC_FILE, WEIGHTS: home / "model" / WEIGHTS_FILE}
    return {name: read_whole(path, "model") for name, path in places.items()}


def _model_digests(home: Path) -> dict[str, Any]:
    """Name the model, and the width of a head's features, which its promise depends on."""
    arrays = load_bundle(home / "model").arrays
    digests = {name: sha256(content) for name, content in _model(home).items()}
    return digests | {"num_features": len(arrays["centre"]) if "centre" in arrays else 0}


def _environment() -> dict[str, Any]:
    return {
        SOURCE: source_digest(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": dict(_packages()),
    }


def _packages() -> Mapping[str, str]:
    """Collect the versions of what skinml needs, the optional packages that are there included."""
    names = {"skinml", *(re.split(r"[^\w.-]", each)[0] for each in requires("skinml") or ())}
    found = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(values: Mapping[str, Any]) -> bytes:
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()
