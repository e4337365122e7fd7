"""The gates of a run: each clinic's folder, opened once, and what it says to the run."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Protocol

from skinml.clinic.consents import log_changes
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import log_admission, log_refusal, require_role, require_run
from skinml.clinic.virtual import find_virtual_folder, virtual_folder
from skinml.config import RunConfig
from skinml.data.cohort import Door
from skinml.data.sealed_images import ImageFolder, require_folder
from skinml.errors import DataError, PolicyError
from skinml.experiments.approval import COORDINATOR, drafted, propose
from skinml.experiments.workspace import Workspace
from skinml.federated.clinic import require_budget
from skinml.privacy.ledger import Ceilings
from skinml.records import EVERY_SPLIT, Labels
from skinml.stewardship.admissibility import (
    Admission,
    AlsoWithdrawals,
    Consents,
    OnlyWithdrawals,
)
from skinml.stewardship.consent import ConsentRecord
from skinml.stewardship.consent_import import read_consents

if TYPE_CHECKING:
    import pandas as pd

POOLED = "pooled"
_LEARNT_FROM = ("train", EVERY_SPLIT)


class Admitted(Protocol):
    """What gates let through: a cohort, or patients who are only counted."""

    @property
    def items(self) -> pd.DataFrame:
        """With columns patient_id, clinic and split."""

    @property
    def labels(self) -> Labels:
        """The classes."""

    @property
    def admissions(self) -> Mapping[str, Admission]:
        """What each clinic admitted."""


@dataclass(frozen=True)
class Site:
    """A real clinic in a run of several.

    Attributes:
        folder: Its folder; every row of its manifest is its own.
        num_clinics: Clinics in the run.
        coordinator: Who asks.
    """

    folder: ClinicFolder
    num_clinics: int
    coordinator: str


class Gates:
    """The gates of all clinics of one run on this machine.

    Args:
        config: The run's config.
        workspace: Where the virtual clinics' folders are.
        run: The run's id.
        manifest_root: The manifest's folder, where the table of consents may be.
        today: The day of use.
        from_round: The first round that is still to be done, of a run that is resumed.
        site: A real clinic whose own rows they are; None where the clinics are virtual.
    """

    def __init__(
        self,
        config: RunConfig,
        workspace: Workspace,
        run: str,
        manifest_root: ImageFolder,
        today: datetime.date,
        *,
        from_round: int = 1,
        site: Site | None = None,
    ) -> None:
        self._config = config
        self._site = site
        self._one_place = POOLED if config.federation.mode == "centralised" else None
        if site is not None:
            self._one_place = site.folder.name
        self._workspace = workspace
        self._run = run
        self._today = today
        self._from_round = from_round
        self._find = cache(partial(find_virtual_folder, workspace.clinics))
        self._opened: dict[str, tuple[ClinicFolder, str]] = {}
        self._records = () if site else _read_records(config, manifest_root, today)

    def door(self, clinic: str, patients: Sequence[str]) -> Door:
        """Open a clinic's gate for its rows of the manifest.

        Args:
            clinic: The clinic's name in the manifest.
            patients: The patients of its rows.

        Returns:
            What the clinic lets through.

        Raises:
            DataError: If the name could not be a folder's.
            EnvironmentProblem: If the folder cannot be written.
            IntegrityError: If the folder was changed.
            PolicyError: If this user may not start runs there.
        """
        folder = self.folder(self.place(clinic))
        if self._site is not None:
            return _door(folder, folder.consents)
        self._register(folder, patients)
        other = POOLED if self._one_place is None else clinic
        return _door(folder, _with_noes(folder, self._find(other)))

    def place(self, clinic: str) -> str:
        """Name the clinic that holds some rows in this run.

        Args:
            clinic: What the manifest calls their clinic.

        Returns:
            The name of the folder's clinic.
        """
        return self._one_place or clinic

    def folder(self, name: str) -> ClinicFolder:
        """Open a clinic's folder for this run.

        Args:
            name: The name of the clinic that holds the data in this run.

        Returns:
            The folder.

        Raises:
            DataError: If the name could not be a folder's.
            EnvironmentProblem: If the folder cannot be written.
            IntegrityError: If the folder was changed.
            PolicyError: If this user may not start runs there.
        """
        if name not in self._opened:
            folder = self._site.folder if self._site else self._virtual(name)
            self._opened[name] = folder, require_role(folder, "run.train")
        return self._opened[name][0]

    def _virtual(self, name: str) -> ClinicFolder:
        workspace, policy = self._workspace, self._config.clinic.policy
        return virtual_folder(workspace.clinics, workspace.anchors, name, policy)

    def refuse(self) -> None:
        """Write into the opened clinics' logs that nobody's data may be used for the run."""
        for folder, actor in self._opened.values():
            log_refusal(
                folder,
                "consent",
                run=self._run,
                purpose=self._config.purpose,
                day=self._today,
                actor=actor,
            )

    def require(self, cohort: Admitted, places: Sequence[str]) -> Mapping[str, ClinicFolder]:
        """Log each clinic's admissions and hold the run against each clinic's policy.

        Args:
            cohort: The admitted cohort.
            places: The clinic that holds each item.

        Returns:
            The folders of the clinics that hold an item, by name, in order.

        Raises:
            BudgetExceededError, PolicyError: If a clinic's policy says no.
            IntegrityError: If a folder was changed.
        """
        names = sorted(set(places))
        for clinic, admission in cohort.admissions.items():
            folder, actor = self._opened[self.place(clinic)]
            log_admission(
                folder,
                admission,
                run=self._run,
                purpose=self._config.purpose,
                day=self._today,
                actor=actor,
            )
        patients = cohort.items["patient_id"].to_numpy(dtype=str)
        training = cohort.items["split"].isin(_LEARNT_FROM).to_numpy(dtype=bool)
        draft = drafted(
            self._config,
            cohort.labels,
            num_clinics=self._site.num_clinics if self._site else len(names),
            run=self._run,
            from_round=self._from_round,
        )
        for name in names:
            folder, actor = self._opened[name]
            mine = training & [place == name for place in places]
            count = len(set(patients[mine]))
            who = self._site.coordinator if self._site else COORDINATOR
            proposal = propose(draft, folder, num_patients=count, coordinator=who)
            # The policy's own ceilings are among the proposal's terms.
            held = folder.ledger.entries()
            afford = partial(require_budget, held, draft.entries, Ceilings(), self._config.privacy)
            require_run(folder, proposal, self._run, actor, afford)
        return {name: self._opened[name][0] for name in names}

    def _register(self, folder: ClinicFolder, patients: Sequence[str]) -> None:
        """Enter the table's consents of a clinic's own patients into its register."""
        own = set(patients)
        records = [record for record in self._records if record.patient in own]
        if not records:
            return
        listed = "\n".join(
            f"{each.patient} {each.consent.model_dump_json()} {each.withdrawn}" for each in records
        )
        folder.consents.import_records(
            records,
            source_digest=hashlib.sha256(listed.encode()).hexdigest(),
            now=datetime.datetime.now(datetime.UTC),
            actor=self._opened[folder.name][1],
        )
        log_changes(folder)


class EvaluationGates:
    """The gates of clinics that a finished run's model is scored at.

    A clinic of the working folder answers from its register and by its policy; rows of any other
    clinic need a licence. A run that brought all data to one place asks that place again: what it
    admitted of its own data may be used, and of other data nobody who withdrew there.

    Args:
        config: The finished run's config.
        workspace: Where the virtual clinics' folders are.
        run: The finished run's id.
        own: Whether the data are those that the run learnt from.
        today: The day of use.
    """

    def __init__(
        self, config: RunConfig, workspace: Workspace, run: str, own: bool, today: datetime.date
    ) -> None:
        self._pooled = config.federation.mode == "centralised"
        self._find = cache(partial(find_virtual_folder, workspace.clinics))
        self._run = run
        self._own = own
        self._purpose = config.purpose
        self._today = today
        self._reason = "consent"
        self._opened: dict[str, tuple[ClinicFolder, str]] = {}

    def door(self, clinic: str, patients: Sequence[str]) -> Door:
        """Open a clinic's gate.

        Args:
            clinic: The clinic's name in the manifest.
            patients: Not used.

        Returns:
            What the clinic lets through.

        Raises:
            IntegrityError: If the clinic's folder was changed.
            PolicyError: If this user may not use its data for a run, or its policy does not
                allow the purpose.
        """
        del patients
        folder = self._find(POOLED if self._pooled else clinic)
        if folder is None:
            return Door()
        self._opened[clinic] = folder, require_role(folder, "run.train")
        if self._purpose not in folder.policy.purposes:
            self._reason = "policy"
            raise PolicyError(
                rule=f"a purpose that the policy of clinic {folder.name} allows",
                got=f"purpose={self._purpose}",
                do="Leave the clinic's rows out, or ask its steward.",
            )
        # An id of other data may be another person's, whom nobody asked.
        strangers = self._pooled and not self._own
        known = _with_noes(folder, self._find(clinic if self._pooled else POOLED))
        consents = OnlyWithdrawals(known) if strangers else known
        return _door(folder, consents)

    def refuse(self) -> None:
        """Write into the opened clinics' logs that no data may be used."""
        for folder, actor in self._opened.values():
            log_refusal(
                folder,
                self._reason,
                run=self._run,
                purpose=self._purpose,
                day=self._today,
                actor=actor,
            )

    def log(self, admissions: Mapping[str, Admission]) -> None:
        """Write the admissions into the logs of the clinics that have one.

        Args:
            admissions: By clinic.
        """
        for clinic, (folder, actor) in self._opened.items():
            log_admission(
                folder,
                admissions[clinic],
                run=self._run,
                purpose=self._purpose,
                day=self._today,
                actor=actor,
            )


def _door(folder: ClinicFolder, consents: Consents) -> Door:
    return Door(consents, folder.policy.fields, folder.policy.licences)


def _with_noes(folder: ClinicFolder, other: ClinicFolder | None) -> Consents:
    """Let who withdrew at a clinic be withdrawn also where data are pooled, and the reverse."""
    return folder.consents if other is None else AlsoWithdrawals(folder.consents, other.consents)


def _read_records(
    config: RunConfig, manifest_root: ImageFolder, today: datetime.date
) -> tuple[ConsentRecord, ...]:
    if config.data.consents is None:
        return ()
    path = require_folder(manifest_root) / config.data.consents
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            rule="the table of consents that data.consents names",
            got=f"data.consents={config.data.consents} ({error.strerror})",
            do="Put it beside the manifest, or leave data.consents out.",
        ) from None
    return read_consents(content, path.name, today=today)
