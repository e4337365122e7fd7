"""A clinic's folder: everything that it keeps, opened only where all of it is as it was written.

FOLDER/
  clinic.json            whose it is, how its key is unlocked, where its anchor is
  policy.yaml            what may be done here, by whom
  keys/                  the clinic's key, wrapped; the key that signs the audit log, sealed
  consent.journal        who agreed to what
  audit.journal          what happened
  ledger.jsonl           what was released, one line a release
  vault/                 a key a patient, and what is sealed under it
  pictures.journal       the state of each imported picture
  erasure.sealed         an erasure that was begun and is not ended
  correction.sealed      a correction that was begun and is not ended
  restriction.sealed     a restriction that was begun and is not ended
  retention.sealed       an end of retention that was begun and is not ended
  requests.sealed        what patients have asked for, and by when
  certificates/          what was removed, signed
  inspections.sealed     digests and perceptual hashes of its images
  features/VERSION.store what frozen networks made of its images
  runs/RUN/              a run's samples, predictions and record of contributions

The anchor, which shows a folder that was set back to an older copy, is a file elsewhere.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path

from skinml.clinic.identity import (
    FILE,
    Identity,
    identity_bytes,
    key_check,
    new_id,
    read_identity,
    require_sealed,
)
from skinml.clinic.permissions import group_number, require_private
from skinml.durable import cannot, make_folder, read_whole, share, write_whole
from skinml.errors import EnvironmentProblem, IntegrityError
from skinml.journal import Journal, KeyedSeal
from skinml.privacy.ledger import Ledger
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.audit_log import AuditLog
from skinml.stewardship.consent import ConsentRegister
from skinml.stewardship.encryption import (
    derive_key,
    keyed_digest,
    new_key,
    read_key,
    seal,
    unseal,
    write_key,
)
from skinml.stewardship.passphrases import SecretSource
from skinml.stewardship.patient_keys import PatientKeys
from skinml.stewardship.pictures import PictureRegister
from skinml.stewardship.policy import Policy, parse_policy, policy_digest, policy_yaml
from skinml.stewardship.roles import os_user
from skinml.stewardship.signing import new_signing_key, public_key_hex
from skinml.stewardship.unlocking import (
    Unlock,
    forget_secret,
    make_secret,
    packed,
    unpacked,
    unwrap,
    wrap,
)
from skinml.stewardship.vault import Vault

POLICY_FILE = "policy.yaml"
LOCKED_KEY = "clinic.locked"
_SIGNING = "signing.sealed"
_OPEN_KEY = "key"
# A run asks for the policy in each round: the same bytes are parsed once.
_parsed = lru_cache(maxsize=8)(parse_policy)


@dataclass(frozen=True)
class ClinicFolder:
    """An opened folder.

    Attributes:
        path: The folder.
        identity: Whose it is.
        key: The clinic's key; never logged, never sent.
    """

    path: Path
    identity: Identity
    key: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The clinic's name."""
        return self.identity.name

    @property
    def lock(self) -> Unlock | None:
        """What the clinic's key is locked with; None where it lies in the folder as it is.

        Raises:
            IntegrityError: If it was changed: what it names may be removed.
        """
        path = self.path / "keys" / LOCKED_KEY
        return unpacked(self.anchors.read(path, "locked key"))[0] if path.exists() else None

    @property
    def policy(self) -> Policy:
        """The policy, read anew each time.

        Raises:
            IntegrityError: If it is missing or changed.
        """
        return _parsed(self.anchors.read(self.path / POLICY_FILE, "policy"))

    @cached_property
    def anchors(self) -> Anchors:
        """What the folder's files looked like last."""
        place = Path(os.path.normpath(self.path / self.identity.anchor))
        return Anchors(place, self.identity.id, self.key)

    @cached_property
    def consents(self) -> ConsentRegister:
        """The register of consents."""
        seal_of_lines = KeyedSeal(derive_key(self.key, "consent journal"))
        journal = Journal(
            self.path / "consent.journal",
            f"consent register of clinic {self.name}",
            seal_of_lines,
            self.anchors.journal("consent"),
        )
        return ConsentRegister(journal, self.key)

    @cached_property
    def audit(self) -> AuditLog:
        """The audit log."""
        anchor = self.anchors.journal("audit")
        return AuditLog(self.path / "audit.journal", self.identity.id, self.signing_key, anchor)

    @cached_property
    def signing_key(self) -> bytes:
        """The key that signs for the clinic, 32 bytes; never logged, never sent.

        Raises:
            IntegrityError: If it is missing, or not that of the clinic's public key.
        """
        path = self.path / "keys" / _SIGNING
        if not path.exists():
            raise _not_its_own("signing key", "no file")
        sealed = read_whole(path, "signing key")
        try:
            signing = unseal(self.key, sealed, context=_signing_context(self.identity.id))
        except IntegrityError:
            raise _not_its_own("signing key") from None
        if public_key_hex(signing) != self.identity.public_key:
            raise _not_its_own("signing key")
        return signing

    @cached_property
    def ledger(self) -> Ledger:
        """The privacy ledger."""
        key, anchor = derive_key(self.key, "ledger"), self.anchors.journal("ledger")
        return Ledger(self.path / "ledger.jsonl", self.name, key, anchor)

    @cached_property
    def patient_keys(self) -> PatientKeys:
        """One key a patient: what is sealed under it is erased with it."""
        return PatientKeys(self.path / "vault" / "keys.sealed", self.key, self.anchors)

    @cached_property
    def vault(self) -> Vault:
        """Images and the table of pseudonyms, under the patients' keys."""
        return Vault(self.path / "vault", self.patient_keys)

    @cached_property
    def pictures(self) -> PictureRegister:
        """The register of imported pictures."""
        journal = Journal(
            self.path / "pictures.journal",
            f"register of pictures of clinic {self.name}",
            KeyedSeal(derive_key(self.key, "pictures journal")),
            self.anchors.journal("pictures"),
        )
        return PictureRegister(journal, self.patient_keys, derive_key(self.key, "pictures"))

    @property
    def inspections(self) -> Path:
        """Where what is known of its images is kept."""
        return self.path / "inspections.sealed"

    @property
    def features(self) -> Path:
        """The folder of what networks made of its images."""
        return self.path / "features"

    def run(self, run: str) -> Path:
        """Name the folder of one run.

        Args:
            run: The run's id.

        Returns:
            The folder.
        """
        return self.path / "runs" / run

    def secret_number(self, purpose: str) -> int:
        """Derive a secret number from the clinic's key.

        Args:
            purpose: What it is for; another purpose gives an unrelated number.

        Returns:
            A number below 2**128.
        """
        return int(keyed_digest(self.key, purpose.encode())[:32], 16)


