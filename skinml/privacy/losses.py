"""Losses that private training accepts: one value an image, which no other image takes part in.

A loss that divides by the weights of its batch, mines hard pairs or mixes images couples patients
before the clip, and the clip then bounds nothing (pitfall P1). Whatever is summed here is summed
over images and divided by public numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F  # noqa: N812 -- the name that the field uses

from skinml.errors import ConfigError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_FOCUS = 2.0  # the exponent that its authors found best


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute each image's cross entropy.

    Args:
        logits: (n, classes) scores.
        targets: (n,) true classes.

    Returns:
        (n,) losses, zero or above.
    """
    return F.cross_entropy(logits, targets, reduction="none")


def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute each image's focal loss: cross entropy, less of it the surer the network is.

    It turns to the rare and the difficult without a count of anybody's labels.

    Args:
        logits: (n, classes) scores.
        targets: (n,) true classes.

    Returns:
        (n,) losses, zero or above.

    Source:
        Lin et al. 2017, arXiv:1708.02002, equation 4, with an exponent of 2.
    """
    losses = cross_entropy(logits, targets)
    return (1 - torch.exp(-losses)) ** _FOCUS * losses


LOSSES: Mapping[str, Loss] = {"cross_entropy": cross_entropy, "focal": focal}


def image_losses(loss: Loss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Take a loss for each image, and refuse what is one number for all.

    Args:
        loss: The loss.
        logits: (n, classes) scores.
        targets: (n,) true classes.

    Returns:
        (n,) losses.

    Raises:
        ConfigError: If the loss is reduced over its images.
    """
    values = loss(logits, targets)
    if values.shape != targets.shape:
        raise ConfigError(
            rule="a loss of one value an image",
            got=f"values of shape {tuple(values.shape)} for {len(targets)} images",
            do="Leave the reduction to the clip: give the loss reduction='none'.",
        )
    return values
