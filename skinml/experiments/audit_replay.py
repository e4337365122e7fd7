"""Record and replay on neighbouring cohorts (audit tier T0): every release against its sensitivity.

The whole cohort is recorded first: manifest, gate, splits, samples, clinics, rounds, as in a run,
but with zero noise and with sampling streams that both sides share. Then each neighbouring cohort
takes the same path and is asked the same queries. What differs is the doing of one patient.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import get_args

import numpy as np

from skinml.config import RunConfig, parse_config
from skinml.data.feature_store import FeatureStore, store_path
from skinml.durable import make_folder
from skinml.errors import ConfigError, RefusedError
from skinml.experiments.admissions import store_standings
from skinml.experiments.audit_public import (
    PUBLIC_IMAGES_DRAWN,
    drawn_public_images,
    lacks_public_images,
)
from skinml.experiments.audit_sides import Side, Sides, make_sides
from skinml.experiments.cohorts import Gathered, gather, image_positions
from skinml.experiments.progress import Progress, Silence
from skinml.experiments.samples import (
    grounds_by_split,
    prepare_samples,
    store_samples,
)
from skinml.experiments.sites import Terms, clinic_setup
from skinml.experiments.workspace import Workspace
from skinml.federated.clinic import VALIDATION, Clinic, ClinicSetup, schedule
from skinml.federated.messages import Request
from skinml.models.backbones import load_backbone
from skinml.privacy.audit.findings import Change, NotAudited, ReplayFinding
from skinml.privacy.audit.replay import (
    Answer,
    Recording,
    compare,
    compare_company,
    merged_findings,
    totals,
)
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.plan import Release, admissions_release
from skinml.privacy.settings import PrivacySettings, Trust
from skinml.records import Arrays, FloatArray, Samples
from skinml.seeding import Seeds
from skinml.training.features import store_version
from skinml.training.learner import Learner, Round
from skinml.training.network import WEIGHTS
from skinml.training.recipes import RECIPES

TRUSTS: tuple[Trust, ...] = get_args(Trust)
# Two rounds of a kind show what one leaves behind for the next.
_ROUNDS = 2
# A short step keeps a patient's gradients of consecutive rounds alike: one that is counted twice
# then moves a sum by twice the clip, where a long step could turn it round.
_STEP = 0.01
_SAMPLING_ROOT = 20_250_701

Tamper = Callable[[ClinicSetup], ClinicSetup]
"""What a test changes in every clinic of both sides, to see whether the replay notices."""


@dataclass(repr=False)
class OpenedSide:
    """One cohort of a replay behind its gates. Per patient: never log.

    Attributes:
        side: The cohort's manifest and folder.
        gathered: The cohort at its clinics.
        drawn: Whether features are drawn from the images' digests instead of computed.
        samples: Samples by clinic and split, for each model that was asked for.
        num_runs: Runs that were recorded here so far.
    """

    side: Side
    gathered: Gathered
    drawn: bool
    samples: dict[str, Mapping[str, Mapping[str, Samples]]] = field(default_factory=dict)
    num_runs: int = 0


@dataclass(frozen=True, repr=False)
class OpenedSides:
    """The cohorts of a replay behind their gates, see `audit_sides.Sides`.

    Attributes:
        whole: Everybody.
        without: Without one patient, for each patient that was tried.
        copied: With all images of the first of these patients 16 times.
        company: Without another patient, and without the first and that one; None: whether a
            patient's part depends on who else is there is not asked.
    """

    whole: OpenedSide
    without: tuple[OpenedSide, ...]
    copied: OpenedSide
    company: tuple[OpenedSide, OpenedSide] | None


def replay(
    config: RunConfig,
    *,
    trusts: Sequence[Trust] | None = None,
    recipes: Sequence[str] | None = None,
    drawn: bool = False,
    progress: Progress | None = None,
) -> tuple[ReplayFinding | NotAudited, ...]:
    """Replay an experiment on neighbouring cohorts.

    Args:
        config: The experiment's config.
        trusts: Trust models to replay; by default the config's own.
        recipes: Recipes to replay, by their names in `privacy.recipe`; by default all.
        drawn: Whether features are drawn at random for each image instead of computed.
        progress: Hears how far it is.

    Returns:
        One finding for each recipe, trust model, change and kind of release.

    Raises:
        SkinmlError: For whatever keeps a run of this config from its first round.

    Guarantees:
        No ledger of the working folder is written and nothing leaves; the clinics' logs name who
        used the data, as for a run. The same config gives the same distances.
    """
    watcher = progress or Silence()
    with opened_sides(config, drawn=drawn, progress=watcher) as sides:
        return replay_sides(sides, config, trusts=trusts, recipes=recipes, progress=watcher)


@contextmanager
def opened_sides(
    config: RunConfig,
    *,
    drawn: bool = False,
    num_probes: int = 4,
    progress: Progress | None = None,
) -> Iterator[OpenedSides]:
    """Make a replay's cohorts and open their gates.

    Args:
        config: The experiment's config.
        drawn: Whether features are drawn at random for each image instead of computed.
        num_probes: How many patients are tried at most: one of training, then one of validation,
            one of training at another clinic and one of test.
        progress: Hears how far it is.

    Yields:
        The cohorts; their folder is removed at the end.

    Raises:
        SkinmlError: For whatever keeps a run of this config from its samples.
    """
    watcher = progress or Silence()
    make_folder(config.work_dir, "working folder")
    with tempfile.TemporaryDirectory(prefix=".replay-", dir=config.work_dir) as place:
        sides = make_sides(config, Path(place), "replay", num_probes, watcher)

        def opened(side: Side) -> OpenedSide:
            workspace = Workspace(side.config.work_dir)
            return OpenedSide(side, gather(side.config, workspace, "replay", Silence()), drawn)

        yield _opened(sides, opened)


def _opened(sides: Sides, opened: Callable[[Side], OpenedSide]) -> OpenedSides:
    return OpenedSides(
        whole=opened(sides.whole),
        without=tuple(opened(side) for side in sides.without),
        copied=opened(sides.copied),
        company=(opened(sides.without_second), opened(sides.without_both)),
    )


def replay_sides(
    sides: OpenedSides,
    config: RunConfig,
    *,
    trusts: Sequence[Trust] | None = None,
    recipes: Sequence[str] | None = None,
    tamper: Tamper | None = None,
    progress: Progress | None = None,
) -> tuple[ReplayFinding | NotAudited, ...]:
    """Replay a config on cohorts that are open already.

    Args:
        sides: The cohorts, made from this config's data section.
        config: What is run: model, privacy, training.
        trusts: Trust models to replay; by default the config's own.
        recipes: Recipes to replay; by default all.
        tamper: Plants a fault in every clinic of both sides, for tests.
        progress: Hears how far it is.

    Returns:
        One finding for each recipe, trust model, change and kind of release. Where a recipe needs
        public images and the config has none for it, they are drawn and the findings say so. So
        they do where a setting of the config is refused with a recipe, and replayed at its default.

    Raises:
        SkinmlError: For whatever keeps a run of this config from its rounds.
    """
    watcher = progress or Silence()
    chosen = list(trusts or (config.privacy.trust,))
    named = list(recipe_names(config) if recipes is None else recipes)
    watcher.begin("replaying", len(chosen) * len(named))
    found: list[ReplayFinding | NotAudited] = []
    for number, (recipe, trust) in enumerate((r, t) for r in named for t in chosen):
        try:
            public = _public_images(sides, config, recipe)
            variant = variant_of(config, recipe, trust, public)
            drawn = [PUBLIC_IMAGES_DRAWN] if public else []
            note = ", ".join((*_unfit(config, recipe), *drawn))
            done = _replay_one(sides, variant, recipe, trust, tamper or _untouched)
            found += [replace(finding, note=note) for finding in done]
        except (ConfigError, RefusedError) as error:
            words = f"Expected {error.rule}; got {error.got}."
            found.append(NotAudited("T0", f"recipe {recipe}, trust {trust}", words))
        watcher.reached(number + 1)
    return tuple(found)


def recipe_names(config: RunConfig) -> tuple[str, ...]:
    """List the recipes that a config's kind of model can follow.

    Args:
        config: The config.

    Returns:
        The choices of `privacy.recipe` for a head, the network's own name for a network.
    """
    if config.model.kind == "network":
        return (str(config.model.network),)
    choices = PrivacySettings.model_fields.get("recipe")
    return tuple(get_args(choices.annotation)) if choices else ("centred",)


def _public_images(sides: OpenedSides, config: RunConfig, recipe: str) -> Path | None:
    """Draw public images into the replay's own folder, for a recipe that lacks them."""
    if not lacks_public_images(config, recipe):
        return None
    whole = sides.whole
    # Only the whole side leads, and makes queries of them. The folder goes when the replay ends.
    folder = whole.side.config.work_dir / "public-images"
    return drawn_public_images(folder, whole.gathered.cohort.labels.names, config.data)


