"""The runs that a clinic is asked for, as the page at its desk shows and answers them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.review_runs import Allowance, AskedRun, DoneRun, RunCard, RunsBoard
from skinml.clinic.status import Status, status_of
from skinml.deployment.card import card_of
from skinml.deployment.card_words import different_terms, sections_of, standing_of, terms_within
from skinml.deployment.joining import find_membership
from skinml.deployment.node import is_served
from skinml.deployment.proposals import WORDS, Proposed, all_proposed, answer, states
from skinml.privacy.allowance import epsilon_left
from skinml.privacy.ledger import Entry, entries_of_year, spent
from skinml.stewardship.roles import allowed, os_user

_MOST_ASKED = 20
_MOST_DONE = 5


class ClinicRuns:
    """Shows and answers the runs that one clinic is asked for.

    Args:
        folder: The clinic's opened folder.

    Guarantees:
        An answer holds only for the proposal that was shown, word for word, and is in the audit
        log before it holds.
    """

    def __init__(self, folder: ClinicFolder) -> None:
        self._folder = folder

    def waiting(self, now: datetime) -> int:
        """Count the runs that wait for an answer.

        Args:
            now: The time, with its zone.

        Returns:
            How many there are.

        Raises:
            IntegrityError: If the folder was changed.
        """
        return sum(each == "pending" for each in states(self._folder, now=now).values())

    def board(self, now: datetime) -> RunsBoard:
        """Tell how the clinic stands: budget, consents, runs.

        Args:
            now: The time, with its zone.

        Returns:
            The board, as far as the user may know.

        Raises:
            IntegrityError: If the folder was changed.
            PolicyError: If the user has no role here; the audit log says so.
        """
        folder, user = self._folder, os_user()
        status, member = status_of(folder, now), find_membership(folder)
        entries = () if status.spent is None else folder.ledger.entries()
        return RunsBoard(
            status=status,
            federation="" if member is None else member.federation,
            served=member is not None and is_served(folder),
            allowances=_allowances(status, entries, now),
            asked=_asked(all_proposed(folder, now=now), now),
            done=None if status.spent is None else _done(entries, status.spent.delta),
            may_answer=allowed(folder.policy.roles, user, "run.approve"),
        )

    def card(self, run: str, now: datetime) -> RunCard:
        """Draw up the card of a run.

        Args:
            run: The run's id.
            now: The time, with its zone.

        Returns:
            The card.

        Raises:
            ConfigError: If nobody asked for such a run, or its config does not fit this release.
            IntegrityError: If the folder was changed.
            PolicyError: If the user may not approve runs; the audit log says so.
        """
        card = card_of(self._folder, run, now=now)
        found = card.proposed
        open_still = now < found.proposal.expires
        return RunCard(
            run=found.proposal.run,
            digest=found.proposal.digest,
            sections=sections_of(card, config="at the end of this page"),
            terms=different_terms(card),
            within=terms_within(card),
            config=card.config,
            standing=standing_of(card),
            stands=found.state,
            may_yes=open_still and not card.refused and found.answer not in ("yes", "rule"),
            may_no=open_still and found.answer != "no",
        )

    def answer(self, run: str, yes: bool, seen: str) -> None:
        """Answer a proposal.

        Args:
            run: The run's id.
            yes: The answer.
            seen: Digest of the proposal that was shown.

        Raises:
            BudgetExceededError, PolicyError: If the user may not approve runs, or the answer is
                yes and the policy says no, or the proposal has expired.
            ConfigError: If nobody asked for such a run, or another proposal came in the meantime.
            IntegrityError: If the folder was changed.
        """
        answer(self._folder, run, yes, expected=seen)


def _allowances(
    status: Status, entries: tuple[Entry, ...], now: datetime
) -> tuple[Allowance, ...] | None:
    """Hold what is spent against the policy; None where the user may not read the ledger."""
    told, limits = status.spent, status.policy.privacy
    if told is None:
        return None

    def left(held: Sequence[Entry], ceiling: float | None) -> float | None:
        return epsilon_left(held, ceiling, told.delta) if ceiling else None

    year, life = limits.max_epsilon_per_year, limits.max_epsilon_for_life
    return (
        Allowance("the latest run", told.run, limits.max_epsilon_per_run, None),
        Allowance("this year", told.year, year, left(entries_of_year(entries, now), year)),
        Allowance("ever", told.life, life, left(entries, life)),
    )


def _asked(found: tuple[Proposed, ...], now: datetime) -> tuple[AskedRun, ...]:
    """List what was asked for: what waits first, then the newest first."""
    newest = sorted(found, key=lambda each: each.received, reverse=True)
    ordered = sorted(newest, key=lambda each: each.state != "pending")
    return tuple(
        AskedRun(
            run=each.proposal.run,
            who=each.proposal.coordinator,
            until=f"{each.proposal.expires.astimezone(UTC):%d %b %Y, %H:%M} UTC",
            stands=_stands(each, now),
            waits=each.state == "pending",
        )
        for each in ordered[:_MOST_ASKED]
    )


def _stands(found: Proposed, now: datetime) -> str:
    if found.answer != "no" and now >= found.proposal.expires:
        return "over" if found.answer else "expired without an answer"
    by = f" by {found.actor}" if found.answer in ("yes", "no") else ""
    return WORDS[found.state] + (" by rule" if found.answer == "rule" else by)


def _done(entries: tuple[Entry, ...], delta: float) -> tuple[DoneRun, ...]:
    """Add up the last runs, the newest first."""
    by_run: dict[str, list[Entry]] = {}
    for entry in entries:
        by_run.setdefault(entry.binding.run, []).append(entry)
    return tuple(
        DoneRun(run=run, day=held[-1].time[:10], releases=len(held), epsilon=spent(held, delta))
        for run, held in reversed(list(by_run.items())[-_MOST_DONE:])
    )
