"""The approval card: all that somebody at a clinic should know before saying yes to a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.hints import placed
from skinml.config import RunConfig, experiments, load_config
from skinml.deployment.joining import find_membership
from skinml.deployment.proposals import Proposed, proposed
from skinml.deployment.run_proposal import asked, config_of
from skinml.errors import SkinmlError
from skinml.experiments.site_count import SiteCount, count_site
from skinml.privacy.allowance import epsilon_left
from skinml.privacy.ledger import Entry, entries_of_year
from skinml.stewardship.days import day_of
from skinml.stewardship.policy_terms import Proposal as Terms
from skinml.stewardship.policy_terms import Term, compare

if TYPE_CHECKING:
    from skinml.privacy.plan import Release

_FORMS: Mapping[str, str] = {
    "distributed": "under masks: only the sum over the clinics can be read, noise included",
    "local": "with all of its noise, added here",
    "central": "without noise: the coordinator sees it and adds the noise",
    "none": "without noise: anybody who reads it may learn of single patients",
}
# What the coordinator's own machine reads, or a simulation: at a clinic its own files stand in.
_NOT_READ = (
    "work_dir",
    "data.source",
    "data.root",
    "data.manifest",
    "data.consents",
    "data.partition.",
    "data.synthetic.",
    "federation.mode",
    "federation.cpus",
    "tracking.",
)
# What a run that only counts reads of its config.
_OF_COUNTS = {"name", "seed", "data", "privacy", "federation", "statistics"}
_SPLITS = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Leaving:
    """What leaves the clinic, one kind of it.

    Attributes:
        what: Its name.
        about: Whose data it is a sum of.
        shape: Shape of the array; None where it has a number for each feature of the network.
        times: How many times it leaves.
        noise_multiplier: Noise of the sum that can be read, as a multiple of what one patient can
            change; 0: none.
    """

    what: str
    about: str
    shape: tuple[int, ...] | None
    times: int
    noise_multiplier: float


@dataclass(frozen=True)
class Cost:
    """What a run costs under one ceiling of the policy.

    Attributes:
        span: `run`, `year` or `life`.
        ceiling: The greatest epsilon; None where there is none.
        reached: Epsilon with this run.
        left: Epsilon of one more run that there is room for afterwards; None without a ceiling.
    """

    span: str
    ceiling: float | None
    reached: float
    left: float | None


@dataclass(frozen=True)
class Card:
    """What somebody is asked to answer.

    Attributes:
        proposed: The proposal and its state.
        config: The config, a line a value, but for what no clinic's run reads.
        changed: Each value that differs from the experiment of this name in the installed
            release: its name, the release's value and the proposal's. None where the release
            has no such experiment.
        terms: How it compares with the policy.
        leaving: What leaves.
        form: In what form that leaves, in words.
        costs: What it costs: of the run, a year and for life.
        delta: Delta that each epsilon is read at.
        data: What of the data would be used; None where that could not be counted.
        data_note: Why not, in words.
        known_code: Whether the code that travels is the installed release's own.
        tables: What patients would be counted by, a table each; empty for a training.
        charged: Epsilon that the ledger holds for the run already; the costs count what is left of
            it on top, and no round twice.
        steering: In words, how groups of patients, or clinics, steer training; "" where they do
            not.
    """

    proposed: Proposed
    config: tuple[tuple[str, str], ...]
    changed: tuple[tuple[str, str, str], ...] | None
    terms: tuple[Term, ...]
    leaving: tuple[Leaving, ...]
    form: str
    costs: tuple[Cost, ...]
    delta: float
    data: SiteCount | None
    data_note: str
    known_code: bool
    steering: str
    tables: tuple[str, ...] = ()
    charged: float = 0.0

    @property
    def refused(self) -> tuple[str, ...]:
        """Names of the terms that the policy does not allow."""
        return tuple(term.name for term in self.terms if term.verdict == "refused")

    @property
    def most(self) -> float | None:
        """The greatest epsilon that the run could cost here, however often its rounds are tried.

        A round that is tried again, or that a resumed run asks for anew, is charged again, until
        the next charge would pass a ceiling of the policy. None where the policy has none.
        """
        return min((each.ceiling for each in self.costs if each.ceiling is not None), default=None)


def card_of(folder: ClinicFolder, run: str, *, now: datetime | None = None) -> Card:
    """Draw up the card of a run.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        now: The time, with its zone; by default the clock's.

    Returns:
        The card. Its counts are exact: they stay here.

    Raises:
        ConfigError: If nobody asked for such a run, or its config does not fit this release.
        IntegrityError: If the folder was changed.
        PolicyError: If the user may not approve runs; the audit log says so.
    """
    from skinml.deployment.bundle import digest

    require_role(folder, "run.approve")
    at = now or datetime.now(UTC)
    found = proposed(folder, run, now=at)
    config = config_of(found.proposal)
    draft, terms = asked(folder, found.proposal)
    data, note = _data(folder, config, day_of(at))
    return Card(
        proposed=found,
        config=tuple(_values(config).items()),
        changed=_changed(config),
        terms=compare(folder.policy, _counted(terms, data)),
        leaving=_leaving(config, draft.releases),
        form=_FORMS[config.privacy.trust],
        costs=_costs(folder, draft.entries, run, terms.delta, at),
        delta=terms.delta,
        data=data,
        data_note=placed(note, folder.path),
        known_code=found.proposal.bundle == digest(),
        steering=_steering(config),
        tables=config.statistics.tables if config.statistics else (),
        charged=_charged(folder, run, terms.delta),
    )


def _steering(config: RunConfig) -> str:
    """Say whom a mitigation lets count more; patients' groups leave as sums over patients only."""
    chosen, group = config.mitigation, config.mitigation.group.replace("_", " ")
    counts = "weights of the config" if chosen.weights else "sums of how many are in each group"
    words = {
        "reweigh": f"How much a patient counts depends on their {group}, by {counts}.",
        "balanced_sampling": f"How often a patient is drawn depends on their {group}, by {counts}.",
        "group_dro": f"Groups by {group} for whom the model does worse count more, by sums over "
        "each group.",
        "qfedavg": "Clinics for whose patients the model does worse count more.",
    }
    return words.get(chosen.method, "")