def _unfit(config: RunConfig, recipe: str) -> Mapping[str, Sequence[str]]:
    """List the head's settings that a recipe refuses, under the words for their replay."""
    needs: Mapping[str, str] = {name: ready.needs for name, ready in RECIPES.items()}
    head = config.training.head
    unfit: dict[str, Sequence[str]] = {}
    if head.centring == "public" and needs.get(recipe) == "nothing":
        unfit["centring paid"] = ("centring",)
    if head.clipping == "by_class" and recipe == "prototypes":
        unfit["clipping flat"] = ("clipping", "class_clip_weights")
    return unfit


def variant_of(
    config: RunConfig, recipe: str, trust: Trust, public_images: Path | None = None
) -> RunConfig:
    """Set recipe and trust model, and few rounds of one noisy step each.

    What the recipe refuses of the head's settings is at its default.

    Args:
        config: The config.
        recipe: One of `recipe_names`.
        trust: The trust model.
        public_images: Public images in place of the config's own.

    Returns:
        The config to replay.

    Raises:
        ConfigError: If the sections do not fit together.
    """
    values = config.model_dump(mode="json")
    values["privacy"] |= {"trust": trust}
    if trust == "none":  # which releases no counts of test patients
        values["fairness"] |= {"evaluation": "exact"}
    if config.model.kind == "network":
        values["training"]["network"] |= {"rounds": _ROUNDS, "steps_per_round": 1}
    else:
        values["training"]["head"] |= {"rounds": _ROUNDS, "learning_rate": _STEP}
        for name in chain.from_iterable(_unfit(config, recipe).values()):
            del values["training"]["head"][name]
        if public_images is not None:
            values["training"]["head"] |= {"public_images": str(public_images)}
        if "recipe" in PrivacySettings.model_fields:
            values["privacy"] |= {"recipe": recipe}
    return parse_config(values)


