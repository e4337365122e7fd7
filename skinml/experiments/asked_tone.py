"""The skin tone of who is asked about, measured in a close-up, for runs whose own tones were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skinml.config import RunConfig
from skinml.data.skin_tone import ToneMeasurement, ToneSettings, measure_tone
from skinml.data.tone_colour import read_light
from skinml.data.tone_scales import MEASURE, scale_by_name
from skinml.errors import ConfigError
from skinml.fairness.label_sets import LabelSets
from skinml.seeding import Seeds

ASKED = "measure"
"""What stands in place of a group where it is to be measured."""
_TONE = "skin_tone"


def require_measured_tones(config: RunConfig, sets: LabelSets | None) -> None:
    """Refuse to measure a tone for a run whose groups are none of a measurement.

    A limit holds its coverage for patients whose group was found in the same way: a measured class
    among groups that people noted would have the limit of other patients.

    Args:
        config: The run's config.
        sets: The model's label sets.

    Raises:
        ConfigError: If its sets are not by skin tone, its tones were noted by people, or its
            pictures are dermoscopic ones alone.
    """
    scale = config.data.tone_scale or ""
    wanted = config.data.views or tuple(config.data.where.get("modality", ()))
    if sets is None or sets.attribute != _TONE or len(sets.cuts) < 2:
        got = "label sets that are not by skin tone"
    elif not scale.startswith(f"{MEASURE}_"):
        got = f"skin tones on the scale {scale or 'of its data'}, which people noted"
    elif wanted and all(_dermoscopic(view) for view in wanted):
        got = "a model of dermoscopic pictures, in which light and gel make another colour"
    else:
        return
    raise ConfigError(
        rule="a run whose own skin tones were measured (skinml data tone), where one is to "
        "be measured",
        got=got,
        do="Name the group that somebody who saw the patient noted, or leave it out: no scale "
        "converts into another.",
    )


def measured(config: RunConfig, files: Sequence[Path]) -> ToneMeasurement:
    """Measure the apparent tone in the close-up of a lesion.

    Args:
        config: The run's config, of `require_measured_tones`.
        files: The lesion's images, in the order of the model's views.

    Returns:
        The measurement; not measurable where the image does not tell, with the reason.

    Raises:
        DataError: If the image cannot be read.
    """
    views = config.data.views
    at = next((n for n, view in enumerate(views) if not _dermoscopic(view)), 0)
    scale = scale_by_name(str(config.data.tone_scale))
    light, known = read_light(files[at], config.data.limits)
    if not known:
        return ToneMeasurement(scale.name, "a colour profile that cannot be read")
    # The stream has one name for all, so that no answer depends on what a file is called.
    return measure_tone(light, ToneSettings(table=scale.table), Seeds(0), "asked")[0]


def group_of(config: RunConfig, tone: ToneMeasurement, groups: Sequence[str]) -> str | None:
    """Find the group of a measured tone.

    Args:
        config: The run's config.
        tone: The measurement.
        groups: The model's groups.

    Returns:
        The group; None where there is no tone, or the model has no limit for its class.
    """
    bins = config.data.bins.get(_TONE)
    name = tone.bin
    if bins is not None:
        name = next((each for each, members in bins.items() if tone.bin in members), None)
    return name if name in groups else None


def tone_words(tone: ToneMeasurement | None) -> str:
    """Say what was measured.

    Args:
        tone: The measurement; None where none was asked for.

    Returns:
        Words for a reader; empty where none was asked for.
    """
    if tone is None:
        return ""
    if tone.ita_degrees is None or tone.low is None or tone.high is None:
        return f"could not be measured: {tone.reason}"
    return (
        f"{str(tone.bin).replace('_', ' ')}, at an angle of {tone.ita_degrees:.0f} degrees "
        f"({tone.low:.0f} to {tone.high:.0f}): an estimate from this picture, which light and "
        "camera move; no diagnosis of skin type"
    )


def _dermoscopic(view: str) -> bool:
    return "dermosc" in view.casefold() or "dermatosc" in view.casefold()
