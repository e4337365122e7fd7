"""An audit of an experiment: the tiers that were asked for, on its own data, through its own code.

Nothing is released and no ledger is charged; the clinics' logs name who used the data. The figures
are exact and about patients: they belong to those who may see the data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

from skinml.config import RunConfig, load_config, require_trained
from skinml.errors import ConfigError, require_one_of
from skinml.experiments.approval import drafted, expected_classes
from skinml.experiments.audit_canaries import black_box, white_box
from skinml.experiments.audit_inversion import invert_heads, invert_pictures
from skinml.experiments.audit_membership import Game, audit_membership
from skinml.experiments.audit_replay import replay
from skinml.experiments.cohorts import Gathered, gather
from skinml.experiments.progress import Progress, Silence
from skinml.experiments.samples import prepare_samples, require_one_view
from skinml.experiments.workspace import Workspace, new_run_id
from skinml.privacy.audit.findings import NotAudited
from skinml.privacy.audit.inversion import Effort, Picture
from skinml.privacy.audit.record import TIERS, AuditRecord, Finding
from skinml.privacy.ledger import spent
from skinml.records import Samples
from skinml.reports.audit_page import AuditFiles, audit_to_json, write_audit
from skinml.reports.audit_tables import Verdict, verdicts

QUICK = ("T0", "T1")
ALL_TIERS = TIERS
AUDITS = "audits"
_VERSIONS = ("skinml", "torch", "opacus", "dp-accounting", "numpy", "scipy")


@dataclass(frozen=True)
class Audited:
    """A finished audit.

    Attributes:
        record: What it found.
        files: Its page and its figures.
    """

    record: AuditRecord
    files: AuditFiles

    @property
    def result(self) -> dict[str, Any]:
        """The object of `--json`."""
        return audit_to_json(self.record) | {"report": str(self.files.html)}

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The lines that a reader needs first."""
        return verdicts(self.record)


@dataclass
class _Work:
    """One audit while it goes on. The data are read when the first tier asks for them."""

    config: RunConfig
    audit: str
    epsilon: float
    progress: Progress
    game: Game | None
    effort: Effort | None
    found: list[Finding] = field(default_factory=list)
    missing: list[NotAudited] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()

    @cached_property
    def gathered(self) -> Gathered:
        """The clinics' data behind their gates."""
        return gather(self.config, Workspace(self.config.work_dir), self.audit, self.progress)

    @cached_property
    def training(self) -> Mapping[str, Samples]:
        """Each clinic's training samples. Per patient: never log."""
        samples, _ = prepare_samples(self.config, self.gathered, self.progress)
        return {name: parts["train"] for name, parts in samples.items()}

    def keep(self, results: Sequence[Finding | NotAudited]) -> None:
        """Sort results."""
        self.found += [each for each in results if not isinstance(each, NotAudited)]
        self.missing += [each for each in results if isinstance(each, NotAudited)]


def _require_own_splits(config: RunConfig) -> None:
    """Refuse attacks on who trained where the same patients trained and tested."""
    if config.data.leakage.shared_units == "report":
        raise ConfigError(
            rule="data.leakage.shared_units error or leave_out for an audit",
            got="data.leakage.shared_units=report",
            do="Audit it with data.leakage.shared_units=leave_out.",
        )


def audit(
    experiment: str,
    overrides: Sequence[str] = (),
    *,
    tiers: Sequence[str] = QUICK,
    out: Path | None = None,
    game: Game | None = None,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> Audited:
    """Audit an experiment and write the page.

    Args:
        experiment: The experiment's name.
        overrides: Changes to its config, such as "privacy.epsilon=1".
        tiers: Which of `TIERS`.
        out: Where the page goes; by default a folder of its own below WORK_DIR/audits.
        game: How much the attacker of tier T3 does.
        effort: How hard the attacker searches for pictures.
        progress: Hears how far it is.

    Returns:
        The finished audit.

    Raises:
        SkinmlError: For whatever keeps a run of this experiment from its data or its rounds, or
            the page from being written; see `skinml.errors`.
    """
    for tier in tiers:
        require_one_of(TIERS, tier=tier)
    config = load_config(experiment, overrides)
    require_trained(config)
    require_one_view(config)
    _require_own_splits(config)
    began, clock = datetime.now(UTC), time.monotonic()
    name = new_run_id(config.name, began)
    work = _Work(config, name, charged(config), progress or Silence(), game, effort)
    chosen = tuple(tier for tier in TIERS if tier in tiers)
    for tier in chosen:
        _RUN[tier](work)
    record = AuditRecord(
        audit=name,
        experiment=config.name,
        started=began.isoformat(timespec="seconds"),
        wall_s=time.monotonic() - clock,
        tiers=chosen,
        private=config.privacy.private,
        trust=config.privacy.trust,
        unit=config.privacy.unit,
        unit_stands_for=config.data.unit,
        epsilon=work.epsilon,
        delta=config.privacy.delta,
        data={"name": config.data.name},
        findings=tuple(work.found),
        not_audited=tuple(work.missing),
        notes=work.notes,
        pictures=work.pictures,
        # Policies name users of computers: they stay at the clinics.
        config=config.model_dump(mode="json", exclude={"clinic"}),
        versions={package: version(package) for package in _VERSIONS},
    )
    folder = out or Workspace(config.work_dir).root / AUDITS / name
    return Audited(record, write_audit(record, folder))


def charged(config: RunConfig) -> float:
    """Compute what a run of a config charges to a clinic's ledger.

    Args:
        config: The config.

    Returns:
        Epsilon at the config's delta; infinite without a promise.

    Raises:
        ConfigError: If the sections do not fit together.
    """
    if not config.privacy.private:
        return inf
    privacy = config.privacy
    # The events of one clinic are the same for any number of clinics with an honest one among them.
    enough = privacy.tolerated_dropouts + privacy.colluding_clinics + 1
    draft = drafted(config, expected_classes(config), num_clinics=enough, run="audit")
    return spent(draft.entries, privacy.delta)


def _replay(work: _Work) -> None:
    work.keep(replay(work.config, progress=work.progress))


def _white_box(work: _Work) -> None:
    work.keep(white_box(work.config, progress=work.progress))


def _black_box(work: _Work) -> None:
    work.keep(black_box(work.config, progress=work.progress))


def _membership(work: _Work) -> None:
    if work.config.model.kind != "linear_head":
        why = (
            "It trains dozens of models, which is cheap for heads on cached features and not for "
            "networks that are trained end to end."
        )
        work.keep([NotAudited("T3", f"network {work.config.model.network}", why)])
        return
    work.keep(
        audit_membership(
            work.config,
            work.training,
            work.gathered.cohort.labels,
            work.epsilon,
            game=work.game,
            progress=work.progress,
        )
    )


def _inversion(work: _Work) -> None:
    classes = work.gathered.cohort.labels
    if work.config.model.kind == "linear_head":
        done = invert_heads(work.config, work.training, classes)
    else:
        done = invert_pictures(
            work.config,
            work.training,
            classes,
            may_be_shown=not work.gathered.cohort.private,
            effort=work.effort,
            progress=work.progress,
        )
    work.keep(done.findings)
    work.notes["inversion"] = done.note
    work.pictures = done.pictures


_RUN: Mapping[str, Callable[[_Work], None]] = {
    "T0": _replay,
    "T1": _white_box,
    "T2": _black_box,
    "T3": _membership,
    "inversion": _inversion,
}
