"""Runs that a coordinator asks a clinic for, and what a person there answered.

CLINIC'S FOLDER/
  proposals.json          each run: which proposal, who answered what, when
  proposals/DIGEST.json   a proposal, word for word, under the SHA-256 of what it says

The first file is anchored, so that an answer that was changed or set back shows. A proposal with
another word in it, such as in its config, is another proposal and waits for an answer of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.deployment.anchored import find_anchored
from skinml.deployment.joining import find_membership
from skinml.deployment.run_proposal import RunProposal, Sha256, asked, config_of, parse_proposal
from skinml.durable import locked, make_folder, read_whole, write_whole
from skinml.errors import ConfigError, IntegrityError, PolicyError, RefusedError
from skinml.stewardship.audit_events import is_name
from skinml.stewardship.policy import ANYBODY, policy_digest
from skinml.stewardship.policy_terms import Proposal as Terms
from skinml.stewardship.policy_terms import require_within

INDEX = "proposals.json"
_FOLDER = "proposals"
_WHAT = "list of proposed runs"
_MOST_WAITING = 64
_TOLD = ("trust", "unit", "epsilon", "delta", "noise_multiplier")

State = Literal["pending", "approved", "refused"]
WORDS: Mapping[State, str] = {
    "pending": "waits for your yes or no",
    "approved": "approved",
    "refused": "refused",
}
"""A state as the clinic's people read it."""
Answer = Literal["", "yes", "no", "rule"]


