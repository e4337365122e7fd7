"""`skinml bundle` on a real run: what can be checked offline, and what nobody slips past it."""

from __future__ import annotations

import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest

from skinml.experiments.bundle_archive import (
    LEDGERS,
    MANIFEST,
    NAMES,
    REPORT,
    SIGNATURE,
    SPEC,
    WEIGHTS,
    open_archive,
    pack,
)
from skinml.experiments.bundle_key import KEY_FILE, fingerprint, is_key
from skinml.stewardship.signing import new_signing_key, public_key_hex

Invoke = Callable[..., Any]


@dataclass(frozen=True)
class Made:
    """A bundle of a run of two clinics, and where the run is."""

    place: Path
    run: str
    path: Path
    told: dict[str, Any]


@pytest.fixture(scope="module")
def made(skinml: Invoke, simulated: tuple[Path, Any], tmp_path_factory: Any) -> Made:
    place = tmp_path_factory.mktemp("bundled") / "work"
    shutil.copytree(simulated[0], place, symlinks=True)
    run, path = simulated[1].json["run"], place / "review.zip"
    done = skinml("bundle", run, "--work-dir", place, "--out", path, "--with-model", "--json")
    assert done.code == 0, done.told
    return Made(place, run, path, done.json)


def outcomes(found: Any) -> dict[str, str]:
    return {each["what"]: each["outcome"] for each in found.json["checks"]}


def test_a_bundle_away_from_everything_is_checked_with_the_fingerprint_alone(
    skinml: Invoke, made: Made, tmp_path: Path
) -> None:
    alone = shutil.copy(made.path, tmp_path / "received.zip")
    found = skinml("bundle", "verify", alone, "--key", made.told["key"], "--json")
    assert found.code == 0, found.told
    looked_at = outcomes(found)
    assert {what for what, outcome in looked_at.items() if outcome == "not checked"} == {
        "the extracts, against the clinics' ledgers and their seals",
        "the figures, from predictions",
        "the yardsticks",
    }
    for what in (
        "the digest of each member",
        "the signature of the manifest",
        "whose key signed it",
        "each number of the page is in report.json",
        "model/README.md, made anew from report.json",
        "each clinic's epsilon, computed anew from its extract",
        "privacy figures, computed anew from the plan and from the extracts",
        "who took part, against the ledgers",
        "the model's files",
    ):
        assert looked_at[what] == "agrees"


def test_where_the_ledgers_are_the_extracts_are_held_against_them(
    skinml: Invoke, made: Made
) -> None:
    found = skinml("bundle", "verify", made.path, "--work-dir", made.place, "--json")
    assert found.code == 0, found.told
    looked_at = outcomes(found)
    assert looked_at["the extracts, against the clinics' ledgers and their seals"] == "agrees"
    assert looked_at["whose key signed it"] == "not checked"
    detail = {each["what"]: each["detail"] for each in found.json["checks"]}
    assert made.told["key"] in detail["whose key signed it"]


def test_everything_is_there_and_no_patients_id_is(made: Made) -> None:
    archive = open_archive(made.path)
    assert set(archive.members) == NAMES
    (manifest,) = (made.place / "cohorts").resolve().glob("*/manifest.csv")
    ids = set(pyarrow.csv.read_csv(manifest)["patient_id"].to_pylist())
    assert len(ids) == 90
    text = b"\n".join(each for name, each in archive.members.items() if name != WEIGHTS).decode()
    assert not [each for each in ids if str(each) in text]


