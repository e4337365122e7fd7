"""The head's ready recipes: what `privacy.recipe` may name, and what each one sets.

A recipe sets only what the config is silent about. None of it is chosen on the clinics' data, and
all recipes ask the same of a clinic: public images are used by the coordinator alone, on sums that
already have their noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from skinml.errors import ConfigError
from skinml.privacy.settings import Recipe
from skinml.training.settings import HeadSettings

Needs = Literal["nothing", "images", "labels"]


@dataclass(frozen=True)
class Ready:
    """One ready choice.

    Attributes:
        words: What it is, in a sentence.
        needs: Which public data: none, images, or images with labels.
        head: Values of `training.head` where the config has none.
        privacy: Values of `privacy` where the config has none.
    """

    words: str
    needs: Needs = "nothing"
    head: Mapping[str, Any] = field(default_factory=dict)
    privacy: Mapping[str, Any] = field(default_factory=dict)


# With public directions less of the budget is needed to find the centre.
_LEAN = {"counts_share": 0.02, "centre_share": 0.05}
_STEPS = ((0.1422, 2.0), (0.2681, 4.0), (0.7191, 11.0), (1.666, 24.0))

RECIPES: Mapping[Recipe, Ready] = {
    "centred": Ready("gradient rounds over all patients, features centred on a noisy mean"),
    "projected": Ready(
        "as centred; noise outside of the directions of public unlabelled images is dropped",
        needs="images",
        head={"rounds": 100, "averaged": 0.25, "learning_rate_by_mu": _STEPS},
        privacy=_LEAN,
    ),
    "started": Ready(
        "as projected, from a head trained on public labelled images",
        needs="labels",
        head={"rounds": 100, "averaged": 0.25, "learning_rate_by_mu": _STEPS},
        privacy=_LEAN,
    ),
    "preconditioned": Ready(
        "ten rounds; steps are longer in the directions in which public images vary little",
        needs="images",
        head={"rounds": 10},
        privacy=_LEAN,
    ),
    "prototypes": Ready("one round after the first: the mean of each class, no gradients"),
}
"""All ready choices by their names in `privacy.recipe`."""


def with_recipe(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Fill in what the recipe of a config sets and the config does not.

    Args:
        values: A config's nested values, not validated yet: what cannot be read is left alone.

    Returns:
        The values, completed.

    Example:
        >>> filled = with_recipe({"privacy": {"recipe": "preconditioned"}, "training": {}})
        >>> filled["training"]["head"]["rounds"], filled["privacy"]["centre_share"]
        (10, 0.05)
    """
    privacy, training = values.get("privacy"), values.get("training")
    if not isinstance(privacy, dict) or not isinstance(training, dict):
        return dict(values)
    head = training.get("head") or {}
    ready = next((each for name, each in RECIPES.items() if name == privacy.get("recipe")), None)
    if ready is None or not isinstance(head, dict):
        return dict(values)
    return dict(values) | {
        "privacy": dict(ready.privacy) | privacy,
        "training": training | {"head": dict(ready.head) | head},
    }


def require_public_images(recipe: Recipe, settings: HeadSettings) -> None:
    """Check that a recipe has the public images that it needs.

    Args:
        recipe: Its name.
        settings: The head's settings.

    Raises:
        ConfigError: If images are needed and there are none, or a public centre has no images.
    """
    if RECIPES[recipe].needs == "nothing":
        if settings.centring == "public":
            raise ConfigError(
                rule="a recipe with public images where training.head.centring is public",
                got=f"privacy.recipe={recipe}",
                do="Choose privacy.recipe=projected, or leave centring at paid.",
            )
    elif settings.public_images is None:
        raise ConfigError(
            rule=f"training.head.public_images where privacy.recipe is {recipe}",
            got="public_images=null",
            do="Name a folder of public images, or choose privacy.recipe=centred.",
        )


def require_gradients_by_class(recipe: Recipe, settings: HeadSettings) -> None:
    """Check that a recipe has gradients where they are to be clipped by class.

    Args:
        recipe: Its name.
        settings: The head's settings.

    Raises:
        ConfigError: If the clip is by class and the recipe sums features of classes.
    """
    if recipe == "prototypes" and settings.clipping != "flat":
        raise ConfigError(
            rule="training.head.clipping=flat where privacy.recipe is prototypes",
            got=f"clipping={settings.clipping}",
            do="Keep it flat: each patient is in the sum of one class alone, so that a bound for "
            "each class would only be a smaller one.",
        )