def create_folder(
    path: Path,
    *,
    name: str,
    policy: Policy,
    anchors: Path,
    unlock: Unlock | None = None,
    source: SecretSource | None = None,
    group: str | None = None,
    virtual: bool = False,
) -> ClinicFolder:
    """Make the folder of a new clinic, whole or not at all.

    Args:
        path: The folder; it must not exist, or be empty.
        name: The clinic's name.
        policy: Its first policy.
        anchors: The folder of anchors, best on another disk.
        unlock: What its key shall be locked with, a new secret; None leaves it in the folder as
            it is, for clinics that exist only in simulations.
        source: Gives the passphrase, where one is needed.
        group: A Unix group that shares the folder.
        virtual: Whether the clinic exists only in simulations.

    Returns:
        The opened folder.

    Raises:
        ConfigError: If the passphrase is too short.
        EnvironmentProblem: If the folder is not empty or cannot be written, there is a secret
            already where the new one shall be, or no such group.
    """
    key, signing, clinic_id = new_key(), new_signing_key(), new_id()
    draft = path.parent / f".{path.name}.{clinic_id}.draft"
    number = group_number(group)
    for place in (anchors, draft):
        make_folder(place, "clinic's folder")
        if number is not None:
            share(place, number)  # what is made in them is shared as they are
    for part in ("keys", "features", "runs", "vault"):
        make_folder(draft / part, "clinic's folder")
    anchor, locked_key = anchors / f"{clinic_id}.json", None
    try:
        locked_key = _lock(key, draft / "keys", unlock, source)
        identity = Identity(
            name=name,
            id=clinic_id,
            public_key=public_key_hex(signing),
            key_check=key_check(key, clinic_id),
            anchor=anchor_place(path, anchor, relative=virtual),
            group=group,
            virtual=virtual,
        )
        folder = ClinicFolder(draft, identity, key)
        folder.anchors.create()
        sealed = seal(key, signing, context=_signing_context(clinic_id))
        write_whole(draft / "keys" / _SIGNING, sealed, "signing key")
        folder.anchors.replace(draft / FILE, identity_bytes(identity, key), "clinic.json")
        if locked_key is not None:
            folder.anchors.replace(draft / "keys" / LOCKED_KEY, locked_key, "locked key")
        folder.anchors.replace(draft / POLICY_FILE, policy_yaml(policy).encode(), "policy")
        folder.audit.write(
            "folder created",
            os_user(),
            now=datetime.now(UTC),
            public_key=identity.public_key,
            policy=policy_digest(policy),
            simulated=virtual,
        )
        _put_in_place(draft, path)
    except BaseException:  # whatever it is, nothing of a clinic that never was stays
        shutil.rmtree(draft, ignore_errors=True)
        for left in anchors.glob(f"*{clinic_id}*"):
            left.unlink(missing_ok=True)
        if unlock is not None and locked_key is not None:  # made above, not found there
            forget_secret(unlock)
        raise
    return ClinicFolder(path, identity, key)


