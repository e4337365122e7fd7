"""`skinml bundle verify`: what can be known of a bundle without its data, and what cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from skinml.config import RunConfig, parse_config
from skinml.errors import ConfigError, IntegrityError, SkinmlError
from skinml.experiments.bundle_archive import (
    CARD,
    CARD_PAGE,
    CHECKS,
    DIGESTS,
    ENVIRONMENT,
    GUARANTEE,
    LEDGERS,
    MANIFEST,
    PAGE,
    PARTICIPATION,
    REPORT,
    SIGNATURE,
    SPEC,
    WEIGHTS,
    Archive,
    is_signed,
    open_archive,
    read_json,
    sha256,
)
from skinml.experiments.bundle_key import fingerprint, is_key
from skinml.experiments.bundling import digests_json, participation_json
from skinml.experiments.code_version import SOURCE, source_digest
from skinml.experiments.guarantee import guarantee_from, guarantee_told
from skinml.experiments.learners import build_learner, validation_release
from skinml.experiments.released import DP_COUNTS
from skinml.experiments.report_anew import ANEW, attendance_check, clinic_folders, counts_check
from skinml.experiments.workspace import Workspace
from skinml.privacy.ledger import Entry, spent
from skinml.privacy.ledger_extract import Extract, follow, read_extracts, stands_in
from skinml.records import Guarantee, RunRecord
from skinml.reports.card import card_html, card_markdown
from skinml.reports.document import record_to_json
from skinml.reports.guarantee_page import guarantee_html
from skinml.reports.verification import (
    AGREES,
    DIFFERS,
    NOT_CHECKED,
    Check,
    check_page,
    compare,
    read_document,
)

_OTHER_CODE = "other code of skinml packed it"
_OTHER_CONFIG = "its config is of another release of skinml"
_ELSEWHERE = "the ledgers are at the clinics: ask each for its own"
# What a document of wrong values may raise where it is worked with.
_STRANGE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class BundleChecked:
    """A bundle that was looked at.

    Attributes:
        path: The file.
        run: The run that it says it is of.
        key: Fingerprint of the key that it names; empty where that is no key.
        checks: What was looked at, in this order.
    """

    path: Path
    run: str
    key: str
    checks: tuple[Check, ...]

    @property
    def differs(self) -> tuple[Check, ...]:
        """The checks that found something else."""
        return tuple(each for each in self.checks if each.outcome == DIFFERS)

    @property
    def result(self) -> dict[str, Any]:
        """The object of `--json`."""
        return {
            "bundle": str(self.path),
            "run": self.run,
            "key": self.key,
            "checks": [asdict(each) for each in self.checks],
        }


def verify_bundle(
    path: Path, *, key: str | None = None, work_dir: Path | None = None
) -> BundleChecked:
    """Check a bundle as far as it can be without its data, without a network.

    Args:
        path: The file.
        key: The fingerprint that its maker told, or the public key; None: nobody told one.
        work_dir: A working folder with the clinics' ledgers, to hold the extracts against; None:
            they are elsewhere.

    Returns:
        What was looked at. Nothing is written and nothing is unpacked.

    Raises:
        DataError: If it is no bundle.
        EnvironmentProblem: If it cannot be read.
    """
    archive = open_archive(path)
    run = str(archive.manifest.get("run", ""))
    found = [*_members(archive), *_signature(archive, key)]
    if any(each.outcome == DIFFERS for each in found):
        found.append(Check("what the members say", NOT_CHECKED, "they are not what was signed"))
    else:
        found += _within("what the members say", lambda: list(_content(archive, run, work_dir)))
    return BundleChecked(path, run, _fingerprint(archive), tuple(found))


def require_sound(found: BundleChecked) -> None:
    """Refuse a bundle in which something differs.

    Args:
        found: What was looked at.

    Raises:
        IntegrityError: If one of the checks found something else.
    """
    if found.differs:
        raise IntegrityError(
            rule="a bundle as it was signed, whose parts agree",
            got=f"{len(found.differs)} of {len(found.checks)} checks that differ",
            do="Do not rely on it; ask whoever made it for the file anew.",
            details=[f"{each.what}: {each.detail}" for each in found.differs],
        )


def _members(archive: Archive) -> Iterator[Check]:
    listed, there = archive.listed, set(archive.members) - {MANIFEST, SIGNATURE}
    off = [name for name in sorted(there) if listed.get(name) != sha256(archive.members[name])]
    gone = [f"{name} is missing" for name in sorted(set(listed) - there)]
    detail = "; ".join((*(f"{name} is another" for name in off), *gone))
    yield Check("the digest of each member", DIFFERS if detail else AGREES, detail or _of(there))
    yield Check(
        "nothing else in the file",
        AGREES if archive.alike else DIFFERS,
        "" if archive.alike else "it was not packed by skinml, or was packed anew",
    )


def _signature(archive: Archive, key: str | None) -> Iterator[Check]:
    what, whose = "the signature of the manifest", "whose key signed it"
    told = _fingerprint(archive)
    if not told or not is_signed(archive):
        yield Check(what, DIFFERS, "it does not belong to this manifest and its key")
        return
    yield Check(what, AGREES, "Ed25519")
    if key is None:
        yield Check(whose, NOT_CHECKED, f"ask its maker whether this is the fingerprint: {told}")
    elif is_key(archive.key, key):
        yield Check(whose, AGREES, told)
    else:
        yield Check(whose, DIFFERS, f"it is {told}")


def _content(archive: Archive, run: str, work_dir: Path | None) -> Iterator[Check]:
    """Look into members that are what was signed."""
    members = archive.members
    document = read_document(members[REPORT].decode("utf-8", errors="replace"))
    same_code = document.get("record", {}).get("versions", {}).get(SOURCE) == source_digest()
    record, checks = check_page(document, members[PAGE], same_code=same_code)
    yield from checks
    yield _same("the run that the manifest names", record.run, run)
    packed_with = read_json(members[ENVIRONMENT])["packed_with"][SOURCE]
    yield from _pages(members, record, packed_with == source_digest())
    told = read_json(members[PARTICIPATION])
    yield compare("participation.json, against the report", told, participation_json(record))
    yield from _digests(members, record)
    yield from _promise(members, record, document["record"], work_dir)
    yield from _figures(members, record, document["record"])


def _pages(members: Mapping[str, bytes], record: RunRecord, same_code: bool) -> Iterator[Check]:
    made: dict[str, Callable[[RunRecord], str]] = {
        GUARANTEE: guarantee_html,
        CARD: card_markdown,
        CARD_PAGE: card_html,
    }
    for name, make in made.items():
        what = f"{name}, made anew from report.json"
        if same_code:
            yield _same(what, members[name].decode("utf-8", errors="replace"), make(record))
        else:
            yield Check(what, NOT_CHECKED, _OTHER_CODE)


def _digests(members: Mapping[str, bytes], record: RunRecord) -> Iterator[Check]:
    told = read_json(members[DIGESTS])
    model = told.pop("model", {})
    yield _same(
        "digests of data, code and settings, against the report", told, digests_json(record)
    )
    versions = read_json(members[ENVIRONMENT]).get("run")
    yield _same("versions, against the report", versions, dict(record.versions))
    what = "the model's files"
    if WEIGHTS not in members or SPEC not in members:
        yield Check(what, NOT_CHECKED, "they are not in the bundle, their digests are")
        return
    here = {name: sha256(members[name]) for name in (SPEC, WEIGHTS)}
    yield _same(what, {name: model.get(name) for name in here}, here)
    promised = read_json(members[SPEC]).get("spec", {}).get("guarantee", {})
    told = {name: getattr(record.guarantee, name) for name in ("epsilon", "delta", "trust")}
    yield _same("the promise that the model carries", {n: promised.get(n) for n in told}, told)


def _promise(
    members: Mapping[str, bytes],
    record: RunRecord,
    told: Mapping[str, Any],
    work_dir: Path | None,
) -> Iterator[Check]:
    """Follow the ledgers' extracts and compute what they promise."""
    width = int(read_json(members[DIGESTS])["model"]["num_features"])
    if LEDGERS not in members:
        if record.guarantee.simulated:
            yield Check("the privacy figures", NOT_CHECKED, "the ledgers' extracts are not here")
        else:
            yield Check("the ledgers' extracts", NOT_CHECKED, _ELSEWHERE)
            yield _from_plan(record, told, width, None)
        return
    extracts = {each.clinic: each for each in read_extracts(members[LEDGERS])}
    ledgers = {name: follow(each) for name, each in extracts.items()}
    yield _expected(record, extracts, ledgers)
    yield _epsilons(record, ledgers)
    yield _from_plan(record, told, width, (extracts, ledgers))
    yield attendance_check(record, ledgers)
    if not all(each.whole for each in extracts.values()):
        yield Check("totals over all runs", NOT_CHECKED, "they need the ledgers' other lines")
    what = "the extracts, against the clinics' ledgers and their seals"
    folders = None if work_dir is None else clinic_folders(record, (Workspace(work_dir).clinics,))
    if folders is None:
        yield Check(what, NOT_CHECKED, "only who has the clinics' keys can: name --work-dir there")
        return
    off = [name for name, each in extracts.items() if not stands_in(each, folders[name].ledger)]
    yield Check(what, DIFFERS if off else AGREES, ", ".join(off) or _of(extracts, "clinics"))


