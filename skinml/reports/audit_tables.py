"""The audit's findings as tables of ready-made words, for the page and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite

from skinml.privacy.audit.findings import CanaryFinding, NotAudited, ReplayFinding
from skinml.privacy.audit.inversion import InversionFinding
from skinml.privacy.audit.membership import MembershipFinding
from skinml.privacy.audit.record import TIERS, AuditRecord, Finding, flagged, tier_of
from skinml.records import UNKNOWN_GROUP, Estimate
from skinml.reports.audit_figures import Line, png_uri, roc_svg
from skinml.reports.numbers import count, figure
from skinml.reports.sections import Plot
from skinml.reports.view import Cell, Row, Table

TITLES = {
    "T0": "T0: the same run again without one patient",
    "T1": "T1: planted patients, everything that leaves is seen",
    "T2": "T2: planted patients, only the model is seen",
    "T3": "T3: who was in training?",
    "inversion": "Getting a patient back from an update",
}
_OK, _FLAGGED, _NO_RULE, _SHOWN = (
    "within",
    "FLAGGED",
    "no promise to hold it to",
    "shown, not judged",
)
_PERCENT = 100


@dataclass(frozen=True)
class Verdict:
    """One line of the summary.

    Attributes:
        tier: The tier.
        what: What was tried.
        found: What was found.
        allowed: What the promise allows; empty where it says nothing.
        flagged: Whether it contradicts the promise.
    """

    tier: str
    what: str
    found: str
    allowed: str
    flagged: bool

    @property
    def words(self) -> str:
        """The outcome in a word or two."""
        if self.tier == "inversion":
            return _SHOWN
        return _FLAGGED if self.flagged else _OK if self.allowed else _NO_RULE

    @property
    def promised(self) -> str:
        """What the promise allows, in words where it is no number."""
        if self.tier == "inversion":
            return "says nothing of it"
        return self.allowed or "nothing"


def verdicts(record: AuditRecord) -> tuple[Verdict, ...]:
    """Condense findings to the few lines that a reader needs first.

    Args:
        record: What was found.

    Returns:
        Lines in the order of the tiers: the worst release of each replayed recipe, each canary
        run, both membership attacks on everybody, each view of an inversion.
    """
    found: list[Verdict] = []
    replays = [each for each in record.findings if isinstance(each, ReplayFinding)]
    for (recipe, trust), group in groupby(replays, key=lambda each: (each.recipe, each.trust)):
        found.append(_replayed(recipe, trust, list(group)))
    for each in record.findings:
        if not isinstance(each, ReplayFinding) and _in_summary(each):
            found.append(_verdict(each))
    return tuple(sorted(found, key=lambda verdict: TIERS.index(verdict.tier)))


def _in_summary(finding: Finding) -> bool:
    return not isinstance(finding, MembershipFinding) or finding.attribute == "overall"


def _replayed(recipe: str, trust: str, findings: Sequence[ReplayFinding]) -> Verdict:
    worst = max(findings, key=_part)
    problems = [each.problem for each in findings if each.problem]
    notes = dict.fromkeys(each.note for each in findings if each.note)
    return Verdict(
        "T0",
        ", ".join((recipe, f"trust {trust}", *notes)),
        problems[0] if problems else f"{_part(worst):.3f} of the sensitivity",
        "1",
        any(each.flagged for each in findings),
    )


def _part(finding: ReplayFinding) -> float:
    return finding.distance / finding.sensitivity if finding.sensitivity > 0 else 0.0


def _verdict(finding: Finding) -> Verdict:
    tier, wrong = tier_of(finding), flagged(finding)
    match finding:
        case CanaryFinding():
            estimate = f"; best guess {finding.estimate:.2f}" if isfinite(finding.estimate) else ""
            said = f"epsilon at least {finding.lower_limit:.2f}{estimate}"
            allowed = _promised(finding.epsilon)
            return Verdict(tier, f"{finding.recipe}, {finding.seen}", said, allowed, wrong)
        case MembershipFinding():
            kind = "not private" if finding.trust == "none" else f"trust {finding.trust}"
            said = f"AUC {figure(finding.auc.value, 3)}; epsilon at least {finding.lower_limit:.2f}"
            return Verdict(
                tier, f"{finding.attack}, {kind}", said, _promised(finding.epsilon), wrong
            )
        case InversionFinding():
            said = f"the right one at place {finding.place:.3g} of {finding.num_candidates}"
            return Verdict(tier, finding.seen, said, "", wrong)
        case ReplayFinding():
            return _replayed(finding.recipe, finding.trust, [finding])


def _promised(epsilon: float) -> str:
    return f"{epsilon:.3f}" if isfinite(epsilon) else ""


def summary_table(record: AuditRecord) -> Table:
    """Make the first table of the page.

    Args:
        record: What was found.

    Returns:
        A line for each verdict.
    """
    rows = tuple(
        Row(
            f"{each.tier}: {each.what}",
            (Cell(each.found), Cell(each.promised), Cell(each.words)),
        )
        for each in verdicts(record)
    )
    return Table("What was tried, and what came of it", _SUMMARY, rows)


_SUMMARY = ("What was tried", "What was found", "The promise", "Outcome")


def tier_tables(record: AuditRecord, tier: str) -> tuple[Table, ...]:
    """Make the tables of one tier.

    Args:
        record: What was found.
        tier: Which tier.

    Returns:
        Its tables; none where it has no findings.
    """
    findings = record.of_tier(tier)
    if not findings:
        return ()
    if tier == "T0":
        return (_replay_table([each for each in findings if isinstance(each, ReplayFinding)]),)
    if tier == "T3":
        return _membership_tables(
            [each for each in findings if isinstance(each, MembershipFinding)]
        )
    if tier == "inversion":
        return (
            _inversion_table([each for each in findings if isinstance(each, InversionFinding)]),
        )
    return (_canary_table([each for each in findings if isinstance(each, CanaryFinding)]),)


def _replay_table(findings: Sequence[ReplayFinding]) -> Table:
    changes = {"removed": "one patient left out", "copied": "one patient's images 16 times"}
    rows = tuple(
        Row(
            f"{each.recipe}, {each.trust}: {each.release.replace('_', ' ')}",
            (
                Cell("" if each.release == "schedule" else f"{each.distance:.6g}", each.problem),
                Cell("equal" if each.release == "schedule" else f"{each.sensitivity:.6g}"),
                Cell(count(each.num_compared)),
                Cell(_FLAGGED if each.flagged else _OK),
            ),
            "; ".join(filter(None, (changes[each.change], each.note))),
        )
        for each in findings
    )
    columns = ("Release", "Moved by at most", "Declared sensitivity", "Compared", "Outcome")
    return Table("How far one patient moved each release", columns, rows)


def _canary_table(findings: Sequence[CanaryFinding]) -> Table:
    rows = tuple(
        Row(
            f"{each.recipe}, {each.trust}",
            (
                Cell(f"{each.one_run_bound:.2f}", f"refined {each.refined_bound:.2f}"),
                Cell(f"{each.estimate:.2f}" if isfinite(each.estimate) else "none"),
                Cell(f"{each.lower_limit:.2f}", f"{each.confidence:.1%} sure"),
                Cell(_promised(each.epsilon) or "nothing"),
                Cell(_FLAGGED if each.flagged else _OK, f"AUC {each.auc:.3f}"),
            ),
            f"{count(each.num_canaries)} planted patients; seen: {each.seen}",
        )
        for each in findings
    )
    columns = ("Recipe", "Lower bound", "Best guess", "Limit that flags", "Ledger", "Outcome")
    return Table("Epsilon as planted patients betray it", columns, rows)


def _membership_tables(findings: Sequence[MembershipFinding]) -> tuple[Table, ...]:
    tables = []
    for (attack, trust), group in groupby(findings, key=lambda each: (each.attack, each.trust)):
        kind = "without privacy" if trust == "none" else f"with trust {trust}"
        lines = list(group)
        rates = tuple(caught.false_positive_rate for caught in lines[0].caught)
        columns = (
            "Patients",
            "AUC",
            *(f"Found at {rate:.1%} false positives" for rate in rates),
        )
        rows = tuple(_membership_row(each) for each in lines)
        tables.append(Table(f"{attack} on models trained {kind}", columns, rows))
    return tuple(tables)


def _membership_row(finding: MembershipFinding) -> Row:
    name = "everybody" if finding.attribute == "overall" else f"skin tone {finding.group}"
    if finding.group == UNKNOWN_GROUP:
        name = "skin tone not known"
    cells = [Cell(figure(finding.auc.value, 3), _limits(finding.auc, 3, 1))]
    cells += [
        Cell(_share(caught.found.value), _limits(caught.found, 1, _PERCENT))
        for caught in finding.caught
    ]
    if finding.attribute != "overall":
        return Row(name, tuple(cells), f"{count(finding.num_patients)} patients")
    most = "; ".join(
        [f"AUC {finding.most_auc:.3f}"] + [_share(caught.most) for caught in finding.caught]
    )
    note = f"{count(finding.num_patients)} patients"
    if isfinite(finding.epsilon):
        note += f". At most possible at epsilon {finding.epsilon:.3g}: {most}"
    return Row(name, tuple(cells), note)


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1%}"


def _limits(estimate: Estimate, decimals: int, scale: float) -> str:
    if estimate.low is None or estimate.high is None:
        return estimate.reason
    return f"{estimate.low * scale:.{decimals}f} to {estimate.high * scale:.{decimals}f}"


def _inversion_table(findings: Sequence[InversionFinding]) -> Table:
    names = list(findings[0].likeness)
    rows = tuple(
        Row(
            each.seen,
            (
                Cell("; ".join(each.under)),
                Cell(f"{each.noise:.3g}"),
                *(
                    Cell(f"{each.likeness[name]:.3g}", f"without an update {bare:.3g}")
                    for name, bare in each.unrelated.items()
                ),
                Cell(f"{each.place:.3g}", f"of {count(each.num_candidates)}"),
            ),
            f"{count(each.num_attacked)} patients attacked, {count(each.num_updates)} updates each",
        )
        for each in findings
    )
    measures = tuple(_LIKENESS[name] for name in names)
    columns = ("What is seen", "Under which trust", "Noise", *measures, "Place of the right one")
    return Table("What an attacker gets back", columns, rows)


_LIKENESS = {"psnr": "PSNR in dB", "ssim": "SSIM", "cosine": "Cosine"}


def missing_table(missing: Sequence[NotAudited]) -> Table:
    """Make the table of what was not audited.

    Args:
        missing: What was not.

    Returns:
        A line each.
    """
    rows = tuple(Row(f"{each.tier}: {each.what}", (Cell(each.why),)) for each in missing)
    return Table("What was not audited, and why", ("What", "Why"), rows)


def roc_plots(record: AuditRecord) -> tuple[Plot, ...]:
    """Draw the membership attacks on everybody.

    Args:
        record: What was found.

    Returns:
        A plot an attack: the private models, those without privacy, chance.
    """
    curves = [each for each in record.findings if isinstance(each, MembershipFinding) and each.roc]
    diagonal = tuple((10 ** (-3 + place / 20),) * 2 for place in range(61))
    plots = []
    for attack in dict.fromkeys(each.attack for each in curves):
        lines = [Line("chance", diagonal, "currentColor", "2 4")]
        for each in (one for one in curves if one.attack == attack):
            bare = each.trust == "none"
            if each.most_roc:
                title = "most that epsilon allows"
                lines.append(Line(title, each.most_roc, "var(--green)", "1 0"))
            lines.append(
                Line(
                    "without privacy" if bare else f"trust {each.trust}",
                    each.roc,
                    "var(--vermillion)" if bare else "var(--blue)",
                    "7 3" if bare else "",
                )
            )
        names = ", ".join(line.title for line in lines)
        plots.append(Plot(attack, roc_svg(lines, f"ROC curves of {attack}: {names}")))
    return tuple(plots)


@dataclass(frozen=True)
class Shown:
    """A picture of the page.

    Attributes:
        title: What it shows.
        uri: The picture itself.
        side: Its width in pixels.
    """

    title: str
    uri: str
    side: int


def picture_rows(record: AuditRecord) -> tuple[tuple[Shown, ...], ...]:
    """Put the pictures of each attacked patient into a row.

    Args:
        record: What was found.

    Returns:
        Rows of pictures; none where none may be shown.
    """
    rows: dict[int, list[Shown]] = {}
    for each in record.pictures:
        shown = Shown(each.title, png_uri(each.pixels), int(each.pixels.shape[1]))
        rows.setdefault(each.row, []).append(shown)
    return tuple(tuple(row) for row in rows.values())
