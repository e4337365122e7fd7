"""A finished audit: what the page, the command line and its JSON are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skinml.privacy.audit.findings import CanaryFinding, NotAudited, ReplayFinding
from skinml.privacy.audit.inversion import InversionFinding, Picture
from skinml.privacy.audit.membership import MembershipFinding

TIERS = ("T0", "T1", "T2", "T3", "inversion")

Finding = ReplayFinding | CanaryFinding | MembershipFinding | InversionFinding


@dataclass(frozen=True, eq=False, repr=False)
class AuditRecord:
    """Everything that an audit may show to those who may see the clinics' data.

    Attributes:
        audit: The audit's id.
        experiment: The experiment's name.
        started: When it began, ISO 8601, UTC.
        wall_s: Seconds that it took.
        tiers: The tiers that were asked for, in order.
        private: Whether the experiment promises anything.
        trust: Its trust model.
        unit: Whose data are protected as a whole.
        unit_stands_for: What the data's patient_id stands for.
        epsilon: What the experiment charges to a ledger; infinite without a promise.
        delta: The delta that it is read at.
        data: Name of the data and on which ground they are used.
        findings: What was found, tier by tier.
        not_audited: What was not, and why.
        notes: What a reader must know of a tier, by its name.
        pictures: Pictures of the inversion; empty where none may be shown.
        config: The whole validated config as plain values.
        versions: Of skinml and the libraries that it stands on.
    """

    audit: str
    experiment: str
    started: str
    wall_s: float
    tiers: tuple[str, ...]
    private: bool
    trust: str
    unit: str
    unit_stands_for: str
    epsilon: float
    delta: float
    data: Mapping[str, str]
    findings: tuple[Finding, ...]
    not_audited: tuple[NotAudited, ...]
    notes: Mapping[str, str]
    pictures: tuple[Picture, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def flagged(self) -> bool:
        """Whether anything contradicts the promise; an inversion contradicts none by itself."""
        return any(flagged(each) for each in self.findings)

    def of_tier(self, tier: str) -> tuple[Finding, ...]:
        """Choose the findings of a tier.

        Args:
            tier: One of `TIERS`.

        Returns:
            Its findings, in order.
        """
        return tuple(each for each in self.findings if tier_of(each) == tier)


def tier_of(finding: Finding) -> str:
    """Tell a finding's tier.

    Args:
        finding: Any finding.

    Returns:
        One of `TIERS`.
    """
    match finding:
        case ReplayFinding():
            return "T0"
        case CanaryFinding():
            return finding.tier
        case MembershipFinding():
            return "T3"
        case InversionFinding():
            return "inversion"


def flagged(finding: Finding) -> bool:
    """Tell whether a finding contradicts the promise.

    Args:
        finding: Any finding.

    Returns:
        Its flag; an inversion has none.
    """
    return not isinstance(finding, InversionFinding) and finding.flagged
