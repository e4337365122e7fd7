"""What clinics' ledgers add up to at a date, and what their policies leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from math import inf
from pathlib import Path
from typing import Any

from skinml.clinic.agreement import require_agreement
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.gate import require_role
from skinml.errors import DataError, IntegrityError, require_in_range
from skinml.journal import Mark
from skinml.privacy.allowance import epsilon_left
from skinml.privacy.ledger import Entry
from skinml.privacy.statement import (
    RunCost as RunCost,  # for the command line, which knows this room only
)
from skinml.privacy.statement import (
    Statement as Statement,
)
from skinml.privacy.statement import (
    entries_until,
    epsilon_everywhere,
    statement,
    year_until,
)
from skinml.stewardship.days import day_of

USUAL_DELTA = 1e-5


@dataclass(frozen=True)
class Allowance:
    """One ceiling of a clinic's policy.

    Attributes:
        spent: Epsilon that counts against it; infinite where something had no secret noise.
        ceiling: The greatest that it may be; None: no ceiling.
        left: Epsilon of the greatest further run that fits, in steps of 0.01; None: any.
    """

    spent: float
    ceiling: float | None
    left: float | None


@dataclass(frozen=True)
class LedgerStatement:
    """A clinic's ledger at the end of a day. Exact figures: they stay at the clinic.

    Attributes:
        clinic: The clinic's name.
        virtual: Whether it exists only in simulations.
        mark: Where the verified ledger ends today, such as "12:0f3a..."; None for an empty one.
        statement: What it says.
        run: The policy's ceiling for a run, against the latest run.
        year: The one for a year, against the last 365 days.
        life: The one for good, against everything.
        left: Epsilon of the greatest further run that fits under all three; None: any.
    """

    clinic: str
    virtual: bool
    mark: str | None
    statement: Statement
    run: Allowance
    year: Allowance
    life: Allowance
    left: float | None


@dataclass(frozen=True)
class Spending:
    """The ledgers of all virtual clinics of one working folder.

    Attributes:
        clinics: One statement a clinic, by name.
        greatest: The greatest total epsilon among them.
        everywhere: Epsilon of a patient whose data lie at all of them.
    """

    clinics: tuple[LedgerStatement, ...]
    greatest: float
    everywhere: float


def read_statement(
    folder: ClinicFolder,
    *,
    now: datetime,
    at: date | None = None,
    delta: float | None = None,
    mark: Mark | None = None,
) -> LedgerStatement:
    """Verify a clinic's ledger and say what it adds up to.

    Args:
        folder: The clinic's folder.
        now: The time, with its zone.
        at: The last day that counts, in UTC; None: today.
        delta: Delta to read epsilon at; None: the policy's greatest delta, or 1e-5.
        mark: Where the ledger once ended, as somebody kept it; held against it too.

    Returns:
        The statement.

    Raises:
        ConfigError: If delta is outside its range, or the day is before 1970.
        EnvironmentProblem: If a file cannot be read, or the audit log cannot be written.
        IntegrityError: If the ledger was changed or set back, does not go on from the mark, or
            disagrees with the audit log or a record of contributions.
        PolicyError: If the user may not read it; the audit log says so.

    Guarantees:
        Who read the ledger is in the audit log before anything is shown.
    """
    return _read(folder, now=now, at=at, delta=delta, mark=mark)[0]


def read_all(
    root: Path, *, now: datetime, at: date | None = None, delta: float | None = None
) -> Spending:
    """Verify the ledgers of all virtual clinics of a working folder, and add them up.

    Args:
        root: The folder of all virtual clinics.
        now: The time, with its zone.
        at: The last day that counts, in UTC; None: today.
        delta: Delta to read epsilon at; None: the smallest that a policy names, or 1e-5.

    Returns:
        The statements.

    Raises:
        ConfigError: If delta is outside its range, or the day is before 1970.
        DataError: If there is no clinic's folder.
        EnvironmentProblem: If a file cannot be read, or an audit log cannot be written.
        IntegrityError: If something in a folder was changed.
        PolicyError: If the user may not read one of the ledgers; its audit log says so.
    """
    folders = [open_folder(path) for path in _folders(root)]
    common = min(map(usual_delta, folders)) if delta is None else delta
    found = [_read(folder, now=now, at=at, delta=common) for folder in folders]
    return Spending(
        clinics=tuple(told for told, _ in found),
        greatest=max(told.statement.total.epsilon for told, _ in found),
        everywhere=epsilon_everywhere([entries for _, entries in found], common),
    )


def plain_values(found: LedgerStatement) -> dict[str, Any]:
    """Write a statement as JSON values.

    Args:
        found: The statement.

    Returns:
        Its fields; dates in ISO 8601, an epsilon without a bound is None, as everywhere.
    """
    spans = ("run", "year", "life")
    values = asdict(found)
    ceilings = {span: values.pop(span) for span in spans}
    told = values.pop("statement")
    values |= told | {"ceilings": ceilings, "verified": True}
    return {name: _plain(each) for name, each in values.items()}


def _read(
    folder: ClinicFolder,
    *,
    now: datetime,
    at: date | None,
    delta: float | None,
    mark: Mark | None = None,
) -> tuple[LedgerStatement, Sequence[Entry]]:
    chosen = usual_delta(folder) if delta is None else delta
    require_in_range(1e-300, 1 - 1e-12, delta=chosen)
    today = day_of(now)
    day = today if at is None else at
    require_in_range(1970, 9999, year=day.year)
    user = require_role(folder, "log.read")
    held = folder.ledger.entries()
    if mark is not None and not folder.ledger.passed(mark):
        raise IntegrityError(
            rule=f"a privacy ledger of clinic {folder.name} that goes on from the mark",
            got=f"another one, of {len(held)} entries",
            do="Look for the ledger that the mark was taken from; nothing is used until then.",
        )
    require_agreement(folder)
    # Another run may have written since.
    end = folder.ledger.mark_at(len(held)) if held else None
    folder.audit.write("access", user, now=now, kind="ledger", rows=len(held), day=day)
    kept = entries_until(held, day) if day < today else held
    said = statement(held, chosen, day, with_later=day >= today)
    run, year, life = _allowances(folder, said, kept)
    lefts = [each.left for each in (run, year, life) if each.left is not None]
    told = LedgerStatement(
        clinic=folder.name,
        virtual=folder.identity.virtual,
        mark=f"{end.count}:{end.head}" if end else None,
        statement=said,
        run=run,
        year=year,
        life=life,
        left=min(lefts, default=None),
    )
    return told, kept


def _allowances(
    folder: ClinicFolder, said: Statement, kept: Sequence[Entry]
) -> tuple[Allowance, Allowance, Allowance]:
    """Hold a statement against the policy's ceilings for a run, a year and for good."""
    limits, day, delta = folder.policy.privacy, said.day, said.delta
    latest = said.runs[-1].cost.epsilon if said.runs else 0.0
    return (
        # A further run begins at nothing.
        _allowance(latest, limits.max_epsilon_per_run, (), delta),
        _allowance(said.year.epsilon, limits.max_epsilon_per_year, year_until(kept, day), delta),
        _allowance(said.total.epsilon, limits.max_epsilon_for_life, kept, delta),
    )


def _allowance(
    spent: float, ceiling: float | None, counted: Sequence[Entry], delta: float
) -> Allowance:
    left = None if ceiling is None else epsilon_left(counted, ceiling, delta)
    return Allowance(spent, ceiling, left)


def usual_delta(folder: ClinicFolder) -> float:
    """Choose where epsilon is read where nobody says: the policy's greatest delta, or 1e-5.

    Args:
        folder: The clinic's folder.

    Returns:
        Delta.
    """
    return folder.policy.privacy.max_delta or USUAL_DELTA


def _folders(root: Path) -> list[Path]:
    found = sorted(path for path in root.glob("*/") if not path.name.startswith("."))
    if not found:
        raise DataError(
            rule="a working folder in which virtual clinics released something",
            got=f"no clinic's folder in {root}",
            do="Run an experiment there first, or name its folder with --work-dir.",
        )
    return found


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, date):
        return value.isoformat()
    return None if value == inf else value