def test_the_key_is_its_owners_alone_and_its_fingerprint_is_the_one_told(made: Made) -> None:
    path = made.place / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    public = public_key_hex(bytes.fromhex(path.read_text()))
    assert fingerprint(public) == made.told["key"]
    assert is_key(public, made.told["key"].replace(" ", ":").upper())
    assert is_key(public, public)
    assert not is_key(public, fingerprint(public_key_hex(new_signing_key())))
    assert path.read_text().strip() not in repr(open_archive(made.path).members)


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(skinml: Invoke, made: Made, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"
    words = ("--work-dir", made.place, "--out", again, "--with-model")
    assert skinml("bundle", made.run, *words).code == 0
    assert again.read_bytes() == made.path.read_bytes()


def members_of(path: Path) -> dict[str, bytes]:
    return dict(open_archive(path).members)


def packed_anew(members: dict[str, bytes], target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in sorted(members.items()):
            archive.writestr(name, content)
    return target


@pytest.mark.parametrize("name", sorted(NAMES - {MANIFEST, SIGNATURE}))
def test_a_bit_that_was_changed_in_a_member_is_told_with_its_name(
    skinml: Invoke, made: Made, tmp_path: Path, name: str
) -> None:
    content = bytearray(made.path.read_bytes())
    with zipfile.ZipFile(made.path) as archive:
        content[archive.getinfo(name).header_offset + 30 + len(name) + 5] ^= 1
    (tmp_path / "changed.zip").write_bytes(content)
    found = skinml("bundle", "verify", tmp_path / "changed.zip", "--json")
    assert found.code == 5
    assert f"{name} is another" in found.json["error"]["details"][0]


def with_a_member_less(members: dict[str, bytes]) -> None:
    members.pop(LEDGERS)


def with_a_manifest_that_fits(members: dict[str, bytes]) -> None:
    members[MANIFEST] = members[MANIFEST].replace(b'"run":"quick', b'"run":"thick')


def with_another_key_named(members: dict[str, bytes]) -> None:
    told = json.loads(members[MANIFEST])
    other = public_key_hex(new_signing_key()).encode()
    members[MANIFEST] = members[MANIFEST].replace(told["key"].encode(), other)


def with_no_key_named(members: dict[str, bytes]) -> None:
    told = json.loads(members[MANIFEST])
    members[MANIFEST] = members[MANIFEST].replace(told["key"].encode(), b"nobody")


def with_no_signature(members: dict[str, bytes]) -> None:
    members[SIGNATURE] = b"\xff\x00"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (with_a_member_less, "the digest of each member: ledgers.json is missing"),
        (with_a_manifest_that_fits, "the signature of the manifest"),
        (with_another_key_named, "the signature of the manifest"),
        (with_no_key_named, "the signature of the manifest"),
        (with_no_signature, "the signature of the manifest"),
    ],
)
def test_what_was_changed_behind_the_signature_differs(
    skinml: Invoke, made: Made, tmp_path: Path, change: Any, what: str
) -> None:
    members = members_of(made.path)
    change(members)
    found = skinml("bundle", "verify", packed_anew(members, tmp_path / "b.zip"), "--json")
    assert found.code == 5
    assert any(each.startswith(what) for each in found.json["error"]["details"])


@pytest.mark.parametrize(("before", "behind"), [(b"", b"x"), (b"#!/bin/sh\n", b"")])
def test_bytes_around_the_members_are_noticed(
    skinml: Invoke, made: Made, tmp_path: Path, before: bytes, behind: bytes
) -> None:
    (tmp_path / "b.zip").write_bytes(before + made.path.read_bytes() + behind)
    found = skinml("bundle", "verify", tmp_path / "b.zip", "--json")
    assert found.code == 5
    assert "nothing else in the file" in found.told


def test_whoever_signs_anew_with_another_key_is_found_by_the_fingerprint(
    skinml: Invoke, made: Made, tmp_path: Path
) -> None:
    members = members_of(made.path)
    for name in (MANIFEST, SIGNATURE):
        members.pop(name)
    (tmp_path / "b.zip").write_bytes(pack(made.run, members, new_signing_key()))
    found = skinml("bundle", "verify", tmp_path / "b.zip", "--key", made.told["key"], "--json")
    assert found.code == 5
    assert any(each.startswith("whose key signed it") for each in found.json["error"]["details"])


def less_epsilon(members: dict[str, bytes]) -> None:
    document = json.loads(members[REPORT])
    document["record"]["guarantee"]["epsilon"] -= 0.5
    members[REPORT] = json.dumps(document).encode()


def a_line_less(members: dict[str, bytes]) -> None:
    extracts = json.loads(members[LEDGERS])
    extracts[0]["stretches"][0]["lines"].pop(3)
    members[LEDGERS] = json.dumps(extracts).encode()