class _Record(BaseModel):
    """What is known of a run's latest proposal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Sha256
    received: AwareDatetime
    expires: AwareDatetime
    bundle: Sha256
    answer: Answer = ""
    actor: str = ""
    answered: AwareDatetime | None = None

    def state(self, now: datetime) -> State:
        if self.answer == "no" or now >= self.expires:
            return "refused"
        return "approved" if self.answer else "pending"


@dataclass(frozen=True)
class Proposed:
    """A run that somebody asks for, as it stands.

    Attributes:
        proposal: What is asked for.
        state: Where it stands; `refused` also where it has expired.
        answer: What was said: yes, no, `rule` where the policy said yes, or nothing yet.
        actor: Who said it.
        received: When it came.
        answered: When it was answered.
    """

    proposal: RunProposal
    state: State
    answer: Answer
    actor: str
    received: datetime
    answered: datetime | None


def receive(folder: ClinicFolder, proposal: RunProposal, *, now: datetime | None = None) -> State:
    """Take a coordinator's proposal; asking again changes nothing.

    Args:
        folder: The clinic's folder.
        proposal: What is asked for.
        now: The time, with its zone; by default the clock's.

    Returns:
        Where it stands: `pending` until a person has answered, or the policy by rule.

    Raises:
        ConfigError: If its config is none of this release, or is another experiment's.
        EnvironmentProblem: If it cannot be written down.
        IntegrityError: If the folder was changed.
        PolicyError: If it comes from a stranger, is not for this clinic, has expired, or too
            many wait.

    Guarantees:
        What was approved stays approved only word for word: with any change it waits anew.
    """
    at = now or datetime.now(UTC)
    known = _index(folder).get(proposal.run)
    if known is not None and known.digest == proposal.digest:
        return known.state(at)
    _require_mine(folder, proposal, at)
    config_of(proposal)
    by_rule = _by_rule(folder, proposal)
    with _locked(folder):
        index = _index(folder)
        waiting = sum(each.state(at) == "pending" for each in index.values())
        if waiting >= _MOST_WAITING:
            raise _too_many(waiting)
        make_folder(folder.path / _FOLDER, _WHAT)
        write_whole(_place(folder, proposal.digest), proposal.content(), "proposal of a run")
        folder.audit.write(
            "run proposed",
            proposal.coordinator,
            now=at,
            run=proposal.run,
            digest=proposal.digest,
            experiment=proposal.experiment,
            purpose=proposal.purpose,
            coordinator=proposal.coordinator,
        )
        record = _Record(
            digest=proposal.digest, received=at, expires=proposal.expires, bundle=proposal.bundle
        )
        index[proposal.run] = record
        if by_rule is not None:
            index[proposal.run] = _answered(folder, proposal, record, "rule", "policy", by_rule, at)
        _write(folder, index)
        return index[proposal.run].state(at)


def decide(
    folder: ClinicFolder,
    run: str,
    yes: bool,
    actor: str,
    *,
    expected: str | None = None,
    now: datetime | None = None,
) -> State:
    """Answer a proposal, or change an answer; whether the actor may is the caller's question.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        yes: The answer.
        actor: Who gives it.
        expected: Digest of the proposal that was looked at; None: whichever there is.
        now: The time, with its zone; by default the clock's.

    Returns:
        Where it stands now.

    Raises:
        BudgetExceededError, PolicyError: If the answer is yes and the policy says no, or the
            proposal has expired.
        ConfigError: If nobody asked for such a run, or another proposal came in the meantime.
        IntegrityError: If the folder was changed.

    Guarantees:
        No answer holds that is not in the audit log. After a no the clinic keeps no sample of the
        run.
    """
    at = now or datetime.now(UTC)
    found = proposed(folder, run, now=at)
    terms = None  # a no needs no plan, which an old config might not give any more
    if yes:
        if at >= found.proposal.expires:
            raise _expired(run, found.proposal.expires)
        terms = asked(folder, found.proposal)[1]
        require_within(folder.policy, terms, before_counting=True)
    with _locked(folder):
        index = _index(folder)
        record = index[run]
        if record.digest != found.proposal.digest or expected not in (None, record.digest):
            raise ConfigError(
                rule="the proposal that was looked at",
                got="another one, which came in the meantime",
                do=f"Look again: skinml clinic approve {run} --folder FOLDER",
            )
        answer: Answer = "yes" if yes else "no"
        index[run] = _answered(folder, found.proposal, record, answer, actor, terms, at)
        _write(folder, index)
        if not yes:
            from skinml.experiments.site_run import close_site  # heavy: not for a mere look

            close_site(folder, run, "refused")
        return index[run].state(at)


def answer(folder: ClinicFolder, run: str, yes: bool, *, expected: str | None = None) -> State:
    """Answer a proposal as the user of this process.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        yes: The answer.
        expected: Digest of the proposal that was looked at.

    Returns:
        Where it stands now.

    Raises:
        BudgetExceededError, PolicyError: If the user may not approve runs, or as `decide`.
        ConfigError, IntegrityError: As `decide`.
    """
    return decide(folder, run, yes, require_role(folder, "run.approve"), expected=expected)


def state(folder: ClinicFolder, run: str, *, now: datetime | None = None) -> State:
    """Tell where a run stands.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        now: The time, with its zone; by default the clock's.

    Returns:
        Its state.

    Raises:
        ConfigError: If nobody asked for such a run.
        IntegrityError: If the folder was changed.
    """
    return _record(folder, run).state(now or datetime.now(UTC))


def states(folder: ClinicFolder, *, now: datetime | None = None) -> dict[str, State]:
    """Tell where all runs stand that somebody ever asked for.

    Args:
        folder: The clinic's folder.
        now: The time, with its zone; by default the clock's.

    Returns:
        Each run's state.

    Raises:
        IntegrityError: If the folder was changed.
    """
    at = now or datetime.now(UTC)
    return {run: record.state(at) for run, record in _index(folder).items()}


def approved_config(folder: ClinicFolder, run: str, *, now: datetime | None = None) -> str:
    """Give the config of a run that was approved; the only one that may be run.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        now: The time, with its zone; by default the clock's.

    Returns:
        JSON, word for word what was approved.

    Raises:
        ConfigError: If nobody asked for such a run.
        IntegrityError: If the folder was changed.
        PolicyError: If it is not approved, or no longer.
    """
    found = proposed(folder, run, now=now)
    if found.state != "approved":
        raise PolicyError(
            rule="a run that somebody at the clinic approved",
            got=f"run={run}, {found.state}",
            do=f"At the clinic: skinml clinic approve {run} --folder FOLDER",
        )
    return found.proposal.config


def proposed(folder: ClinicFolder, run: str, *, now: datetime | None = None) -> Proposed:
    """Look up a run that somebody asks for.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        now: The time, with its zone; by default the clock's.

    Returns:
        The proposal and its state.

    Raises:
        ConfigError: If nobody asked for such a run.
        IntegrityError: If the folder was changed.
    """
    return _shown(folder, _record(folder, run), now or datetime.now(UTC))


def all_proposed(folder: ClinicFolder, *, now: datetime | None = None) -> tuple[Proposed, ...]:
    """List the runs that somebody ever asked for.

    Args:
        folder: The clinic's folder.
        now: The time, with its zone; by default the clock's.

    Returns:
        The proposals, those that came first in front.

    Raises:
        IntegrityError: If the folder was changed.
    """
    at = now or datetime.now(UTC)
    records = sorted(_index(folder).values(), key=lambda record: (record.received, record.digest))
    return tuple(_shown(folder, record, at) for record in records)


def approved_bundles(folder: ClinicFolder, *, now: datetime | None = None) -> frozenset[str]:
    """List the bundles that may be executed here.

    Args:
        folder: The clinic's folder.
        now: The time, with its zone; by default the clock's.

    Returns:
        SHA-256 of the installed release's own, and of those in runs that a person approved.

    Raises:
        IntegrityError: If the folder was changed.
    """
    from skinml.deployment.bundle import digest

    at = now or datetime.now(UTC)
    persons = (
        each.bundle
        for each in _index(folder).values()
        if each.answer == "yes" and each.state(at) == "approved"
    )
    return frozenset({digest(), *persons})


def _require_mine(folder: ClinicFolder, proposal: RunProposal, now: datetime) -> None:
    membership = find_membership(folder)
    if membership is not None and membership.federation != proposal.coordinator:
        raise PolicyError(
            rule=f"a proposal of the federation {membership.federation}",
            got="another federation's name",
            do="Ask its coordinator what it submits.",
        )
    if folder.name not in proposal.clinics:
        raise PolicyError(
            rule="a proposal that names the clinics that are asked",
            got="one without this clinic",
            do="Submit the run for this clinic, too.",
        )
    if now >= proposal.expires:
        raise _expired(proposal.run, proposal.expires)


def _by_rule(folder: ClinicFolder, proposal: RunProposal) -> Terms | None:
    """Say yes where the policy needs no person's, the code is known and all else is kept."""
    from skinml.deployment.bundle import digest

    without = folder.policy.approval.without_asking
    if proposal.bundle != digest() or not {proposal.experiment, ANYBODY} & set(without):
        return None
    terms = asked(folder, proposal)[1]
    try:
        require_within(folder.policy, terms, before_counting=True)
    except RefusedError:
        return None  # a person shall see which terms are too much
    return terms


