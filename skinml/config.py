"""From YAML files and key=value overrides to one frozen, validated config.

Hydra composes the files; pydantic validates the outcome. An unknown key is an error that names
the nearest known one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from skinml.data.settings import DataSettings
from skinml.data.table_settings import EXPERIMENT, StatisticsSettings
from skinml.errors import ConfigError
from skinml.fairness.settings import FairnessSettings
from skinml.federated.settings import FederationSettings
from skinml.federated.strategy_rules import require_allowed
from skinml.models.settings import ModelSettings
from skinml.privacy.settings import PrivacySettings
from skinml.stewardship.purposes import Purpose
from skinml.stewardship.settings import VirtualClinicSettings
from skinml.tracking.settings import TrackingSettings
from skinml.training.mitigation_rules import require_fitting_mitigation, with_mitigation
from skinml.training.recipes import (
    require_gradients_by_class,
    require_public_images,
    with_recipe,
)
from skinml.training.settings import MitigationSettings, TrainingSettings
from skinml.training.step_rules import require_fitting_personal_head, require_fitting_steps

# In a checkout the configs lie beside the package, in a wheel inside it.
_PLACES = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")
_CHOOSE = "Choose one of these names."
_OWN_CONFIGS = Path("configs")
_ADMISSIONS_SHARE = 0.02
_LEAST_SHARE, _MOST_SHARE = 0.01, 0.9


class RunConfig(BaseModel):
    """Everything that decides what a run does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="The experiment's name."
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Root of the run's random streams.")
    work_dir: Path = Field(Path(), description="Where runs, clinic folders and MLflow's store are.")
    data: DataSettings = Field(description="What is used for which question.")
    model: ModelSettings = Field(description="What is trained.")
    privacy: PrivacySettings = Field(description="What is promised to a patient.")
    training: TrainingSettings = Field(description="How the model is trained.")
    mitigation: MitigationSettings = Field(
        default=MitigationSettings(), description="What is tried against gaps between groups."
    )
    federation: FederationSettings = Field(description="How rounds are run.")
    fairness: FairnessSettings = Field(description="How groups are compared.")
    tracking: TrackingSettings = Field(description="Where a run writes what it saw.")
    clinic: VirtualClinicSettings = Field(description="The gates of virtual clinics.")
    statistics: StatisticsSettings | None = Field(
        None, description="Count patients over the clinics instead of training a model."
    )

    @property
    def purpose(self) -> Purpose:
        """What the run uses the data for; licence or consent of each row must cover it."""
        if self.statistics is not None:
            return self.data.purpose or "statistics"
        usual: Purpose = (
            "research" if self.federation.mode == "centralised" else "federated_training"
        )
        return self.data.purpose or usual

    @model_validator(mode="before")
    @classmethod
    def _ready_recipe(cls, values: Any) -> Any:
        """Let privacy.recipe set what the config is silent about."""
        return with_recipe(values) if isinstance(values, dict) else values

    @model_validator(mode="before")
    @classmethod
    def _mitigation_by_strategy(cls, values: Any) -> Any:
        """Let mitigation.method=qfedavg name the strategy where the config is silent."""
        return with_mitigation(values) if isinstance(values, dict) else values

    @model_validator(mode="before")
    @classmethod
    def _admissions_share(cls, values: Any) -> Any:
        """Let a run with consents release noised counts of them, where the config is silent."""
        if not isinstance(values, dict):
            return values
        data, privacy = values.get("data"), values.get("privacy")
        if values.get("statistics") is not None:
            return values  # the tables take the whole budget
        asks = isinstance(data, dict) and data.get("consents") is not None
        if asks and isinstance(privacy, dict) and "admissions_share" not in privacy:
            return values | {"privacy": privacy | {"admissions_share": _ADMISSIONS_SHARE}}
        return values

    @model_validator(mode="after")
    def _sections_agree(self) -> RunConfig:
        _require_honest_purpose(self.purpose, self.federation.mode, self.statistics)
        if self.model.kind == "linear_head":
            require_public_images(self.privacy.recipe, self.training.head)
            require_gradients_by_class(self.privacy.recipe, self.training.head)
        _require_noise_in_counts(self.fairness.evaluation, self.privacy)
        _require_no_promise_of_leaks(self.data, self.privacy)
        _require_tables_alone(self)
        _require_fitting_likeness(self)
        _require_known_crossings(self.fairness, self.data.groups)
        require_fitting_mitigation(
            self.mitigation,
            kind=self.model.kind,
            trust=self.privacy.trust,
            recipe=self.privacy.recipe,
            strategy=self.federation.strategy.name,
            groups=self.data.groups,
        )
        missing, dropouts = self.federation.allowed_missing, self.privacy.tolerated_dropouts
        if self.privacy.trust == "distributed" and missing > dropouts:
            raise ConfigError(
                rule="federation.allowed_missing within privacy.tolerated_dropouts, for the noise "
                "of the clinics that stay must suffice",
                got=f"allowed_missing={missing}, tolerated_dropouts={dropouts}",
                do="Raise privacy.tolerated_dropouts to the same number.",
            )
        require_allowed(
            self.federation,
            trust=self.privacy.trust,
            kind=self.model.kind,
            recipe=self.privacy.recipe,
            steps_per_round=self.training.network.steps_per_round,
        )
        require_fitting_personal_head(
            self.training.personal_head, self.model.kind, self.federation.mode
        )
        # The recipe refuses this too, but only once all images have been read.
        if self.model.kind == "network":
            require_fitting_steps(self.training.network, self.privacy.trust)
        return self