def _lock(
    key: bytes, keys: Path, unlock: Unlock | None, source: SecretSource | None
) -> bytes | None:
    """Lock the key with a new secret; give what is to be written, or None where it lies open."""
    if unlock is None:
        write_key(keys / _OPEN_KEY, key)
        return None
    return locked_anew(key, unlock, source or _no_source)


def locked_anew(key: bytes, unlock: Unlock, source: SecretSource) -> bytes:
    """Lock a clinic's key with a new secret.

    Args:
        key: The clinic's key.
        unlock: What to lock it with.
        source: Gives the new passphrase, where one is needed.

    Returns:
        The content of the file of the locked key.

    Raises:
        ConfigError: If the passphrase is too short.
        EnvironmentProblem: If there is a secret already where the new one shall be.
    """
    make_secret(unlock)
    try:
        return packed(unlock, wrap(key, unlock, source))
    except BaseException:  # a secret that locks nothing would be in the way of the next try
        forget_secret(unlock)
        raise


def _unlock(keys: Path, source: SecretSource | None) -> bytes:
    if (keys / _OPEN_KEY).exists():
        return read_key(keys / _OPEN_KEY)
    unlock, wrapped = unpacked(read_whole(keys / LOCKED_KEY, "locked key"))
    return unwrap(wrapped, unlock, source or _no_source)


def _no_source() -> str:
    raise EnvironmentProblem(
        rule="a passphrase for this clinic's key",
        got="nobody to ask for it",
        do="Start skinml in a terminal, or name a private file in SKINML_PASSPHRASE_FILE.",
    )


def anchor_place(folder: Path, anchor: Path, *, relative: bool) -> str:
    """Write down where the anchors are.

    Args:
        folder: The clinic's folder.
        anchor: The anchors' file.
        relative: Whether from the folder: a simulation's working folder may be moved as a whole.

    Returns:
        The place, as `Identity.anchor` holds it.
    """
    if relative:
        return os.path.relpath(anchor.resolve(), folder.parent.resolve() / folder.name)
    return str(anchor.resolve())


def _put_in_place(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)  # an empty folder is replaced
    except OSError as error:
        if path.exists():
            raise EnvironmentProblem(
                rule="an empty folder, or none yet, for a new clinic",
                got=f"folder={path} with something in it",
                do="Choose another folder, or move away what is there.",
            ) from None
        raise cannot("make", "clinic's folder", error) from error


def open_folder(path: Path, source: SecretSource | None = None) -> ClinicFolder:
    """Open a clinic's folder, if everything in it is as it was written.

    Args:
        path: The folder.
        source: Gives the passphrase, where one is needed.

    Returns:
        The folder.

    Raises:
        ConfigError: If it is no clinic's folder.
        EnvironmentProblem: If others can open it, or its key cannot be unlocked.
        IntegrityError: If anything in it was changed, or set back to an older copy.

    Guarantees:
        Identity, locked key, policy, registers of consents and pictures, ledger, audit log and the
        vault's keys were verified against the clinic's key and the anchor.
    """
    identity, key = unlocked(path, source)
    folder = ClinicFolder(path, identity, key)
    folder.anchors.read(path / FILE, "clinic.json")
    folder.lock, folder.policy  # noqa: B018  reading them is the check
    folder.audit.mark()
    folder.ledger.mark()
    folder.consents.mark()
    folder.pictures.mark()
    folder.vault.require_intact()
    return folder


def unlocked(path: Path, source: SecretSource | None = None) -> tuple[Identity, bytes]:
    """Read whose a folder is and unlock its key; nothing else of it is verified.

    Args:
        path: The folder.
        source: Gives the passphrase, where one is needed.

    Returns:
        The identity, which the key vouches for, and the key.

    Raises:
        ConfigError: If it is no clinic's folder.
        EnvironmentProblem: If others can open it, or its key cannot be unlocked.
        IntegrityError: If the key is another one, or the identity was changed.
    """
    identity = read_identity(path)
    require_private(path, identity.group)
    key = _unlock(path / "keys", source)
    require_sealed(path, identity, key)
    return identity, key


def _signing_context(clinic_id: str) -> bytes:
    return f"signing key of clinic {clinic_id}".encode()


def _not_its_own(what: str, got: str = "another content") -> IntegrityError:
    return IntegrityError(
        rule=f"the {what} of this clinic as it was written",
        got=got,
        do="Restore the folder 'keys' from a backup.",
    )
