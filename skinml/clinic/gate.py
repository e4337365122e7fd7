"""The gate of a clinic: who may do something here, and whether a run may use its patients' data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime

from skinml.clinic.flagging import note_flags
from skinml.clinic.folder import ClinicFolder
from skinml.errors import IncompleteRunError, PolicyError, RefusedError, SkinmlError
from skinml.privacy.ledger import Ceilings
from skinml.stewardship.admissibility import Admission
from skinml.stewardship.audit_events import Event, is_name
from skinml.stewardship.policy import policy_digest
from skinml.stewardship.policy_terms import Proposal, compare, require_within
from skinml.stewardship.purposes import PURPOSES
from skinml.stewardship.roles import WORDS, Action, allowed, os_user, roles_with


def require_role(folder: ClinicFolder, action: Action) -> str:
    """Let only those through whom the policy gives a role that may do this.

    Args:
        folder: The clinic's folder.
        action: What shall be done.

    Returns:
        The name of the user of this computer who does it.

    Raises:
        PolicyError: If the user may not; the audit log says so.
    """
    user = os_user()
    if not allowed(folder.policy.roles, user, action):
        now = datetime.now(UTC)
        folder.audit.write("refusal", user, now=now, action=action, reason="role")
        note_flags(folder, user, now=now)
        raise PolicyError(
            rule=f"a user who may {WORDS[action]}: {' or '.join(roles_with(action))}",
            got=f"user={user}",
            do=f"Ask the steward of {folder.name}, who keeps the policy's roles.",
        )
    return user


def require_run(
    folder: ClinicFolder,
    proposal: Proposal,
    run: str,
    actor: str,
    require_budget: Callable[[], None],
) -> None:
    """Hold a run against the clinic's policy and its budget, and write down what came of it.

    Args:
        folder: The clinic's folder.
        proposal: What the run asks for.
        run: The run's id.
        actor: Who starts it here.
        require_budget: Raises where the run would pass a budget that it set itself.

    Raises:
        BudgetExceededError: If only ceilings of epsilon say no.
        PolicyError: If the policy says no otherwise.
    """
    policy = folder.policy
    told = {
        "run": run,
        # A stranger's own word stays out of the log; what is refused is named by its term.
        "experiment": _named(proposal.experiment),
        "purpose": proposal.purpose if proposal.purpose in PURPOSES else None,
        "coordinator": _named(proposal.coordinator),
        "trust": proposal.trust,
        "unit": proposal.unit,
        "epsilon": proposal.epsilon,
        "delta": proposal.delta,
        "noise_multiplier": proposal.noise_multiplier,
        "policy": policy_digest(policy),
        "patients": proposal.patients,
    }
    now = datetime.now(UTC)
    try:
        require_within(policy, proposal)
        require_budget()
    except RefusedError as refusal:
        reason = "policy" if isinstance(refusal, PolicyError) else "budget"
        terms = [term.name for term in compare(policy, proposal) if term.verdict == "refused"]
        folder.audit.write("run refused", actor, now=now, reason=reason, terms=terms, **told)
        note_flags(folder, actor, now=now)
        raise
    folder.audit.write("run approved", actor, now=now, **told)


def log_admission(
    folder: ClinicFolder, admission: Admission, *, run: str, purpose: str, day: date, actor: str
) -> None:
    """Write into the clinic's own log how many patients were admitted, and why others were not.

    Args:
        folder: The clinic's folder.
        admission: What `admissible` said.
        run: The run's id.
        purpose: What the data are used for.
        day: The day of use.
        actor: Who starts the run here.
    """
    folder.audit.write(
        "admission",
        actor,
        now=datetime.now(UTC),
        purpose=purpose,
        day=day,
        run=run,
        patients=int(admission.frame["patient_id"].nunique()),
        rows=len(admission.frame),
        admitted=dict(admission.admitted),
        refused=dict(admission.refused),
    )


def log_refusal(
    folder: ClinicFolder, reason: str, *, run: str, purpose: str, day: date, actor: str
) -> None:
    """Write into the clinic's own log that no data may be used for a run.

    Args:
        folder: The clinic's folder.
        reason: Why, a word of `audit_events.REFUSAL_REASONS`.
        run: The run's id.
        purpose: What the data were asked for.
        day: The day of use.
        actor: Who starts the run here.
    """
    folder.audit.write(
        "refusal",
        actor,
        now=datetime.now(UTC),
        action="run.train",
        reason=reason,
        run=run,
        purpose=purpose,
        day=day,
    )


@contextmanager
def logged_run(
    folders: Collection[ClinicFolder], run: str, *, simulated: bool, counts: bool = False
) -> Iterator[None]:
    """Write into the clinics' logs that a run's work begins here and how it ended.

    Args:
        folders: The clinics of this machine that are in the run.
        run: The run's id.
        simulated: Whether one machine sees everything.
        counts: Whether it only counts patients, and trains nothing.

    Yields:
        Nothing; the block is the training, or the counting.
    """
    log_start(folders, run, simulated=simulated, counts=counts)
    try:
        yield
    except BaseException as error:
        with suppress(SkinmlError):  # the first error is the one to tell
            log_end(folders, run, _outcome(error))
        raise
    log_end(folders, run, "completed")


def log_start(
    folders: Collection[ClinicFolder], run: str, *, simulated: bool, counts: bool = False
) -> None:
    """Write into clinics' logs that a run's work begins here.

    Args:
        folders: The clinics of this machine that are in the run.
        run: The run's id.
        simulated: Whether one machine sees everything.
        counts: Whether it only counts patients, and trains nothing.
    """
    event: Event = "counting started" if counts else "training started"
    for folder in folders:
        now = datetime.now(UTC)
        folder.audit.write(event, os_user(), now=now, run=run, simulated=simulated)


def log_end(folders: Collection[ClinicFolder], run: str, outcome: str) -> None:
    """Write into clinics' logs how a run ended here, and what the ledgers hold by then.

    Args:
        folders: The clinics of this machine that are in the run.
        run: The run's id.
        outcome: A word of `audit_events.OUTCOMES`.
    """
    for folder in folders:
        mark = folder.ledger.mark()
        folder.audit.write(
            "run ended",
            os_user(),
            now=datetime.now(UTC),
            run=run,
            outcome=outcome,
            entries=mark.count,
            head=mark.head,
        )


def _outcome(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, RefusedError):
        return "refused"
    return "incomplete" if isinstance(error, IncompleteRunError) else "failed"


def _named(word: str) -> str | None:
    return word if is_name(word) else None


def policy_ceilings(folder: ClinicFolder) -> Ceilings:
    """Read from the policy what the ledger may reach.

    Args:
        folder: The clinic's folder.

    Returns:
        The ceilings.
    """
    limits = folder.policy.privacy
    return Ceilings(
        run=limits.max_epsilon_per_run,
        year=limits.max_epsilon_per_year,
        life=limits.max_epsilon_for_life,
        rule=f"the policy of clinic {folder.name}",
    )
