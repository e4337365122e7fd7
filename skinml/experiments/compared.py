"""What the statistics by group are told of a run's config."""

from __future__ import annotations

from skinml.data.settings import DataSettings
from skinml.fairness.settings import FairnessSettings


def comparison_settings(fairness: FairnessSettings, data: DataSettings) -> FairnessSettings:
    """Add the order that the bins of an attribute are written in.

    Args:
        fairness: What is compared.
        data: The bins.

    Returns:
        The settings; an order that they already name stays.
    """
    written = {attribute: tuple(bins) for attribute, bins in data.bins.items()}
    return fairness.model_copy(update={"order": written | fairness.order})