def _expected(
    record: RunRecord, extracts: Mapping[str, Extract], ledgers: Mapping[str, Sequence[Entry]]
) -> Check:
    """Hold the extracts' chains and their numbers of lines against the report."""
    spends = record.guarantee.clinics
    told = {name: (record.run, each.num_events, each.num_read) for name, each in spends.items()}
    found = {
        name: (each.run, len(ledgers[name]), each.count if _says_count(record, name) else None)
        for name, each in extracts.items()
    }
    check = _same("the ledgers' extracts: their chains, and the releases counted", found, told)
    lines = sum(map(len, ledgers.values()))
    return replace(check, detail=check.detail or f"{lines:,} lines, {_of(ledgers, 'clinics')}")


def _says_count(record: RunRecord, clinic: str) -> bool:
    """Tell whether a report says how long a clinic's ledger was; earlier releases did not."""
    spend = record.guarantee.clinics.get(clinic)
    return spend is not None and spend.num_read is not None


def _epsilons(record: RunRecord, ledgers: Mapping[str, Sequence[Entry]]) -> Check:
    promised = record.guarantee
    found = {name: _finite(spent(each, promised.delta)) for name, each in ledgers.items()}
    told = {name: each.epsilon for name, each in promised.clinics.items()}
    known = [each for each in found.values() if each is not None]
    greatest = max(known, default=0.0) if len(known) == len(found) else None
    return compare(
        "each clinic's epsilon, computed anew from its extract",
        {"clinics": told, "run": promised.epsilon},
        {"clinics": found, "run": greatest},
    )