def _require_noise_in_counts(evaluation: str, privacy: PrivacySettings) -> None:
    """Refuse counts that would be called private and have no noise."""
    if evaluation == "dp_counts" and not privacy.private:
        raise ConfigError(
            rule="fairness.evaluation=exact where privacy.trust is none, for nothing adds noise",
            got=f"fairness.evaluation={evaluation}",
            do="Set fairness.evaluation=exact, or choose another trust model.",
        )


def _require_no_promise_of_leaks(data: DataSettings, privacy: PrivacySettings) -> None:
    """Refuse a promise to units that are in two splits, each of which is charged by itself."""
    if data.leakage.shared_units == "report" and privacy.trust != "none":
        raise ConfigError(
            rule="data.leakage.shared_units=report only with privacy.trust=none: what is charged "
            "counts on each patient or lesion in one split",
            got=f"privacy.trust={privacy.trust}",
            do="Set data.leakage.shared_units=leave_out, or privacy.trust=none for a comparison.",
        )


def _require_tables_alone(config: RunConfig) -> None:
    """Refuse counts under another name, and a share of the budget for what they do not release.

    Policies name experiments: one that lets a training run without asking must let no count run.
    """
    if (config.name == EXPERIMENT) != (config.statistics is not None):
        raise ConfigError(
            rule=f"the name {EXPERIMENT} where patients are counted, and nowhere else",
            got=f"name={config.name}, {'with' if config.statistics else 'without'} statistics",
            do="Count patients with skinml federation statistics; call a training otherwise.",
        )
    if config.statistics is not None and config.privacy.admissions_share:
        raise ConfigError(
            rule="privacy.admissions_share=0 where patients are counted: nothing else is released",
            got=f"privacy.admissions_share={config.privacy.admissions_share:g}",
            do="Leave privacy.admissions_share out.",
        )


def _require_fitting_likeness(config: RunConfig) -> None:
    """Refuse a share for a mean of features that the model does not need, or cannot have."""
    share, beside = config.privacy.likeness_share, config.fairness.label_sets.share
    if not share:
        return
    if config.model.kind != "network" or config.statistics is not None:
        raise ConfigError(
            rule="privacy.likeness_share=0 but for networks trained end to end: a head keeps the "
            "mean that it is centred by, and counts make no model",
            got=f"privacy.likeness_share={share:g}, model.kind={config.model.kind}",
            do="Leave privacy.likeness_share out.",
        )
    if config.model.backbone != "efficientnet_lite0":
        raise ConfigError(
            rule="model.backbone=efficientnet_lite0 with privacy.likeness_share",
            got=f"model.backbone={config.model.backbone}",
            do="Leave model.backbone and model.weights out.",
        )
    if share < _LEAST_SHARE or share + beside > _MOST_SHARE:
        raise ConfigError(
            rule=f"privacy.likeness_share of {_LEAST_SHARE} or more, and with "
            f"fairness.label_sets.share at most {_MOST_SHARE}: the threshold needs the rest",
            got=f"privacy.likeness_share={share:g}, fairness.label_sets.share={beside:g}",
            do="Choose other shares, such as 0.2.",
        )


