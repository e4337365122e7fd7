"""Public images for an audit of a recipe whose config names none that it can use.

Clinics of such recipes are asked the same as without public images; only the query differs, which
the coordinator makes of them. For an audit of what leaves a clinic any pictures do.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from skinml.config import RunConfig
from skinml.data.settings import DataSettings
from skinml.data.synthetic.cohort import plan_cohort, write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.durable import write_whole
from skinml.errors import require_in_range
from skinml.seeding import Seeds
from skinml.training.recipes import RECIPES

PUBLIC_IMAGES_DRAWN = "public images drawn"
"""What a finding says where they were."""

# As few as a recipe takes, and as small as the generator draws them: a backbone resizes them.
_NUM_IMAGES = 50
_LEAST_SIDE, _LARGEST_SIDE = 32, 1024
# A head that knows its few images by heart is sure of everybody, and a patient of whom it is
# rightly sure has no gradient that a replay could compare. Each image therefore stands under every
# class, and these under one of them once more: the start is near zero, but not zero.
_NUM_FAVOURED = 10
_LIST = "public.csv"


def lacks_public_images(config: RunConfig, recipe: str) -> bool:
    """Tell whether a recipe needs public images that a config does not have.

    Args:
        config: The config.
        recipe: A name of `privacy.recipe`, or the network's own.

    Returns:
        Whether it needs some and the config names none, or it needs labels and the config's own
        images were named for a recipe that needs none.

    Example:
        >>> from skinml.config import load_config
        >>> config = load_config("quickstart")
        >>> lacks_public_images(config, "projected"), lacks_public_images(config, "centred")
        (True, False)
    """
    if config.model.kind != "linear_head":
        return False
    needs: Mapping[str, str] = {name: ready.needs for name, ready in RECIPES.items()}
    needed = needs.get(recipe, "nothing")
    if needed == "nothing" or config.training.head.public_images is None:
        return needed != "nothing"
    return needed == "labels" and needs[config.privacy.recipe] != "labels"


def drawn_public_images(folder: Path, classes: Sequence[str], settings: DataSettings) -> Path:
    """Draw public images with the synthetic generator, or find those drawn before.

    Args:
        folder: Where they are; must not exist yet, or hold what an earlier call drew.
        classes: The run's class names; the labels say next to nothing about an image.
        settings: The run's data section: its seed, and what an image file may be.

    Returns:
        The CSV file with the columns image and label, of 50 images, each under every class.

    Raises:
        ConfigError: If an image must be larger than the generator draws.
        EnvironmentProblem: If the folder cannot be written.

    Guarantees:
        No image shows a patient: nothing is read, and the seed is another than that of a synthetic
        cohort. Equal settings give equal images.
    """
    listed = folder / _LIST
    if listed.is_file():
        return listed
    least = settings.limits.min_side
    require_in_range(1, _LARGEST_SIDE, **{"data.limits.min_side": least})
    drawing = SyntheticSettings(num_patients=_NUM_IMAGES, image_size=max(_LEAST_SIDE, least))
    seed = Seeds(settings.seed).integer("audit/public images")
    write_cohort(folder, drawing, seed)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("image", "label"))
    # Every drawn person has a picture, so that there are enough.
    images = [shot.image for shot in plan_cohort(drawing, seed)[:_NUM_IMAGES]]
    rows.writerows((image, name) for image in images for name in classes)
    rows.writerows(
        (image, classes[number % len(classes)])
        for number, image in enumerate(images[:: _NUM_IMAGES // _NUM_FAVOURED])
    )
    write_whole(listed, text.getvalue().encode(), "list of public images")
    return listed
