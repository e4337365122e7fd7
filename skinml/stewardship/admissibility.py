"""The one door from a manifest to training, evaluation, statistics and caches.

A row is used on one of two grounds: a consent of its patient that covers the purpose, the day and
the kind of data, or the licence of a research dataset, if the clinic's policy names it and the
register knows no answer of the patient that is narrower. The default is no.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from skinml.errors import PolicyError
from skinml.records import BoolArray, StrArray
from skinml.stewardship.consent_rules import REASONS, USUAL_DATA
from skinml.stewardship.licences import LICENCES, licence_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

LICENCE = "licence"
CONSENT = "consent"
NO_LICENCE = "no licence"
"""Why a row is refused where there is no register to ask."""
NOT_ALLOWED = "licence not allowed"
"""Why a row is refused whose licence the policy does not name, and whose patient signed nothing."""

_NOES = ("withdrawn", "restricted")
_UNASKED = ("", "no consent")  # the register knows nothing that speaks against a licence
_RESEARCH_PURPOSES = ("research", "teaching", "federated_training", "statistics")
_PAIR_DATA = (*USUAL_DATA, "before_and_after_images")


class Consents(Protocol):
    """Who agreed to what: a `ConsentRegister`, or a `ConsentBook` of how it once stood."""

    def verdicts(
        self,
        patients: Sequence[str],
        purpose: str,
        day: datetime.date,
        kinds: Sequence[Collection[str]] | None = None,
    ) -> StrArray:
        """Tell for each row whether its data may be used, or why not."""


@dataclass(frozen=True)
class OnlyWithdrawals:
    """A register's noes without its yeses, for rows that may be other people's with the same ids.

    Attributes:
        consents: The register.
    """

    consents: Consents

    def verdicts(
        self,
        patients: Sequence[str],
        purpose: str,
        day: datetime.date,
        kinds: Sequence[Collection[str]] | None = None,
    ) -> StrArray:
        """Tell for each row "withdrawn" or "restricted" where its id is of somebody who is."""
        known = self.consents.verdicts(patients, purpose, day, kinds)
        return np.where(np.isin(known, _NOES), known, "no consent")


@dataclass(frozen=True)
class AlsoWithdrawals:
    """A register, and the noes of another that holds the same patients.

    Attributes:
        consents: The register.
        other: The other one; its yeses open nothing. Its narrower answers hold where the first
            knows none.
    """

    consents: Consents
    other: Consents

    def verdicts(
        self,
        patients: Sequence[str],
        purpose: str,
        day: datetime.date,
        kinds: Sequence[Collection[str]] | None = None,
    ) -> StrArray:
        """Tell for each row whether its data may be used, or why not."""
        found = self.consents.verdicts(patients, purpose, day, kinds)
        noes = self.other.verdicts(patients, purpose, day, kinds)
        narrower = (found == "no consent") & ~np.isin(noes, _UNASKED)
        return np.where(np.isin(noes, _NOES) | narrower, noes, found)


@dataclass(frozen=True, repr=False)
class Admission:
    """The rows that may be used, and why. Counts are exact: they stay inside the clinic.

    Attributes:
        frame: The admissible rows, in their order.
        basis: The legal basis in words for the report; holds no counts.
        num_refused: Rows that were left out.
        refused: Patients with a row left out, by reason; who has rows refused for two reasons
            counts for both.
        admitted: Patients with a row that may be used, by basis: "licence", "consent".
        standings: For each patient "" where one of the rows may be used, otherwise the first of
            the reasons why not, in the order of `consent_rules.REASONS`.
    """

    frame: pd.DataFrame
    basis: str
    num_refused: int
    refused: Mapping[str, int] = field(default_factory=dict)
    admitted: Mapping[str, int] = field(default_factory=dict)
    standings: Mapping[str, str] = field(default_factory=dict)


def admissible(
    frame: pd.DataFrame,
    purpose: str,
    day: datetime.date,
    consents: Consents | None = None,
    licences: Collection[str] = LICENCES,
) -> Admission:
    """Keep the rows that may be used for a purpose on a day.

    Args:
        frame: A manifest's rows: `patient_id`, and where they are there `licence`, the licence
            of a research dataset, `licensed_for`, the purposes that it was declared for, `series`,
            filled for a photograph of a pair before and after treatment, and `kept_until`, the
            last day of use, YYYY-MM-DD.
        purpose: What the rows shall be used for, such as "research".
        day: The day of use.
        consents: The clinic's register. Without one a row needs a licence.
        licences: Those that the clinic's policy names; all where there is no policy.

    Returns:
        The admissible rows with the basis that held; at least one row.

    Raises:
        IntegrityError: If the register was changed.
        PolicyError: If not a single row may be used. It says neither why nor how many; `assess`
            does, for the clinic's own log.
    """
    admission = assess(frame, purpose, day, consents, licences)
    if admission.frame.empty:
        raise PolicyError(
            rule=f"rows whose basis covers the purpose '{purpose}' on {day.isoformat()}",
            got="none",
            do="Record the patients' consents. A research dataset states its licence in the "
            "column 'licence', and the policy has to name it under 'licences'.",
        )
    return admission


def assess(
    frame: pd.DataFrame,
    purpose: str,
    day: datetime.date,
    consents: Consents | None = None,
    licences: Collection[str] = LICENCES,
) -> Admission:
    """Do what `admissible` does, and hand back the counts also where nothing may be used.

    Args:
        frame: A manifest's rows, see `admissible`.
        purpose: What the rows shall be used for.
        day: The day of use.
        consents: The clinic's register.
        licences: Those that the clinic's policy names.

    Returns:
        The admission; its frame may be empty.

    Raises:
        IntegrityError: If the register was changed.
    """
    reasons, licensed = _judge_rows(frame, purpose, day, consents, licences)
    allowed = reasons == ""
    patients = frame["patient_id"]
    admitted = {LICENCE: allowed & licensed, CONSENT: allowed & ~licensed}
    counts = {basis: int(patients[mask].nunique()) for basis, mask in admitted.items()}
    refused = {
        str(reason): int(patients[reasons == reason].nunique())
        for reason in np.unique(reasons[~allowed])
    }
    return Admission(
        frame=frame[allowed],
        basis=_in_words(frame, admitted, purpose),
        num_refused=int((~allowed).sum()),
        refused=refused,
        admitted={basis: count for basis, count in counts.items() if count},
        standings=_standings(patients, reasons),
    )


def _standings(patients: pd.Series[str], reasons: StrArray) -> dict[str, str]:
    order = (*REASONS, NO_LICENCE)
    ranks = pd.Series(reasons, index=patients.index).map({word: n for n, word in enumerate(order)})
    best = ranks.groupby(patients.astype(str)).min()
    return {str(patient): order[rank] for patient, rank in best.items()}


def row_reasons(
    frame: pd.DataFrame,
    purpose: str,
    day: datetime.date,
    consents: Consents | None = None,
    licences: Collection[str] = LICENCES,
) -> StrArray:
    """Tell for each row whether it may be used, or why not, by the rules of `admissible`.

    Args:
        frame: A manifest's rows, or their columns patient_id, licence, series and kept_until.
        purpose: What the rows shall be used for.
        day: The day of use.
        consents: The clinic's register.
        licences: Those that the clinic's policy names.

    Returns:
        (n,) empty where the row may be used, otherwise a word of `consent_rules.REASONS` or
        "no licence".

    Raises:
        IntegrityError: If the register was changed.
    """
    return _judge_rows(frame, purpose, day, consents, licences)[0]


def under_licence(frame: pd.DataFrame, licences: Collection[str] = LICENCES) -> BoolArray:
    """Tell for each row whether it comes with the licence of a research dataset.

    Args:
        frame: A manifest's rows; without a column `licence` none does.
        licences: Which licences count.

    Returns:
        (n,) mask. Where it holds the licence's words are known ones, which a report may show.
    """
    cells = _cells(frame, "licence")
    words = {word for word in cells.unique() if licence_of(word) in licences}
    return cells.isin(words).to_numpy(dtype=bool)


def _declared_for(frame: pd.DataFrame, purpose: str) -> BoolArray:
    """Tell for each row whether its dataset was declared for a purpose; undeclared is for all."""
    cells = _cells(frame, "licensed_for")
    words = {cell for cell in cells.unique() if not cell or purpose in cell.split()}
    return cells.isin(words).to_numpy(dtype=bool)


def _judge_rows(
    frame: pd.DataFrame,
    purpose: str,
    day: datetime.date,
    consents: Consents | None,
    licences: Collection[str],
) -> tuple[StrArray, BoolArray]:
    """Find each row's reason, and whether it stands on a licence.

    What the register knows of a patient goes before a licence, be it a no, a yes to other purposes
    or kinds of data, or a yes whose days are over: whoever gave a dataset away could not know it.
    """
    reasons, licensed = _judge_grounds(frame, purpose, day, consents, licences)
    # ISO 8601: the order of words is that of days.
    ends = _cells(frame, "kept_until").to_numpy(dtype=str)
    over = (ends != "") & (ends < day.isoformat()) & (reasons == "")
    return np.where(over, "kept too long", reasons), licensed


def _judge_grounds(
    frame: pd.DataFrame,
    purpose: str,
    day: datetime.date,
    consents: Consents | None,
    licences: Collection[str],
) -> tuple[StrArray, BoolArray]:
    known = under_licence(frame, licences)
    licensed = known & (purpose in _RESEARCH_PURPOSES) & _declared_for(frame, purpose)
    if consents is None:
        why = np.where(known, "purpose not covered", NO_LICENCE)
        return np.where(licensed, "", why), licensed
    patients = [str(patient) for patient in frame["patient_id"]]
    kinds = [_PAIR_DATA if place else USUAL_DATA for place in _cells(frame, "series")]
    reasons = consents.verdicts(patients, purpose, day, kinds)
    closed = under_licence(frame) & ~known & (reasons == "no consent")
    reasons = np.where(closed, NOT_ALLOWED, reasons)
    stands = licensed & np.isin(reasons, _UNASKED)
    return np.where(stands, "", reasons), stands


def _in_words(frame: pd.DataFrame, admitted: Mapping[str, BoolArray], purpose: str) -> str:
    parts, what_for = [], purpose.replace("_", " ")
    if admitted[LICENCE].any():
        words = sorted(set(_cells(frame, "licence")[admitted[LICENCE]]))
        parts.append(f"research dataset under {', '.join(words)}, for {what_for}")
    if admitted[CONSENT].any():
        parts.append(f"patients' recorded consent, for {what_for}")
    return "; ".join(parts)


def _cells(frame: pd.DataFrame, column: str) -> pd.Series[str]:
    """Read a column of text that may be missing, as may its cells."""
    if column not in frame.columns:
        return pd.Series("", index=frame.index, dtype=str)
    cells = frame[column].astype(object)
    return cells.where(cells.notna(), "").astype(str).str.strip()