def _require_known_crossings(fairness: FairnessSettings, groups: Sequence[str]) -> None:
    """Refuse before training what could not be computed after it."""
    missing = {name for crossing in fairness.crossings for name in crossing} - set(groups)
    if missing:
        raise ConfigError(
            rule=f"fairness.crossings of attributes in data.groups ({', '.join(groups)})",
            got=f"fairness.crossings with {', '.join(sorted(missing))}",
            do="Add the attribute to data.groups, or take it out of fairness.crossings.",
        )


def _require_honest_purpose(
    purpose: Purpose, mode: str, statistics: StatisticsSettings | None
) -> None:
    """Refuse a word under which patients would be used for something else than they agreed to."""
    if statistics is not None:
        if purpose != "statistics":
            raise ConfigError(
                rule="data.purpose=statistics where patients are counted",
                got=f"data.purpose={purpose}",
                do="Leave data.purpose out.",
            )
        return
    honest = ("research", "teaching") if mode == "centralised" else ("federated_training",)
    if purpose not in honest:
        raise ConfigError(
            rule=f"data.purpose {' or '.join(honest)} where federation.mode is {mode}, for that is "
            "what the run does",
            got=f"data.purpose={purpose}",
            do="Leave data.purpose out, or choose the other federation.",
        )


def config_folder() -> Path:
    """Find the shipped configs.

    Returns:
        The folder that holds config.yaml.

    Raises:
        ConfigError: If the installation is broken.
    """
    for place in _PLACES:
        if (place / "config.yaml").is_file():
            return place
    raise ConfigError(
        rule="skinml's own configs beside the package",
        got="no config.yaml",
        do="Install skinml again.",
    )


def experiments() -> tuple[str, ...]:
    """List the experiments that can be run.

    Returns:
        Names of the shipped experiments and of those in ./configs/experiment.
    """
    folders = (config_folder() / "experiment", _OWN_CONFIGS / "experiment")
    return tuple(sorted({path.stem for folder in folders for path in folder.glob("*.yaml")}))


