"""Whether images are unlike those of a model's patients: what a run releases for it, and reads."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skinml.config import RunConfig, parse_config
from skinml.errors import IntegrityError
from skinml.experiments.learners import release_std
from skinml.federated.validation_scores import FeaturePart, feature_rows, mean_of_features
from skinml.models.bundle import Bundle, head_of
from skinml.models.likeness import CENTRE, NUM_FEATURES, likeness
from skinml.models.linear_head import item_features
from skinml.models.settings import ModelSettings
from skinml.records import FloatArray, Samples

if TYPE_CHECKING:
    from skinml.models.backbones import Backbone


def feature_part(config: RunConfig) -> FeaturePart | None:
    """Say what a clinic adds to the release about validation patients for this.

    Args:
        config: The run's config.

    Returns:
        The part, which loads the public network when it is first asked; None where the run
        releases no features of them.
    """
    share = config.privacy.likeness_share
    return FeaturePart(share, partial(_looked, config.model)) if share else None


def network_version(config: RunConfig) -> str:
    """Name what a network's inputs, and features of them where a run releases such, are made by.

    Args:
        config: The run's config, of a network.

    Returns:
        The version.

    Raises:
        EnvironmentProblem: If the run needs a public network that is not installed.
    """
    from skinml.training.features import features_version, images_version

    if config.privacy.likeness_share:
        return features_version(_backbone(config.model))
    return images_version(config.model.image_size)


def centre_arrays(
    config: RunConfig, scores: FloatArray, *, num_clinics: int, num_present: int
) -> dict[str, NDArray[np.float32]]:
    """Read a run's release about validation patients for what its network keeps of it.

    Args:
        config: The run's config.
        scores: The noisy sum over the clinics.
        num_clinics: Clinics in the run.
        num_present: Clinics in the sum.

    Returns:
        The mean of the patients' features under `CENTRE`; nothing where none was released, or it
        is mostly noise.
    """
    share = config.privacy.likeness_share
    if not share:
        return {}
    std = release_std(config, num_clinics=num_clinics, num_present=num_present)
    rows = scores[-feature_rows(NUM_FEATURES) :]
    found = mean_of_features(rows, share, config.privacy.max_clinics_per_patient, std)
    return {} if found is None else {CENTRE: found.astype(np.float32)}


def likeness_of(bundle: Bundle, inputs: NDArray[Any]) -> float | None:
    """Tell how like the images of its patients an item is to a model.

    Args:
        bundle: The saved model.
        inputs: (1, ...) the item, as `models.bundle.score` takes it.

    Returns:
        1 for a usual image; None where the model keeps nothing to tell it by.

    Raises:
        EnvironmentProblem: If the public network that it needs is not installed.
        IntegrityError: If that network is another than the run's.
    """
    if bundle.spec.kind == "linear_head":
        told = likeness(head_of(bundle).centre, inputs)
    elif CENTRE in bundle.arrays:
        require_same_look(bundle)
        settings = parse_config(bundle.spec.config).model
        told = likeness(bundle.arrays[CENTRE], _features(settings, inputs))
    else:
        told = None
    return None if told is None else float(told[0])


def require_same_look(bundle: Bundle) -> None:
    """Refuse a network that keeps a mean of features where nothing here makes the same features.

    Args:
        bundle: The saved model; of another kind, or without a mean, nothing is asked.

    Raises:
        EnvironmentProblem: If the public network that it needs is not installed.
        IntegrityError: If that network is another than the run's.
    """
    from skinml.training.features import features_version

    if bundle.spec.kind == "linear_head" or CENTRE not in bundle.arrays:
        return
    version = features_version(_backbone(parse_config(bundle.spec.config).model))
    if version != bundle.spec.backbone_version:
        raise IntegrityError(
            rule=f"the backbone {bundle.spec.backbone_version} that the run looked by",
            got=version,
            do="Install the same weights as the run used.",
        )


def _looked(settings: ModelSettings, samples: Samples) -> FloatArray:
    return _features(settings, samples.inputs)


def _features(settings: ModelSettings, images: NDArray[Any]) -> FloatArray:
    """(n, d) of (n, size, size, 3) images, each looked at alone: no other moves it in one bit."""
    import torch

    backbone, rows = _backbone(settings), np.zeros((len(images), 1, NUM_FEATURES))
    for at, image in enumerate(images):
        one = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        # Were a number that is none an error, an answer would tell that its patient is not there.
        rows[at, 0] = np.nan_to_num(backbone.extract(one)[0], nan=0.0, posinf=0.0, neginf=0.0)
    return item_features(rows).astype(np.float64)


@lru_cache(maxsize=2)
def _backbone(settings: ModelSettings) -> Backbone:
    from skinml.models.backbones import load_backbone

    return load_backbone(settings)
