"""A finished run's model asked about single images, on this machine: nothing is sent or stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.config import parse_config
from skinml.data.skin_tone import ToneMeasurement
from skinml.durable import write_whole
from skinml.errors import ConfigError, DataError, EnvironmentProblem
from skinml.experiments.answering import answer_item, answer_tables
from skinml.experiments.asked_tone import (
    ASKED,
    group_of,
    measured,
    require_measured_tones,
    tone_words,
)
from skinml.experiments.evaluate import embedder
from skinml.experiments.likeness import require_same_look
from skinml.experiments.workspace import Workspace
from skinml.fairness.model_answer import CLINICIAN, NOT_CHECKED, Answer, AnswerTables
from skinml.models.bundle import Bundle, load_bundle
from skinml.models.linear_head import item_features
from skinml.reports.predict_page import (
    answers_html,
    chance_words,
    headline,
    set_words,
    title_of,
    words_of,
)


@dataclass(frozen=True)
class Model:
    """A saved model that is ready to be asked.

    Attributes:
        bundle: The model and what it is.
        tables: What its answers are made by.
        look: From the image files of one item, a file a view, to the model's inputs (1, ...).
    """

    bundle: Bundle
    tables: AnswerTables
    look: Callable[[Sequence[Path]], NDArray[Any]]

    @property
    def views(self) -> tuple[str, ...]:
        """The images of one lesion, in their order; one where any image will do."""
        return self.bundle.spec.views

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that label sets are held in; empty where there is one for everybody."""
        sets = self.tables.sets
        return tuple(sets.cuts) if sets is not None and len(sets.cuts) > 1 else ()


@dataclass(frozen=True)
class Asked:
    """What a model answered about one lesion.

    Attributes:
        images: The numbers of its images as they were given, from 1.
        found: The answer.
        likeness: How like the training images, 1 is usual; None where that cannot be told.
        tone: The skin tone that was measured in its close-up; None where none was asked for.
    """

    images: tuple[int, ...]
    found: Answer
    likeness: float | None
    tone: ToneMeasurement | None = None

    def values(self) -> dict[str, Any]:
        """Write it as plain values, without any file's name.

        Returns:
            The answer's values with "images", "likeness" and, where it was measured, "tone".
        """
        told = {"images": list(self.images), **self.found.values(), "likeness": self.likeness}
        if self.tone is None:
            return told
        kept = ("tone_scale", "image_tone", "ita_degrees", "ita_low", "ita_high", "not_measurable")
        measured_tone = self.tone.values()
        return told | {"tone": {name: measured_tone[name] for name in kept}}


def open_model(folder: Path) -> Model:
    """Open a saved model.

    Args:
        folder: The bundle's folder.

    Returns:
        The model.

    Raises:
        DataError: If the folder holds no model.
        EnvironmentProblem: If the backbone is not installed.
        IntegrityError: If the model was changed, or the backbone is another.
    """
    bundle = load_bundle(folder)
    require_same_look(bundle)
    embed = embedder(parse_config(bundle.spec.config), bundle)

    def look(files: Sequence[Path]) -> NDArray[Any]:
        rows = embed(files)
        return item_features(rows[None]) if bundle.spec.kind == "linear_head" else rows

    return Model(bundle, answer_tables(bundle.spec), look)


def ask(model: Model, images: Sequence[Path], *, group: str | None = None) -> tuple[Asked, ...]:
    """Ask a model about images.

    Args:
        model: The model.
        images: Image files; where the model looks at several views of a lesion, one after the
            other in the order of its views, lesion after lesion.
        group: Whose images they are, one of `Model.groups`; None where nobody knows; "measure" to
            measure the skin tone in each close-up, for a run whose own tones were measured.

    Returns:
        An answer a lesion.

    Raises:
        ConfigError: If there is no such group.
        DataError: If an image cannot be read, or there are too few or too many.

    Guarantees:
        Each answer depends on that lesion's images and the group alone. Nothing is written. Errors
        name an image by its number, never by its path.
    """
    width = len(model.views)
    if not images or len(images) % width:
        views = ", ".join(model.views)
        raise DataError(
            rule="at least one image" if width == 1 else f"{width} images a lesion: {views}",
            got="1 image" if len(images) == 1 else f"{len(images)} images",
            do="Give the image files one after the other in this order.",
        )
    config = parse_config(model.bundle.spec.config)
    if group == ASKED:
        require_measured_tones(config, model.tables.sets)
    else:
        _require_group(model, group)
    made = []
    for start in range(0, len(images), width):
        numbers = tuple(range(start + 1, start + width + 1))
        inputs = _looked(model, images[start : start + width], numbers)
        tone, named = None, group
        if group == ASKED:
            tone = measured(config, images[start : start + width])
            named = group_of(config, tone, model.groups)
        said = answer_item(model.bundle, model.tables, inputs, named)
        made.append(Asked(numbers, said.found, said.likeness, tone))
    return tuple(made)