def _untouched(setup: ClinicSetup) -> ClinicSetup:
    return setup


def _replay_one(
    sides: OpenedSides, config: RunConfig, recipe: str, trust: Trust, tamper: Tamper
) -> tuple[ReplayFinding, ...]:
    """Replay one recipe under one trust model on all sides."""
    whole, queries = _record(sides.whole, config, tamper, None)

    def record(side: OpenedSide) -> Recording:
        return _record(side, config, tamper, queries)[0]

    def compared(one: Recording, other: Recording, change: Change) -> tuple[ReplayFinding, ...]:
        return compare(one, other, recipe=recipe, trust=trust, change=change)

    without = [record(side) for side in sides.without]
    found = [finding for side in without for finding in compared(whole, side, "removed")]
    found += compared(without[0], record(sides.copied), "copied")
    if sides.company is not None:
        second, both = map(record, sides.company)
        found += compare_company(whole, without[0], second, both, recipe=recipe, trust=trust)
    return merged_findings(found)


def _record(
    opened: OpenedSide, config: RunConfig, tamper: Tamper, queries: Sequence[Arrays] | None
) -> tuple[Recording, Sequence[Arrays]]:
    """Run all rounds on one side; without queries lead, with them follow."""
    setups = [tamper(_silent(setup)) for setup in _setups(opened, config)]
    clinics = [Clinic(setup) for setup in setups]
    learner, names = setups[0].learner, setups[0].participants
    admissions = admissions_release(config.privacy)
    rounds = schedule(learner, setups[0].validation, admissions, setups[0].counted)
    state, asked, answers = learner.start(), [], []
    for number, round_ in enumerate(rounds):
        query = _query(learner, round_, state) if queries is None else queries[number]
        request = Request(setups[0].run, round_.number, 1, names, query)
        replies = {clinic.name: clinic.answer(request) for clinic in clinics}
        mine = [
            Answer(name, release, _units(config, release) * np.asarray(reply[release.name]))
            for name, reply in replies.items()
            for release in round_.releases
        ]
        answers += mine
        if config.privacy.trust != "local":
            answers += totals(mine)
        if round_.kind != VALIDATION and queries is None:
            sums = {r.name: sum_of(replies.values(), r.name) for r in round_.releases}
            state = learner.advance(round_, state, sums, len(clinics))
        asked.append(query)
    return Recording(_public(setups, rounds, asked), tuple(answers)), asked