def of_no_report(members: dict[str, bytes]) -> None:
    members[REPORT] = b"[" * 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (less_epsilon, "each clinic's epsilon, computed anew from its extract"),
        (a_line_less, "what the members say"),
        (of_no_report, "what the members say"),
    ],
)
def test_a_signer_who_tells_other_than_the_ledgers_is_found_without_them(
    skinml: Invoke, made: Made, tmp_path: Path, change: Any, what: str
) -> None:
    members = members_of(made.path)
    for name in (MANIFEST, SIGNATURE):
        members.pop(name)
    change(members)
    key = bytes.fromhex((made.place / KEY_FILE).read_text())
    (tmp_path / "b.zip").write_bytes(pack(made.run, members, key))
    found = skinml("bundle", "verify", tmp_path / "b.zip", "--json")
    assert found.code == 5, found.told
    assert any(each.startswith(what) for each in found.json["error"]["details"])


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = 0) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return target.getvalue()


def linked() -> bytes:
    entry = zipfile.ZipInfo(MANIFEST)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return zipped((entry, b"/etc/passwd"))


def larger_than_told() -> bytes:
    """A directory that claims a gigabyte for a member of a few bytes."""
    content = bytearray(zipped((MANIFEST, b"{}")))
    at = content.rindex(b"PK\x01\x02")
    content[at + 20 : at + 28] = (2**30).to_bytes(4, "little") * 2
    return bytes(content)


def overlapping() -> bytes:
    """Two members whose bytes are the same."""
    content = bytearray(zipped((REPORT, b"x" * 4000), (MANIFEST, b"y" * 4000)))
    at = content.rindex(b"PK\x01\x02")
    content[at + 42 : at + 46] = (0).to_bytes(4, "little")
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(zipped((MANIFEST, b"{}")))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x05\x06" + b"\x00" * 10,
        b"not a zip at all" * 100,
        zipped(),
        zipped(("manifest.json", b"{}")),
        zipped(("manifest.json", b"[" * 100_000), (SIGNATURE, b"")),
        zipped((MANIFEST, b'{"format": "skinml-bundle-1"}')),
        zipped(("../../.bashrc", b"x"), (MANIFEST, b"{}")),
        zipped(("/etc/cron.d/x", b"x"), (MANIFEST, b"{}")),
        zipped((SPEC.replace("/", "\\"), b"x"), (MANIFEST, b"{}")),
        zipped((REPORT, b"\x00" * 30_000_000), method=zipfile.ZIP_DEFLATED),
        zipped((REPORT, b"\x00" * 1_000), method=zipfile.ZIP_BZIP2),
        linked(),
        larger_than_told(),
        overlapping(),
        encrypted(),
    ],
)
def test_a_hostile_or_strange_file_is_no_bundle(
    skinml: Invoke, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "b.zip").write_bytes(content)
    found = skinml("bundle", "verify", tmp_path / "b.zip", "--json")
    assert found.code == 2, found.told
    assert "Traceback" not in found.told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_no_bundle(skinml: Invoke, tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(zipped((MANIFEST, b"{}"), (MANIFEST, b"{}")))
    assert skinml("bundle", "verify", tmp_path / "b.zip").code == 2


def test_a_file_that_is_none_or_not_there_is_no_bundle(skinml: Invoke, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.zip", Path("/dev/zero")):
        assert skinml("bundle", "verify", path).code == 2


def test_a_key_that_others_may_read_signs_nothing(
    skinml: Invoke, made: Made, tmp_path: Path
) -> None:
    from skinml.errors import IntegrityError
    from skinml.experiments.bundle_key import signing_key

    first = signing_key(tmp_path)
    assert signing_key(tmp_path) == first
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(IntegrityError, match="chmod 600"):
        signing_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o600)
    (tmp_path / KEY_FILE).write_text("short\n")
    with pytest.raises(IntegrityError):
        signing_key(tmp_path)


def test_a_run_that_is_not_there_is_told(skinml: Invoke, tmp_path: Path) -> None:
    found = skinml("bundle", "nowhere", "--work-dir", tmp_path)
    assert found.code == 2
    assert "run" in found.err