def load_config(experiment: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Compose and validate the config of an experiment.

    Args:
        experiment: Its name.
        overrides: Changes such as "privacy.epsilon=1" or "federation=centralised".

    Returns:
        The config.

    Raises:
        ConfigError: If the experiment, a key or a value is unknown or impossible.
    """
    known = experiments()
    if experiment not in known:
        raise ConfigError(
            rule=f"an experiment among {', '.join(known)}",
            got=f"experiment={experiment}",
            do=_nearest(experiment, known) or _CHOOSE,
        )
    composed = _compose(experiment, [_checked(override) for override in overrides])
    return parse_config(composed)


def parse_config(values: dict[Any, Any]) -> RunConfig:
    """Validate plain values, such as those a finished run has stored.

    Args:
        values: Nested values.

    Returns:
        The config.

    Raises:
        ConfigError: If a key or a value is unknown or impossible.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _explained(error) from None


def require_trained(config: RunConfig) -> None:
    """Refuse to train by a config that only counts patients.

    Args:
        config: The config.

    Raises:
        ConfigError: If it has a section statistics.
    """
    if config.statistics is not None:
        raise ConfigError(
            rule="an experiment that trains a model",
            got=f"{config.name}, which counts patients (statistics)",
            do="Count them: skinml federation statistics",
        )


def swept(overrides: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Write a sweep out: each combination of the values that keys are to take.

    Args:
        overrides: Words such as "privacy.epsilon=1,3,8", "seed=range(5)", or "seed=3" for all.

    Returns:
        The overrides that change, one tuple a combination; the last key's values change fastest.
        What has a single value is in none of them.

    Raises:
        ConfigError: If a word is none of these, or names no finite number of values.

    >>> swept(["seed=range(2)", "data.seed=1", "privacy.epsilon=1,3"])[1]
    ('seed=0', 'privacy.epsilon=3')
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, axes = OverridesParser.create(), list[list[str]]()
    for word in overrides:
        try:
            parsed = parser.parse_override(word)
        except HydraException:
            raise _no_values(word) from None
        if not parsed.is_sweep_override():
            continue
        if not (parsed.is_choice_sweep() or parsed.is_range_sweep()):
            raise _no_values(word)
        key, _, _ = word.partition("=")
        values = list(dict.fromkeys(parsed.sweep_string_iterator()))
        axes.append([f"{key}={value}" for value in values])
    return tuple(product(*axes)) if axes else ()


def _no_values(word: str) -> ConfigError:
    return ConfigError(
        rule="values with commas between, or a range of whole numbers",
        got=f"'{word}'",
        do="Example: --sweep privacy.epsilon=1,3,8 'seed=range(5)'",
    )


def _compose(experiment: str, overrides: Sequence[str]) -> dict[Any, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    chosen = [f"experiment={experiment}", *overrides]
    if (_OWN_CONFIGS / "experiment").is_dir():
        chosen.append(f"hydra.searchpath=[file://{_OWN_CONFIGS.resolve()}]")
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder().resolve())):
            composed = OmegaConf.to_container(
                compose(config_name="config", overrides=chosen), resolve=True
            )
    except (HydraException, OmegaConfBaseException) as error:
        raise _unfit(str(error).strip() or type(error).__name__) from None
    return composed if isinstance(composed, dict) else {}


def _unfit(said: str) -> ConfigError:
    """Say what Hydra could not do, with the choices or the option that there are instead."""
    first, do = said.splitlines()[0].strip().rstrip("."), "Write section.key=value, for example "
    do += "privacy.epsilon=1."
    if found := re.search(r"Could not find '(\w+)/([^']*)'", first):
        group, name = found.groups()
        folders = (config_folder() / group, _OWN_CONFIGS / group)
        known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
        if known:
            rule = f"a file in configs/{group} that is there: {', '.join(known)}"
            return ConfigError(
                rule=rule, got=f"{group}={name}", do=_nearest(name, known) or _CHOOSE
            )
    elif found := re.search(r"Ambiguous value for argument '\+*([^']*)'", first):
        first = found[1]
        do = f"For a run with each value: --sweep {first}. For one list: [...] around the values."
    return ConfigError(rule="overrides of the form key=value that fit the config", got=first, do=do)


def _checked(override: str) -> str:
    """Check an override's key against the schema and let Hydra set it."""
    key, equals, _ = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            rule="an override of the form key=value",
            got=f"'{override}'",
            do="Write section.key=value, for example privacy.epsilon=1.",
        )
    if key in RunConfig.model_fields and (config_folder() / key).is_dir():
        return override  # another file of a group, such as federation=centralised
    _require_known(key.split("."))
    return f"++{override}"


def _require_known(path: Sequence[str]) -> None:
    model: type[BaseModel] | None = RunConfig
    for depth, part in enumerate(path):
        if model is None:
            return  # below a mapping such as data.where, where the user names the keys
        fields = model.model_fields
        if part not in fields:
            raise _unknown_key(".".join(path[: depth + 1]), part, tuple(fields))
        model = _section(fields[part].annotation)


def _section(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _unknown_key(whole: str, part: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        rule="a key of the config",
        got=f"{whole}",
        do=_nearest(part, known) or f"Known here: {', '.join(known)}.",
    )


def _nearest(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else ""


def _explained(error: ValidationError) -> ConfigError:
    """Turn pydantic's findings into one error; unknown keys get their nearest neighbour."""
    found = error.errors(include_url=False)
    first = found[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] | None = RunConfig
        for part in path[:-1]:
            model = _section(model.model_fields[part].annotation) if model else None
        return _unknown_key(".".join(path), path[-1], tuple(model.model_fields) if model else ())
    lines = [f"{'.'.join(str(p) for p in f['loc'])}: {_in_words(f['msg'])}" for f in found]
    shown = "" if isinstance(first["input"], dict) else f"={first['input']}"
    return ConfigError(
        rule=f"a config whose {'.'.join(path) or 'sections'} is valid ({_in_words(first['msg'])})",
        got=f"{'.'.join(path)}{shown}",
        do="Change this value in the YAML file or on the command line.",
        details=lines if len(lines) > 1 else (),
    )


def _in_words(message: str) -> str:
    """Leave out what pydantic puts in front of a rule of ours."""
    return message.removeprefix("Value error, ")
