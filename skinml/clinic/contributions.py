"""Which runs read a patient's data, and the epsilon that bounds what they can tell about them.

A trained model cannot be made to forget: nothing here changes one. What can be told is which runs
read the data, from the clinic's own records, and how much all that left the clinic in them can say
about one patient, from exactly the entries of the ledger that read the patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from math import isfinite
from typing import Any

from skinml.clinic.agreement import require_agreement
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.releases import Contribution, read_contributions
from skinml.clinic.statements import usual_delta
from skinml.errors import DataError
from skinml.privacy.ledger import Entry, spent
from skinml.privacy.plan import STATISTICS
from skinml.privacy.readings import advantage
from skinml.records import EVERY_SPLIT
from skinml.stewardship.pseudonyms import pseudonym

ROLES: Mapping[str, str] = {
    "train": "trained on",
    "validation": "threshold",
    "test": "tested on",
    EVERY_SPLIT: "counted at the gate",
}
"""What a patient of each split was read for."""
COUNTED = "counted in statistics"
"""What a patient was read for in a run that counts patients."""


@dataclass(frozen=True)
class RunContribution:
    """One run that read the patient's data. Per patient: never log.

    Attributes:
        run: The run's id.
        experiment: Its experiment; None where the log does not name it.
        first_day: The day of the first release that read the patient, YYYY-MM-DD.
        last_day: The day of the last one.
        roles: What for, words of `ROLES`, or `COUNTED`.
        rounds: In how many rounds.
        releases: How many releases read the patient, by name.
        epsilon: What these releases together can tell, at the answer's delta; infinite where
            something left without secret noise.
        outcome: How the run ended, a word of the audit log; None where it does not say.
    """

    run: str
    experiment: str | None
    first_day: str
    last_day: str
    roles: tuple[str, ...]
    rounds: int
    releases: Mapping[str, int]
    epsilon: float
    outcome: str | None

    @property
    def in_model(self) -> bool:
        """Whether the model learnt from the patient."""
        return ROLES["train"] in self.roles


@dataclass(frozen=True)
class Contributions:
    """What the clinic can tell of one patient's part in runs. Per patient: never log.

    Attributes:
        delta: Delta that every epsilon is read at.
        runs: The runs that read the patient's data, oldest first.
        epsilon: What all of them together can tell; 0 where none did.
        guess: How often, at most, the best guess at whether the patient took part is right.
        exact_figures: Whether the patient was among those that a simulation's exact figures are
            about, which no epsilon bounds.
        unknown: Runs whose record is gone, so that nobody can tell whether they read the patient.
        epsilon_at_most: The epsilon if all of those had.
        erased: Whether the patient's key was destroyed.
    """

    delta: float
    runs: tuple[RunContribution, ...]
    epsilon: float
    guess: float
    exact_figures: bool
    unknown: tuple[str, ...]
    epsilon_at_most: float
    erased: bool

    @property
    def models(self) -> int:
        """How many runs trained on the patient."""
        return sum(run.in_model for run in self.runs)


def show_contributions(
    folder: ClinicFolder, patient: str, *, now: datetime, delta: float | None = None
) -> Contributions:
    """Tell which runs read a patient's data; the audit log says that somebody asked.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        now: The time, with its zone.
        delta: Delta to read epsilon at; None: the policy's greatest delta, or 1e-5.

    Returns:
        The runs and what bounds them.

    Raises:
        DataError: If nothing at all is known of the patient; most likely the id is mistyped.
        EnvironmentProblem: If a file cannot be read, or the audit log cannot be written.
        IntegrityError: If ledger, audit log and records of contributions do not agree.
        PolicyError: If the user may not read single patients' records.
    """
    actor = require_role(folder, "consent.read")
    name = pseudonym(folder.key, patient)
    folder.audit.write("access", actor, now=now, kind="contributions", patient=name, patients=1)
    found = contributions_of(folder, patient, delta=delta)
    if not (found.runs or found.erased or is_known(folder, patient)):
        raise unknown_patient()
    return found


def contributions_of(
    folder: ClinicFolder, patient: str, *, delta: float | None = None
) -> Contributions:
    """Do what `show_contributions` does, for callers that have asked for a role and log it.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        delta: Delta to read epsilon at; None: the policy's greatest delta, or 1e-5.

    Returns:
        The runs and what bounds them.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If ledger, audit log and records of contributions do not agree.
    """
    require_agreement(folder)
    name, at = pseudonym(folder.key, patient), usual_delta(folder) if delta is None else delta
    entries, told = folder.ledger.entries(), _told(folder)
    runs, read, unknown, exact = [], [], [], False
    for run in dict.fromkeys(entry.binding.run for entry in entries):
        if not folder.run(run).is_dir():
            unknown.append(run)
            continue
        reads = _reads(read_contributions(folder, run), name, entries)
        if reads:
            runs.append(_run(run, reads, told.get(run, {}), at))
            read += [entry for each in reads for entry in each.own]
            exact = exact or any("test" in each.splits for each in reads)
    lost = [entry for entry in entries if entry.binding.run in unknown]
    return Contributions(
        delta=at,
        runs=tuple(runs),
        epsilon=spent(_as_one(read), at),
        guess=(1 + advantage(_as_one(read))) / 2,
        exact_figures=exact,
        unknown=tuple(unknown),
        epsilon_at_most=spent(_as_one([*read, *lost]), at),
        erased=_is_erased(folder, name),
    )


def plain_values(found: Contributions) -> dict[str, Any]:
    """Turn an answer into what JSON holds.

    Args:
        found: The answer.

    Returns:
        Plain values; an infinite epsilon is None.
    """
    values = asdict(found) | {"models": found.models}
    values["runs"] = [
        asdict(run) | {"in_model": run.in_model, "epsilon": _finite(run.epsilon)}
        for run in found.runs
    ]
    bounds = {name: _finite(values[name]) for name in ("epsilon", "epsilon_at_most")}
    return values | bounds


def is_known(folder: ClinicFolder, patient: str) -> bool:
    """Tell whether a clinic's register or vault knows a patient.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.

    Returns:
        Whether anything is there.

    Raises:
        DataError: If the id could not be one.
        IntegrityError: If register or vault was changed.
    """
    name = pseudonym(folder.key, patient)
    return bool(
        folder.consents.state_of(patient).changes or folder.patient_keys.find_pseudonyms([name])
    )


def unknown_patient() -> DataError:
    """Build the error of an id that a clinic knows nothing of; it never holds the id."""
    return DataError(
        rule="a patient of whom this clinic's folder knows something",
        got="a number that neither consents, vault nor any run knows; nothing was done",
        do="Check the number; with --even-if-unknown a no is recorded in advance.",
    )


@dataclass(frozen=True, repr=False)
class _Read:
    """One round that read the patient: the patient's splits, and the round's entries."""

    splits: frozenset[str]
    entries: tuple[Entry, ...]

    @property
    def own(self) -> list[Entry]:
        """Those that are about the patient."""
        return [entry for entry in self.entries if entry.split in self.splits]


def _reads(
    contributions: Iterable[Contribution], name: str, entries: Sequence[Entry]
) -> list[_Read]:
    known: dict[int, bool] = {}  # a list of patients is one object in all of its rounds
    found = []
    for each in contributions:
        splits = frozenset(
            split
            for split, names in each.patients.items()
            if known.setdefault(id(names), name in names)
        )
        if splits:
            found.append(_Read(splits, tuple(entries[index] for index in each.entries)))
    return found


def _run(
    run: str, reads: Sequence[_Read], told: Mapping[str, str], delta: float
) -> RunContribution:
    own = [entry for each in reads for entry in each.own]
    splits = frozenset[str]().union(*(each.splits for each in reads))
    tallied = any(entry.name == STATISTICS for entry in own)
    # A test patient is in no entry: the round's own tell the day.
    days = sorted(entry.time[:10] for each in reads for entry in each.own or each.entries)
    return RunContribution(
        run=run,
        experiment=told.get("experiment"),
        first_day=days[0],
        last_day=days[-1],
        roles=tuple(
            COUNTED if split == EVERY_SPLIT and tallied else word
            for split, word in ROLES.items()
            if split in splits
        ),
        rounds=len(reads),
        releases=dict(Counter(entry.name for entry in own)),
        epsilon=spent(_as_one(own), delta),
        outcome=told.get("outcome"),
    )


def _as_one(entries: Iterable[Entry]) -> list[Entry]:
    """Let entries compose: all of them read the one patient, whatever split that was in."""
    return [replace(entry, split="train") for entry in entries]


def _told(folder: ClinicFolder) -> dict[str, dict[str, str]]:
    """Read from the audit log which experiment a run was of, and how it ended."""
    found: dict[str, dict[str, str]] = {}
    for entry in folder.audit.entries():
        if entry.event in ("run approved", "run ended"):
            words = {
                word: str(entry.fields[word])
                for word in ("experiment", "outcome")
                if word in entry.fields
            }
            found.setdefault(str(entry.fields["run"]), {}).update(words)
    return found


def _is_erased(folder: ClinicFolder, name: str) -> bool:
    """Tell whether a patient's key was destroyed and none issued since."""
    asked = any(
        entry.event == "erasure" and entry.fields.get("patient") == name
        for entry in folder.audit.entries()
    )
    return asked and not folder.patient_keys.find_pseudonyms([name])


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
