"""What the statistics by group are told of a run's config."""

from __future__ import annotations

from skinml.data.settings import DataSettings
from skinml.fairness.settings import FairnessSettings


def comparison_settings(fairness: FairnessSettings, data: DataSettings) -> FairnessSettings:
    """Add the order that the bins of an attribute are written in, and the scale of skin tones.

    Args:
        fairness: What is compared.
        data: The bins and the scale.

    Returns:
        The settings; an order or a scale that they already name stays.
    """
    written = {attribute: tuple(bins) for attribute, bins in data.bins.items()}
    scale = {} if data.tone_scale is None else {"skin_tone": data.tone_scale}
    return fairness.model_copy(
        update={"order": written | fairness.order, "scale": scale | fairness.scale}
    )