def _from_plan(
    record: RunRecord,
    told: Mapping[str, Any],
    width: int,
    read: tuple[Mapping[str, Extract], Mapping[str, Sequence[Entry]]] | None,
) -> Check:
    """Compute the whole promise from the plan, and from the extracts or who was asked."""
    source = "who was asked" if read is None else "the extracts"
    what = f"privacy figures, computed anew from the plan and from {source}"
    try:
        config = parse_config(dict(record.config))
    except ConfigError:
        return Check(what, NOT_CHECKED, _OTHER_CONFIG)
    anew = _promised(config, record, width, read)
    plain = record_to_json(replace(record, guarantee=anew))["record"]["guarantee"]
    return compare(what, told["guarantee"], plain)


def _promised(
    config: RunConfig,
    record: RunRecord,
    width: int,
    read: tuple[Mapping[str, Extract], Mapping[str, Sequence[Entry]]] | None,
) -> Guarantee:
    told, validation = record.guarantee, validation_release(config)
    learner = build_learner(config, record.classes, width, len(told.clinics))
    if read is None:
        return guarantee_told(config, record.run, record.participation, learner, validation)
    extracts, ledgers = read
    # In the report's order, so that sums and words come out alike.
    ordered = {name: ledgers[name] for name in told.clinics}
    found = guarantee_from(config, record.run, ordered, learner, validation)
    whole = all(each.whole for each in extracts.values())
    clinics = {
        name: replace(
            spend,
            num_read=told.clinics[name].num_read,
            total_epsilon=spend.total_epsilon if whole else told.clinics[name].total_epsilon,
        )
        for name, spend in found.clinics.items()
    }
    totals = found if whole else told
    return replace(
        found,
        clinics=clinics,
        total_epsilon=totals.total_epsilon,
        total_advantage=totals.total_advantage,
    )


def _figures(
    members: Mapping[str, bytes], record: RunRecord, told: Mapping[str, Any]
) -> Iterator[Check]:
    """Compute figures from released counts; of others, name what a bundle cannot tell."""
    if record.released_counts is not None:
        try:
            config = parse_config(dict(record.config))
            if config.fairness.evaluation != DP_COUNTS:
                yield Check(ANEW, DIFFERS, "released counts, which its settings do not go with")
                return
            yield counts_check(config, record, told)
        except ConfigError:
            yield Check("figures from the released counts", NOT_CHECKED, _OTHER_CONFIG)
        return
    there = read_json(members[CHECKS]).get("checks", [])
    agreed = sum(1 for each in there if list(each)[-1:] == [AGREES])
    said = f"at its maker's, {agreed} of {len(there)} checks of the report agreed"
    yield Check("the figures, from predictions", NOT_CHECKED, f"they stay at the clinics; {said}")
    if record.yardsticks:
        yield Check("the yardsticks", NOT_CHECKED, "they need the images")


def _within(what: str, look: Callable[[], list[Check]]) -> list[Check]:
    """Turn a document of impossible values into a check that differs."""
    try:
        return look()
    except SkinmlError as error:
        return [Check(what, DIFFERS, str(error))]
    except _STRANGE as error:
        return [Check(what, DIFFERS, f"values that no run has ({type(error).__name__})")]


def _same(what: str, told: object, found: object) -> Check:
    return Check(what, AGREES if told == found else DIFFERS, "" if told == found else "another")


def _of(names: Sequence[str] | set[str] | Mapping[str, Any], what: str = "members") -> str:
    return f"{len(names)} {what if len(names) != 1 else what.removesuffix('s')}"


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _fingerprint(archive: Archive) -> str:
    try:
        return fingerprint(archive.key)
    except ValueError:
        return ""
