"""Reading, comparing and changing the policy in a clinic's folder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.durable import locked
from skinml.errors import ConfigError
from skinml.stewardship.policy import Policy, parse_policy, policy_digest, policy_yaml
from skinml.stewardship.policy_terms import (
    Proposal,
    Term,
    compare,
    policy_difference,
    policy_lines,
)

POLICY_FILE = "policy.yaml"
_WHAT = "policy"


@dataclass(frozen=True)
class ShownPolicy:
    """A policy, ready to be shown.

    Attributes:
        clinic: The clinic's name.
        lines: Each value's name and the value in words.
        yaml: The policy as a file to be edited, with a comment at each field.
        values: The policy as plain values.
        digest: What the audit log calls it, 64 hexadecimal digits.
    """

    clinic: str
    lines: tuple[tuple[str, str], ...]
    yaml: str
    values: dict[str, object]
    digest: str


@dataclass(frozen=True)
class PolicyChange:
    """A change that somebody is asked to confirm.

    Attributes:
        new: The policy that shall hold.
        difference: What changes and which way, a line a value; empty where nothing does.
        before: Digest of the policy that was compared.
        after: Digest of the new one.
        originals_left: Original files that lie there and that the new policy does not keep.
    """

    new: Policy
    difference: tuple[str, ...]
    before: str
    after: str
    originals_left: int = 0


@dataclass(frozen=True)
class Comparison:
    """How a proposed run compares with the policy.

    Attributes:
        terms: A line a term.
        refused: Names of the terms that the policy does not allow.
    """

    terms: tuple[Term, ...]
    refused: tuple[str, ...]


def show_policy(folder: ClinicFolder) -> ShownPolicy:
    """Read the policy that holds.

    Args:
        folder: The clinic's folder.

    Returns:
        The policy.

    Raises:
        PolicyError: If the user may not read it.
    """
    require_role(folder, "policy.read")
    policy = folder.policy
    return ShownPolicy(
        clinic=policy.clinic,
        lines=policy_lines(policy),
        yaml=policy_yaml(policy),
        values=policy.model_dump(mode="json"),
        digest=policy_digest(policy),
    )


def compare_proposal(folder: ClinicFolder, proposal: Proposal) -> Comparison:
    """Hold a proposed run against the policy that holds.

    Args:
        folder: The clinic's folder.
        proposal: What is asked for.

    Returns:
        The comparison.

    Raises:
        PolicyError: If the user may not read the policy.
    """
    require_role(folder, "policy.read")
    terms = compare(folder.policy, proposal)
    return Comparison(terms, tuple(term.name for term in terms if term.verdict == "refused"))


def plan_change(folder: ClinicFolder, content: bytes) -> PolicyChange:
    """Say what a new policy would change.

    Args:
        folder: The clinic's folder.
        content: The new policy's bytes, YAML.

    Returns:
        The change; nothing is written yet.

    Raises:
        ConfigError: If the new policy is no policy, or another clinic's.
        IntegrityError: If the register of pictures was changed.
        PolicyError: If the user may not change the policy.
    """
    require_role(folder, "policy.change")
    old, new = folder.policy, parse_policy(content)
    if new.clinic != folder.name:
        raise ConfigError(
            rule=f"a policy of clinic {folder.name}",
            got=f"clinic={new.clinic}",
            do="Write this clinic's name into the file, if the rest is meant for it.",
        )
    return PolicyChange(
        new=new,
        difference=policy_difference(old, new),
        before=policy_digest(old),
        after=policy_digest(new),
        originals_left=len(folder.pictures.originals()) if new.originals == "drop" else 0,
    )


def apply_change(folder: ClinicFolder, change: PolicyChange, *, now: datetime) -> None:
    """Put a planned change in force.

    Args:
        folder: The clinic's folder.
        change: What `plan_change` said.
        now: The time of the change, for the audit log.

    Raises:
        ConfigError: If the policy is no longer the one that was compared.
        EnvironmentProblem: If a file cannot be written.
        IntegrityError: If the policy, its anchor or the audit log was changed.
        PolicyError: If the user may not change the policy.
    """
    user = require_role(folder, "policy.change")
    put_in_force(folder, change.new, user, now=now, expected=change.before)


def put_in_force(
    folder: ClinicFolder, new: Policy, actor: str, *, now: datetime, expected: str | None = None
) -> None:
    """Replace a clinic's policy; whether the actor may is the caller's question.

    Args:
        folder: The clinic's folder.
        new: The new policy.
        actor: Who decided it.
        now: The time of the change, for the audit log.
        expected: Digest of the policy that is replaced; None: whichever holds.

    Raises:
        ConfigError: If another policy holds than the expected one.
        EnvironmentProblem: If a file cannot be written.
        IntegrityError: If the policy, its anchor or the audit log was changed.

    Guarantees:
        No policy comes into force without an entry in the audit log. Killed at any moment, the
        folder has the old policy or the new one, whole; where only the entry was written, the
        next change says first which policy held.
    """
    path = folder.path / POLICY_FILE
    with locked(folder.path / f".{POLICY_FILE}.lock", _WHAT):
        old = parse_policy(folder.anchors.read(path, _WHAT))
        before, after = policy_digest(old), policy_digest(new)
        if expected not in (None, before):
            raise ConfigError(
                rule="the policy that the new one was compared with",
                got="another one, changed in the meantime",
                do="Look at the difference again: skinml clinic policy change FILE --folder FOLDER",
            )
        if before == after:
            return
        logged = _last_logged(folder)
        if logged not in (None, before):  # a crash came between an entry and its change
            folder.audit.write("policy changed", actor, now=now, before=logged, after=before)
        changes = len(policy_difference(old, new))
        folder.audit.write(
            "policy changed", actor, now=now, before=before, after=after, changes=changes
        )
        folder.anchors.replace(path, policy_yaml(new).encode(), _WHAT)


def _last_logged(folder: ClinicFolder) -> str | None:
    """Find the policy that the audit log named last as the one that came into force."""
    for entry in reversed(folder.audit.entries()):
        if entry.event == "policy changed":
            return str(entry.fields["after"])
    return None