def _leaving(config: RunConfig, releases: Iterable[Release]) -> tuple[Leaving, ...]:
    """Count releases of one kind."""
    # A head is planned with one feature, whatever its network has.
    planned = config.model.kind == "linear_head"
    kinds = Counter(
        (
            each.name,
            each.split,
            None if planned and each.purpose == "training" else each.shape,
            each.noise_multiplier,
        )
        for each in releases
    )
    return tuple(
        Leaving(
            what=name.replace("_", " "),
            about=f"{_SPLITS[split]} patients" if split in _SPLITS else "all patients",
            shape=shape,
            times=times,
            noise_multiplier=noise,
        )
        for (name, split, shape, noise), times in kinds.items()
    )


def _charged(folder: ClinicFolder, run: str, delta: float) -> float:
    from skinml.privacy.ledger import spent

    held = tuple(entry for entry in folder.ledger.entries() if entry.binding.run == run)
    return spent(held, delta) if held else 0.0


def _costs(
    folder: ClinicFolder, planned: tuple[Entry, ...], run: str, delta: float, now: datetime
) -> tuple[Cost, ...]:
    from skinml.privacy.ledger import spent

    limits, held = folder.policy.privacy, folder.ledger.entries()
    before = tuple(entry for entry in held if entry.binding.run == run)
    spans = (
        ("run", limits.max_epsilon_per_run, before),
        ("year", limits.max_epsilon_per_year, entries_of_year(held, now)),
        ("life", limits.max_epsilon_for_life, held),
    )
    found = []
    for span, ceiling, counted in spans:
        entries = (*counted, *planned)
        reached = spent(entries, delta)
        left = None
        if ceiling is not None and span != "run":
            left = epsilon_left(entries, ceiling, delta) if reached < inf else 0.0
        found.append(Cost(span, ceiling, reached, left))
    return tuple(found)


def _data(folder: ClinicFolder, config: RunConfig, day: date) -> tuple[SiteCount | None, str]:
    """Count as the run itself would; a problem of the data is told and no error."""
    membership = find_membership(folder)
    if membership is None or membership.data is None:
        return None, (
            "nobody has said yet where the list and its images are. To count, end what serves "
            "and type: skinml clinic serve --data IMAGES --folder FOLDER"
        )
    try:
        return count_site(
            folder,
            config,
            day,
            data=Path(membership.data),
            manifest=membership.manifest,
            taxonomy=None if membership.taxonomy is None else Path(membership.taxonomy),
        ), ""
    except SkinmlError as error:
        look = "skinml clinic check --data IMAGES --folder FOLDER"
        return None, f"{error} To see all about the data: {look}"


def _changed(config: RunConfig) -> tuple[tuple[str, str, str], ...] | None:
    """Hold a config against the installed experiment of its name."""
    if config.name not in experiments():
        return None
    usual = load_config(config.name)
    if (usual.statistics is None) != (config.statistics is None):
        return None  # another experiment under this name
    ours, theirs = _values(usual), _values(config)
    return tuple(
        (name, ours.get(name, "not set"), theirs.get(name, "not set"))
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    )


def _counted(terms: Terms, data: SiteCount | None) -> Terms:
    return terms if data is None else replace(terms, patients=data.num_training)


def _values(config: RunConfig) -> dict[str, str]:
    if config.statistics is not None:
        counted = config.model_dump(mode="json", include=_OF_COUNTS)
        return {
            name: value
            for name, value in _leaves(counted).items()
            if not name.startswith(_NOT_READ)
        }
    other = "training.network." if config.model.kind == "linear_head" else "training.head."
    found = _leaves(config.model_dump(mode="json", exclude={"clinic"}))
    return {
        name: value for name, value in found.items() if not name.startswith((*_NOT_READ, other))
    }


def _leaves(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = _shown(value)
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    if value is None or value == {}:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