def _require_group(model: Model, group: str | None) -> None:
    if group is None or group in model.groups:
        return
    sets = model.tables.sets
    if sets is None:
        raise ConfigError(
            rule="no group, for this model has no label sets that a group could choose from",
            got=f"group={group}",
            do="Leave the group out; or train with fairness.label_sets.share, such as 0.5.",
        )
    if not model.groups:
        raise ConfigError(
            rule="no group, for this model's label sets are one for everybody",
            got=f"group={group}",
            do="Leave the group out.",
        )
    what = words_of(sets.attribute)
    raise ConfigError(
        rule=f"a {what} among {', '.join(model.groups)}",
        got=f"{what} {group}",
        do="Name one of them, or leave it out where it is not known.",
    )


def _looked(model: Model, files: Sequence[Path], numbers: Sequence[int]) -> NDArray[Any]:
    """Read the images of one lesion; what is wrong is told by the image's number."""
    for number, file in zip(numbers, files, strict=True):
        if not file.is_file():
            raise DataError(
                rule="image files that can be read",
                got=f"image {number}: no such file",
                do="Check the path.",
            )
    try:
        return np.asarray(model.look(files))
    except DataError as error:
        which = " or ".join(map(str, numbers))
        raise DataError(rule=error.rule, got=f"image {which}: {error.got}", do=error.do) from None


@dataclass(frozen=True)
class Prediction:
    """All answers of one command.

    Attributes:
        run: The run's id.
        model: The model.
        asked: An answer a lesion.
    """

    run: str
    model: Model
    asked: tuple[Asked, ...]

    @property
    def checked(self) -> bool:
        """Whether images unlike those of the training would be called so."""
        return all(each.found.likeness_checked for each in self.asked)

    def values(self) -> dict[str, Any]:
        """Write the answers as the object of `--json`.

        Returns:
            Plain values.
        """
        sets, line = self.model.tables.sets, self.model.tables.line
        return {
            "run": self.run,
            "answers": [each.values() for each in self.asked],
            "calibrated": line is not None,
            "likeness_checked": self.checked,
            "label_sets": None
            if sets is None
            else {
                "coverage": sets.coverage,
                "attribute": sets.attribute,
                "groups": list(self.model.groups),
            },
            "who_decides": CLINICIAN,
        }

    def words(self) -> list[str]:
        """Write the answers for a screen.

        Returns:
            Lines; first that a clinician decides, and if so that other pictures are not found; at
            the end what the sets hold.
        """
        by_group = bool(self.model.groups)
        calibrated = self.model.tables.line is not None
        lines = [line for each in self.asked for line in _words(each, by_group, calibrated)]
        unchecked = [] if self.checked else [NOT_CHECKED]
        return [CLINICIAN, *unchecked, "", *lines, set_words(self.model.tables)]


def _words(each: Asked, by_group: bool, calibrated: bool) -> list[str]:
    found, title = each.found, "chances" if calibrated else "chances, not calibrated"
    chances = sorted(found.probabilities.items(), key=lambda item: -item[1])
    unknown = "not given" if each.tone is None else "not known"
    whose = found.group or f"{unknown}, the widest set of all groups"
    return [
        f"{title_of(each.images)}: {headline(found)}",
        *(f"  why: {reason}" for reason in found.reasons),
        f"  {title}: " + ", ".join(f"{words_of(name)} {chance_words(p)}" for name, p in chances),
        *([f"  group: {whose}"] if by_group else []),
        *([f"  skin tone: {tone_words(each.tone)}"] if each.tone is not None else []),
        "",
    ]


def predict_run(
    run: str, images: Sequence[Path], *, group: str | None = None, work_dir: Path = Path()
) -> Prediction:
    """Ask a finished run's model about images.

    Args:
        run: The run's id or folder.
        images: As for `ask`.
        group: As for `ask`.
        work_dir: The working folder of the run.

    Returns:
        The answers.

    Raises:
        ConfigError: If there is no such group.
        DataError: If there is no such run, or an image cannot be read.
        EnvironmentProblem: If the backbone is not installed.
        IntegrityError: If the model was changed.
    """
    folder = Workspace(work_dir).find_run(run)
    model = open_model(folder / "model")
    return Prediction(folder.resolve().name, model, ask(model, images, group=group))


def save_page(made: Prediction, path: Path) -> None:
    """Write the answers as a page that stands alone, without pictures and without files' names.

    Args:
        made: The answers.
        path: The HTML file; an older one is replaced.

    Raises:
        EnvironmentProblem: If the file cannot be written.
    """
    if not path.resolve().parent.is_dir():
        raise EnvironmentProblem(
            rule="a folder that the page can be written to",
            got="no such folder",
            do="Make the folder first, or name another file.",
        )
    spec = made.model.bundle.spec
    told = [(each.images, each.found, each.likeness, tone_words(each.tone)) for each in made.asked]
    page = answers_html(made.run, made.model.tables, told, spec.threshold_source)
    write_whole(path, page.encode(), "page")