def _answered(
    folder: ClinicFolder,
    proposal: RunProposal,
    record: _Record,
    answer: Answer,
    actor: str,
    terms: Terms | None,
    now: datetime,
) -> _Record:
    """Write an answer into the audit log, and give the record that holds it."""
    folder.audit.write(
        "run answered",
        actor,
        now=now,
        run=proposal.run,
        digest=proposal.digest,
        answer=answer,
        experiment=proposal.experiment,
        purpose=proposal.purpose,
        coordinator=proposal.coordinator,
        policy=policy_digest(folder.policy),
        **({} if terms is None else {name: getattr(terms, name) for name in _TOLD}),
    )
    return record.model_copy(update={"answer": answer, "actor": actor, "answered": now})


_RECORDS = TypeAdapter(dict[str, _Record])


def _index(folder: ClinicFolder) -> dict[str, _Record]:
    return find_anchored(folder, folder.path / INDEX, _WHAT, _RECORDS) or {}


def _write(folder: ClinicFolder, index: Mapping[str, _Record]) -> None:
    content = _RECORDS.dump_json(dict(index), indent=1) + b"\n"
    folder.anchors.replace(folder.path / INDEX, content, _WHAT)


def _record(folder: ClinicFolder, run: str) -> _Record:
    found = _index(folder).get(run)
    if found is None:
        raise ConfigError(
            rule="a run that somebody asked this clinic for",
            got=f"run={run}" if is_name(run) else "another word",
            do="See what waits: skinml clinic approve --folder FOLDER",
        )
    return found


def _shown(folder: ClinicFolder, record: _Record, now: datetime) -> Proposed:
    content = read_whole(_place(folder, record.digest), "proposal of a run")
    if hashlib.sha256(content).hexdigest() != record.digest:
        raise IntegrityError(
            rule="a proposal as it was received",
            got="another content",
            do="Restore the folder 'proposals' from a backup.",
        )
    return Proposed(
        proposal=parse_proposal(content),
        state=record.state(now),
        answer=record.answer,
        actor=record.actor,
        received=record.received,
        answered=record.answered,
    )


def _place(folder: ClinicFolder, digest: str) -> Path:
    return folder.path / _FOLDER / f"{digest}.json"


def _locked(folder: ClinicFolder) -> AbstractContextManager[None]:
    return locked(folder.path / f".{INDEX}.lock", _WHAT)


def _expired(run: str, expires: datetime) -> PolicyError:
    return PolicyError(
        rule="a proposal that has not expired",
        got=f"run={run}, expired {expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        do="Ask the coordinator to submit it again.",
    )


def _too_many(waiting: int) -> PolicyError:
    return PolicyError(
        rule=f"at most {_MOST_WAITING} proposed runs that wait for an answer",
        got=f"{waiting} that wait",
        do="At the clinic, answer them: skinml clinic approve --folder FOLDER",
    )
