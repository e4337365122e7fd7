"""How a node of a run opens its clinic: from plain values to a clinic that can answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from pathlib import Path

from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.gate import policy_ceilings, require_role
from skinml.clinic.releases import ReleaseRecord
from skinml.config import RunConfig, parse_config
from skinml.errors import ConfigError, IntegrityError
from skinml.experiments.admissions import Standings, read_standings
from skinml.experiments.approval import COORDINATOR, terms_of
from skinml.experiments.learners import (
    build_learner,
    clinic_mechanism,
    held_out_release,
    predictor,
    split_key_id,
)
from skinml.experiments.likeness import feature_part
from skinml.experiments.released import counts_release, sets_layout
from skinml.experiments.samples import (
    Grounds,
    admitted,
    keep_personal_head,
    keep_predictions,
    open_samples,
)
from skinml.experiments.sealed_book import SealedBook
from skinml.federated.clinic import Clinic, ClinicSetup, schedule
from skinml.federated.secure_clinic import SecureClinic, secure_clinic
from skinml.federated.secure_rounds import session_for
from skinml.federated.secure_session import Session
from skinml.journal import Mark
from skinml.privacy.ledger import Ceilings, Entry
from skinml.privacy.plan import admissions_release
from skinml.records import EVERY_SPLIT, SPLITS, Arrays, BoolArray, Labels, Samples
from skinml.seeding import Seeds
from skinml.stewardship.days import this_day
from skinml.stewardship.encryption import derive_key
from skinml.stewardship.policy_terms import Proposal, require_within
from skinml.training.personal_head import personal_head


@dataclass(frozen=True)
class Terms:
    """What every node of a run needs to know; travels to worker processes as plain values.

    Attributes:
        run: The run's id.
        config: The run's config as JSON.
        clinics: The clinics' names in the order of the nodes.
        clinics_root: The folder of all clinics of this machine.
        classes: What the model tells apart.
        num_features: Features of an item; 0 for networks.
        registered: Each clinic with its public signing key, where sums leave under masks.
        coordinator: Who asks.
        simulated: Whether one machine sees everything.
    """

    run: str
    config: str
    clinics: tuple[str, ...]
    clinics_root: str
    classes: Labels
    num_features: int
    registered: tuple[tuple[str, str], ...] = ()
    coordinator: str = COORDINATOR
    simulated: bool = True


@dataclass(frozen=True)
class Opener:
    """Opens clinics for one run: the callable that travels to worker processes.

    Flower pickles it anew for every message; two copies are equal where their terms are, so that
    a worker that has opened a clinic knows it again.

    Attributes:
        terms: What every node of the run knows.
    """

    terms: Terms

    def __call__(self, node: Mapping[str, object]) -> Clinic:
        """Open the clinic of one node, see `open_clinic`."""
        return open_clinic(self.terms, node)


def open_clinic(terms: Terms, node: Mapping[str, object]) -> Clinic:
    """Open the clinic of one node.

    Args:
        terms: What every node of the run knows.
        node: The node's config: its partition's number, or its clinic's name.

    Returns:
        The clinic, ready to answer.

    Raises:
        ConfigError: If the node belongs to no clinic of the run.
        IntegrityError: If its folder or its samples were changed; or if it adds a share of the
            noise, and the terms lack the keys under which shares are summed.
        PolicyError: If this user may not run trainings there.
    """
    return open_site(terms, _folder_of(terms, node))


def open_site(terms: Terms, folder: ClinicFolder) -> Clinic:
    """Open a clinic for a run.

    Args:
        terms: What every node of the run knows.
        folder: The clinic's folder, with its samples of the run.

    Returns:
        The clinic, ready to answer.

    Raises:
        IntegrityError: If its folder or its samples were changed; or if it adds a share of the
            noise, and the terms lack the keys under which shares are summed.
        PolicyError: If this user may not run trainings there.
    """
    return Clinic(site_setup(terms, folder))


def site_setup(terms: Terms, folder: ClinicFolder) -> ClinicSetup:
    """Gather everything that a clinic brings to a run.

    Args:
        terms: What every node of the run knows.
        folder: The clinic's folder, with its samples of the run.

    Returns:
        What `Clinic` asks for.

    Raises:
        IntegrityError: As `open_site`.
        PolicyError: If this user may not run trainings there.
    """
    setup = _setup_of(terms, folder)
    # Terms come from the coordinator. Without keys a clinic's sum would leave as it is, with one
    # share of the noise, which protects nobody.
    if 0 < setup.mechanism.share < 1 and sorted(dict(terms.registered)) != sorted(terms.clinics):
        raise IntegrityError(
            rule="one signing key of each clinic in a run that shares the noise out "
            "(privacy.trust=distributed)",
            got=f"{len(terms.registered)} keys for {len(terms.clinics)} clinics",
            do="Give every node the registered keys of the run's clinics.",
        )
    return setup


def clinic_setup(terms: Terms, node: Mapping[str, object]) -> ClinicSetup:
    """Gather everything that the clinic of one node brings to a run.

    Args:
        terms: What every node of the run knows.
        node: The node's config: its partition's number, or its clinic's name.

    Returns:
        What `Clinic` asks for.

    Raises:
        ConfigError: If the node belongs to no clinic of the run.
        IntegrityError: If its folder or its samples were changed.
        PolicyError: If this user may not run trainings there.
    """
    return _setup_of(terms, _folder_of(terms, node))


def _folder_of(terms: Terms, node: Mapping[str, object]) -> ClinicFolder:
    return open_folder(Path(terms.clinics_root) / _clinic_of(terms, node))


def _setup_of(terms: Terms, folder: ClinicFolder) -> ClinicSetup:
    config = parse_config(json.loads(terms.config))
    actor, count = require_role(folder, "run.train"), len(terms.clinics)
    splits = SPLITS if config.statistics is None else (EVERY_SPLIT,)
    opened = {split: open_samples(folder, terms.run, split) for split in splits}
    samples = {split: part for split, (part, _) in opened.items()}
    record = ReleaseRecord(folder, terms.run, actor)
    learner = build_learner(config, terms.classes, terms.num_features, count)
    validation = held_out_release(config)
    counts = admissions_release(config.privacy)
    tested = counts_release(config, terms.clinics)
    standings = read_standings(folder, terms.run) if counts else Standings({})
    rounds = schedule(learner, validation, counts, tested.release if tested else None)
    releases = [release for round_ in rounds for release in round_.releases]
    admitted_now = _admissions(folder, config.purpose, opened)
    asked = terms_of(config, releases, num_clinics=count, coordinator=terms.coordinator)
    return ClinicSetup(
        name=folder.name,
        run=terms.run,
        participants=terms.clinics,
        learner=learner,
        validation=validation,
        samples=samples,
        predict=predictor(config, terms.classes),
        keep=partial(keep_predictions, folder, terms.run),
        admitted=admitted_now,
        note=partial(_note, record, samples, standings),
        ledger=folder.ledger,
        ceilings=partial(_ceilings, folder, asked),
        least_patients=folder.policy.least_patients,
        mechanism=clinic_mechanism(config, count),
        privacy=config.privacy,
        split_key_id=split_key_id(config.data),
        sampling_root=sampling_root(config, folder, simulated=terms.simulated),
        simulated=terms.simulated,
        secure=_secure(config, terms, folder),
        book=SealedBook(folder, terms.run, plain=True),
        admissions=standings.counts if counts else None,
        not_finite=record.note_not_finite,
        personalise=_personaliser(config, terms, folder, samples, admitted_now),
        test_counts=tested,
        label_sets=sets_layout(config),
        features=feature_part(config),
    )


def _personaliser(
    config: RunConfig,
    terms: Terms,
    folder: ClinicFolder,
    samples: Mapping[str, Samples],
    admitted_now: Callable[[str], BoolArray],
) -> Callable[[Arrays], None]:
    """Say what a clinic makes of the final model for itself: a head of its own, or nothing."""
    settings = config.training.personal_head

    def make(model: Arrays) -> None:
        if not settings.keep:
            return
        train, test = (samples[split].take(admitted_now(split)) for split in ("train", "test"))
        own = personal_head(
            model,
            train,
            terms.classes,
            pull=settings.pull,
            bias_input=config.training.head.bias_input,
        )
        made = predictor(config, terms.classes)(own, test)
        keep_personal_head(folder, terms.run, own, made)

    return make


def secure_session(config: RunConfig, terms: Terms) -> Session | None:
    """Write down the terms of a run's secure sums.

    Args:
        config: The run's config.
        terms: What every node knows.

    Returns:
        The terms; None where clinics' sums leave as they are.

    Raises:
        ConfigError: If clinics, dropouts and colluding clinics do not fit together.
    """
    if not terms.registered:
        return None
    privacy = config.privacy
    return session_for(
        terms.run, terms.registered, privacy.tolerated_dropouts, privacy.colluding_clinics
    )


def registered_keys(
    config: RunConfig, folders: Mapping[str, ClinicFolder]
) -> tuple[tuple[str, str], ...]:
    """Collect the public signing keys of this machine's clinics where sums leave under masks.

    Args:
        config: The run's config.
        folders: The clinics' folders by name.

    Returns:
        Each clinic with its key; none where sums leave as they are.
    """
    if config.privacy.trust != "distributed" or len(folders) == 1:
        return ()
    return tuple((name, each.identity.public_key) for name, each in folders.items())


def _secure(config: RunConfig, terms: Terms, folder: ClinicFolder) -> SecureClinic | None:
    session = secure_session(config, terms)
    if session is None:
        return None
    secret = derive_key(folder.key, f"secure sums of run {terms.run}")
    return secure_clinic(
        session, folder.name, secret, folder.signing_key, SealedBook(folder, terms.run)
    )


def sampling_root(config: RunConfig, folder: ClinicFolder, *, simulated: bool = True) -> int:
    """Choose the seed of a clinic's sampling streams.

    Amplification by sampling holds only while the sample is secret, so that a clinic with real
    images derives it from its key. Drawn patients have no secrets, and without a promise there is
    nothing to keep: there the samples follow from the run's seed and repeat.

    Args:
        config: The run's config.
        folder: The clinic's folder.
        simulated: Whether one machine sees everything; a real clinic's patients are never drawn.

    Returns:
        The seed.
    """
    drawn = simulated and config.data.source == "synthetic"
    if config.privacy.private and not drawn:
        return folder.secret_number("sampling")
    return Seeds(config.seed).integer(f"sampling/{folder.name}")


def _clinic_of(terms: Terms, node: Mapping[str, object]) -> str:
    name, place = node.get("clinic"), node.get("partition-id")
    if isinstance(name, str) and name in terms.clinics:
        return name
    if isinstance(place, int) and 0 <= place < len(terms.clinics):
        return terms.clinics[place]
    raise ConfigError(
        rule="a node of one of the run's clinics",
        got=f"clinic={name}, partition-id={place}",
        do="Start one node for each clinic of the run.",
    )


def _ceilings(folder: ClinicFolder, proposal: Proposal) -> Ceilings:
    """Hold the run against the policy as it is now, for it can change while a run goes on."""
    require_role(folder, "run.train")
    require_within(folder.policy, proposal, before_counting=True)
    return policy_ceilings(folder)


def _admissions(
    folder: ClinicFolder, purpose: str, opened: Mapping[str, tuple[Samples, Grounds]]
) -> Callable[[str], BoolArray]:
    """Judge each split anew where the register or the day is another than when last asked."""

    @cache
    def judged(split: str, register: Mark, day: date) -> BoolArray:
        del register  # what the register says at this mark never changes
        samples, grounds = opened[split]
        return admitted(folder, samples, grounds, purpose, day)

    return lambda split: judged(split, folder.consents.mark(), this_day())


def _note(
    record: ReleaseRecord,
    samples: Mapping[str, Samples],
    standings: Standings,
    entries: tuple[Entry, ...],
    masks: Mapping[str, BoolArray],
) -> None:
    read = {split: samples[split].patients[mask].tolist() for split, mask in masks.items()}
    everybody = EVERY_SPLIT not in masks and any(e.split == EVERY_SPLIT for e in entries)
    record.note(entries, read, {EVERY_SPLIT: list(standings.cells)} if everybody else {})
