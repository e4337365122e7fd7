"""Random views of an image: what is averaged within a patient before the clip.

Turns, flips and shifts leave a lesion what it is. They are drawn from the patient's own stream, so
that nobody else's draw moves with them.

Shapes in this file: N images, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch

# A shift of an eighth keeps a centred lesion in the picture.
_GREATEST_SHIFT = 1 / 8


def random_views(images_NCHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:  # noqa: N803 -- shape legend above
    """Draw a view of each image: a shift by up to an eighth, then a flip or a quarter turn.

    What a shift uncovers is filled with the mirrored edge. Images that are not square are only
    flipped and turned by half.

    Args:
        images_NCHW: (n, channels, height, width) images; read, never written.
        rng: The patient's stream.

    Returns:
        (n, channels, height, width) views, made of the images' own values.

    Source:
        De et al. 2022, arXiv:2204.13650, section 3, for averaging the gradients of several views
        before the clip.
    """
    return torch.stack([_view(image, rng) for image in images_NCHW])


def _view(image_CHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:  # noqa: N803 -- as above
    height, width = image_CHW.shape[1:]
    reach = [int(size * _GREATEST_SHIFT) for size in (height, width)]
    down, right, turns, flip = (
        int(rng.integers(high))
        for high in (2 * reach[0] + 1, 2 * reach[1] + 1, 4 if height == width else 2, 2)
    )
    padding = (reach[1], reach[1], reach[0], reach[0])
    padded = torch.nn.functional.pad(image_CHW, padding, mode="reflect")
    view = padded[:, down : down + height, right : right + width]
    view = torch.rot90(view, turns if height == width else 2 * turns, dims=(1, 2))
    return view.flip(2) if flip else view