def _setups(opened: OpenedSide, config: RunConfig) -> list[ClinicSetup]:
    """Store the side's samples for a run of its own, and open its clinics as a node does."""
    gathered, own = opened.gathered, opened.side.config
    config = own.model_copy(
        update={
            "model": config.model,
            "training": config.training,
            "fairness": config.fairness,
            "privacy": config.privacy.model_copy(update={"budget": own.privacy.budget}),
        }
    )
    opened.num_runs += 1
    run = f"replay-{opened.num_runs}"
    samples = _samples(opened, config)
    for clinic, folder in gathered.folders.items():
        mine = gathered.places == clinic
        grounds = grounds_by_split(gathered.cohort, mine, config.purpose, folder.policy.licences)
        store_samples(folder, run, samples[clinic], grounds)
        store_standings(folder, run, gathered.cohort.admissions, config.federation.mode)
    inputs = next(iter(samples.values()))["train"].inputs
    terms = Terms(
        run=run,
        config=config.model_dump_json(),
        clinics=tuple(gathered.folders),
        clinics_root=str(Workspace(own.work_dir).clinics.resolve()),
        classes=gathered.cohort.labels,
        num_features=inputs.shape[1] if inputs.ndim == 2 else 0,
    )
    return [clinic_setup(terms, {"clinic": name}) for name in terms.clinics]


def _samples(opened: OpenedSide, config: RunConfig) -> Mapping[str, Mapping[str, Samples]]:
    key = config.model.model_dump_json()
    if key not in opened.samples:
        if opened.drawn and config.model.kind == "linear_head":
            _draw_features(opened.gathered, config)
        opened.samples[key], _ = prepare_samples(config, opened.gathered, Silence())
    return opened.samples[key]


def _draw_features(gathered: Gathered, config: RunConfig) -> None:
    """Put features into the clinics' caches that follow from the images' digests alone."""
    backbone = load_backbone(config.model)
    version = store_version(backbone)
    ids = gathered.cohort.images["patient_id"].astype(str).tolist()
    for name, folder in gathered.folders.items():
        positions = image_positions(gathered.cohort, gathered.places == name)
        digests = [gathered.digests[at] for at in positions]
        rows = [
            Seeds(0).stream(digest.hex()).gamma(0.3, size=backbone.num_features)
            for digest in digests
        ]
        make_folder(folder.features, "folder of features")
        path = store_path(folder.features, version)
        store = FeatureStore(path, folder.key, folder.patient_keys, version)
        store.append(digests, [ids[at] for at in positions], np.asarray(rows, dtype=np.float32))


def _silent(setup: ClinicSetup) -> ClinicSetup:
    """Take the noise away and let both sides sample alike; the ledger says: no guarantee."""
    rng = Seeds(0).stream("silence")
    silence = Mechanism(0.0, lambda: fixed_noise(rng))
    # Masks would hide what is compared, and cancel in the sum anyway.
    return replace(setup, mechanism=silence, sampling_root=_SAMPLING_ROOT, secure=None)


def _query(learner: Learner, round_: Round, state: Arrays) -> Arrays:
    return learner.model(state) if round_.kind == VALIDATION else learner.query(round_, state)


def _units(config: RunConfig, release: Release) -> float:
    """Turn what leaves into the units of its sensitivity: local steps are parts of a sum."""
    network = config.training.network
    if release.name != WEIGHTS:
        return 1.0
    divisor = release.sampling_prob * network.expected_patients
    return divisor / network.learning_rate


def _public(
    setups: Sequence[ClinicSetup], rounds: Sequence[Round], asked: Sequence[Arrays]
) -> Mapping[str, object]:
    shapes = [{name: values.shape for name, values in query.items()} for query in asked]
    events = [
        (setup.name, entry.name, entry.purpose, entry.split, entry.event)
        for setup in setups
        for entry in setup.ledger.entries()
        if entry.binding.run == setup.run
    ]
    planned = [(setup.name, setup.learner.rounds, setup.validation) for setup in setups]
    return {
        "the planned releases": (planned, tuple(rounds)),
        "the events of the ledger": events,
        "the shapes of the queries": shapes,
    }


def sum_of(replies: Iterable[Arrays], name: str) -> FloatArray:
    """Add up one release of all clinics."""
    return np.asarray(np.sum([reply[name] for reply in replies], axis=0))
