"""From a config to the recipe that coordinator and clinics follow alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from math import sqrt
from typing import TYPE_CHECKING, Any

from skinml.config import RunConfig
from skinml.data.images import PREPARATION
from skinml.data.settings import DataSettings
from skinml.errors import ConfigError
from skinml.experiments.released import group_names, sets_layout
from skinml.fairness.statistics_tables import TablesLayout, table_layout
from skinml.federated.settings import StrategySettings
from skinml.federated.strategy_rules import LOSS_DRIVEN, require_enough_clinics
from skinml.federated.validation_scores import SCORE_BINS, feature_rows
from skinml.models.bundle import Bundle, BundleSpec, score
from skinml.models.likeness import NUM_FEATURES
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import (
    Release,
    gaussian_releases,
    statistics_release,
    units_of_patient,
)
from skinml.privacy.quantise import GRID
from skinml.privacy.trust import noise_rule
from skinml.records import Arrays, Labels, Predictions, Samples
from skinml.seeding import Seeds
from skinml.training.evaluate import evaluate
from skinml.training.group_weights import GroupBalance, balance_of
from skinml.training.head import HeadLearner
from skinml.training.learner import Learner
from skinml.training.mitigation_rules import GROUP_METHODS
from skinml.training.recipes import RECIPES
from skinml.training.server_optimisers import ServerOptimiser
from skinml.training.tally import TallyLearner

if TYPE_CHECKING:
    from skinml.training.public_images import PublicImages


def build_learner(
    config: RunConfig, classes: Labels, num_features: int, num_clinics: int
) -> Learner:
    """Build the recipe of a run.

    Args:
        config: The run's config.
        classes: What the model tells apart.
        num_features: Features of an item; not used by networks.
        num_clinics: Clinics in the run.

    Returns:
        The recipe; the same at every clinic and at the coordinator.

    Raises:
        ConfigError: If the trust model does not fit the model's kind, the strategy the number of
            clinics, or a public weight any group.
    """
    tables = tables_of(config)
    if tables is not None:
        units = units_of_patient(len(tables.tables), tables.max_clinics)
        return TallyLearner(statistics_release(config.privacy, tables.num_cells), units)
    strategy, missing = config.federation.strategy, config.federation.allowed_missing
    require_enough_clinics(strategy, num_clinics - missing)
    optimiser, balance = server_optimiser(strategy), group_balance(config)
    if config.model.kind == "linear_head":
        head, public = config.training.head, public_knowledge(config, classes, num_features)
        recipe = HeadLearner(
            head,
            config.privacy,
            classes,
            num_features,
            num_clinics,
            public,
            optimiser,
            balance,
            config.mitigation.losses_share,
        )
        if _by_loss(config):
            from skinml.training.loss_weights import loss_weighted_head

            return loss_weighted_head(recipe, head, config.privacy, classes, strategy.q)
        return recipe
    name = config.model.network
    if name is None:
        raise ConfigError(
            rule="model.network where model.kind is network",
            got="model.network=null",
            do="Choose small_cnn or resnet18_groupnorm.",
        )

    # Torch and Opacus take seconds to load, and a head's plan needs neither.
    from skinml.models.networks import build_network
    from skinml.training.network import NetworkLearner

    def build() -> Any:
        return build_network(name, len(classes.names), Seeds(config.seed).stream("weights"))

    pull = strategy.proximal_mu if strategy.name == "fedprox" else 0.0
    network = config.training.network
    steps = NetworkLearner(network, config.privacy, build, optimiser, pull, balance)
    if _by_loss(config):
        from skinml.training.loss_weights import loss_weighted_network

        return loss_weighted_network(steps, network, config.privacy, build, strategy.q)
    return steps


def tables_of(config: RunConfig) -> TablesLayout | None:
    """Lay out the tables that a run counts patients in, from its config alone.

    Args:
        config: The run's config.

    Returns:
        The tables; None for a run that trains a model.

    Raises:
        ConfigError: If the groups of an attribute do not follow from the config.
    """
    asked = config.statistics
    if asked is None:
        return None
    groups = {name: group_names(name, config.data) for name in asked.attributes}
    return TablesLayout(
        tables=tuple(table_layout(each, groups) for each in asked.crossings),
        regions=tuple(sorted(asked.regions.items())) or (("", ()),),
        max_clinics=config.privacy.max_clinics_per_patient,
    )


def _by_loss(config: RunConfig) -> bool:
    """Whether clinics are weighed; an audit asks for the recipe under other trust, without."""
    return config.federation.strategy.name == LOSS_DRIVEN and not config.privacy.private


def group_balance(config: RunConfig) -> GroupBalance | None:
    """Read how a run weighs groups of patients in training.

    Args:
        config: The run's config.

    Returns:
        The balance; None where all patients count the same.

    Raises:
        ConfigError: If a public weight is for a group that there is not.
    """
    chosen = config.mitigation
    if chosen.method not in GROUP_METHODS:
        return None
    return balance_of(chosen, group_names(chosen.group, config.data))


def server_optimiser(strategy: StrategySettings) -> ServerOptimiser | None:
    """Read the coordinator's optimiser from a strategy.

    Args:
        strategy: The strategy.

    Returns:
        The optimiser; None where the recipe's own step is taken.
    """
    if strategy.name not in ("fedadam", "fedyogi"):
        return None
    return ServerOptimiser(
        strategy.name,
        strategy.server_learning_rate,
        strategy.beta_1,
        strategy.beta_2,
        strategy.tau,
    )


def public_knowledge(
    config: RunConfig, classes: Labels, num_features: int
) -> Callable[[], PublicImages] | None:
    """Say how the coordinator opens a recipe's public images.

    Args:
        config: The run's config.
        classes: What the model tells apart.
        num_features: Features of an item.

    Returns:
        The function, which reads the images once and only when it is called; None where the
        recipe has no use for them.
    """
    path = config.training.head.public_images
    if path is None or RECIPES[config.privacy.recipe].needs == "nothing":
        return None

    @cache
    def open_images() -> PublicImages:
        from skinml.training.public_images import public_images

        return public_images(
            path,
            classes.names,
            config.model,
            config.data.limits,
            config.work_dir / "public",
            num_axes=config.training.head.public_axes,
            num_features=num_features,
        )

    return open_images


def validation_release(config: RunConfig) -> Release:
    """Plan the one release about validation patients: a histogram of scores for the threshold.

    Where the config asks for label sets, rows for them follow, and where it asks for a mean of
    features, those for it; each part has its share of the sensitivity. Validation patients are no
    training patients: the whole budget stands open to it.

    Args:
        config: The run's config.

    Returns:
        The release, of L2 sensitivity 1.
    """
    sets = sets_layout(config)
    looked = config.privacy.likeness_share > 0
    name = "validation_scores" if sets is None else "validation_scores_by_group"
    name += "_and_features" if looked else ""
    rows = 2 + (sets.rows if sets else 0) + (feature_rows(NUM_FEATURES) if looked else 0)
    cells = (rows, SCORE_BINS)
    release = Release(name, "validation", "validation", 1.0, 0.0, cells, grid=GRID)
    return gaussian_releases(config.privacy, [(release, 1.0)])[0]


def release_std(config: RunConfig, *, num_clinics: int, num_present: int) -> float:
    """Tell how much noise is in the sum of the release about validation patients.

    Args:
        config: The run's config.
        num_clinics: Clinics in the run.
        num_present: Clinics in the sum.

    Returns:
        Its standard deviation in each number; 0 where there is none.
    """
    rule, release = noise_rule(config.privacy, num_clinics), validation_release(config)
    alone = sqrt(num_present * rule.clinic**2 + rule.coordinator**2)
    return alone * release.noise_multiplier * release.sensitivity


def held_out_release(config: RunConfig) -> Release | None:
    """Plan what a run releases about validation patients.

    Args:
        config: The run's config.

    Returns:
        As `validation_release`; None for a run that only counts.
    """
    return None if config.statistics is not None else validation_release(config)


def clinic_mechanism(config: RunConfig, num_clinics: int) -> Mechanism:
    """Choose a clinic's part of the noise.

    Args:
        config: The run's config.
        num_clinics: Clinics in the run.

    Returns:
        The mechanism.
    """
    return Mechanism(noise_rule(config.privacy, num_clinics).clinic)


def coordinator_mechanism(config: RunConfig, num_clinics: int) -> Mechanism:
    """Choose the coordinator's part of the noise.

    Args:
        config: The run's config.
        num_clinics: Clinics in the run.

    Returns:
        The mechanism.
    """
    return Mechanism(noise_rule(config.privacy, num_clinics).coordinator)


def predictor(config: RunConfig, classes: Labels) -> Callable[[Arrays, Samples], Predictions]:
    """Make the function that scores samples with a model's arrays.

    Args:
        config: The run's config.
        classes: What the model tells apart.

    Returns:
        From a model's arrays and samples to predictions.

    Guarantees:
        Where the run promises privacy, an item's prediction does not depend on the others, not in
        one bit: released counts of patients by score then move for one patient alone.
    """
    spec = model_spec(config, classes)
    # Rounding in a network depends on how many images pass at once.
    together = 1 if config.privacy.private else 64

    def predict(arrays: Arrays, samples: Samples) -> Predictions:
        bundle = Bundle(spec, arrays)
        return evaluate(lambda x: score(bundle, x, batch_size=together), classes, samples)

    return predict


def model_spec(config: RunConfig, classes: Labels) -> BundleSpec:
    """Describe the model of a run as far as its config alone tells.

    Args:
        config: The run's config.
        classes: What the model tells apart.

    Returns:
        The spec, to be completed with what the run found out.
    """
    head = config.model.kind == "linear_head"
    return BundleSpec(
        kind=config.model.kind,
        labels=classes.names,
        malignant=classes.malignant,
        backbone=config.model.backbone if head else "",
        network="" if head else str(config.model.network),
        image_size=config.model.image_size,
        views=config.data.views or ("any",),
        preprocessing=PREPARATION,
        taxonomy_version="",
        bias_input=config.training.head.bias_input,
        config=config.model_dump(mode="json"),
    )


def split_key_id(settings: DataSettings) -> str:
    """Name a way of splitting in the ledger.

    Args:
        settings: The data section; the key and the fractions decide each patient's split.

    Returns:
        A short digest: equal where no patient can be in two different splits.
    """
    shares = settings.fractions
    way = f"{settings.split_key} {shares.train!r} {shares.validation!r} {shares.test!r}"
    if settings.split == "published":
        way += f" published {settings.leakage.shared_units}"
    return hashlib.sha256(f"skinml split {way}".encode()).hexdigest()[:16]
