"""The command line's runs in Python: `skinml.run`, `skinml.open_run` and what they return."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import SystemRandom
from typing import Any

import numpy as np
import pandas as pd

from skinml.errors import ConfigError, DataError
from skinml.experiments.kept_predictions import kept_predictions
from skinml.experiments.predicting import ask, open_model
from skinml.experiments.progress import Progress
from skinml.experiments.result import read_record
from skinml.experiments.run import Finished
from skinml.experiments.run import resume as resume_run
from skinml.experiments.run import run as run_experiment
from skinml.experiments.set_coverage import sets_coverage
from skinml.experiments.workspace import Workspace
from skinml.fairness.model_answer import Answer
from skinml.records import Predictions, RunRecord
from skinml.reports.summary import figures_table, framed_page, summary_html

_BARE = re.compile(r"[\w./-]+")


@dataclass(frozen=True)
class Page:
    """A page of a run: a path, and in a notebook the page itself.

    Attributes:
        path: Its file.
        title: What it is called.
    """

    path: Path
    title: str

    def __fspath__(self) -> str:
        """Give the path to whoever opens files."""
        return str(self.path)

    def __str__(self) -> str:
        """Give the path to whoever prints it."""
        return str(self.path)

    def _repr_html_(self) -> str:
        return framed_page(self.path, self.title)


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        record: Everything that it may show.
        folder: Its folder.
        work_dir: The working folder that it was made in.
    """

    record: RunRecord
    folder: Path
    work_dir: Path

    @property
    def run(self) -> str:
        """The run's id."""
        return self.record.run

    @property
    def epsilon(self) -> float | None:
        """The run's epsilon, the greatest over its clinics; None where nothing is promised."""
        return self.record.guarantee.epsilon

    @property
    def figures(self) -> pd.DataFrame:
        """A row for each figure of everybody and of each group, with its interval."""
        return figures_table(self.record)

    @property
    def predictions(self) -> pd.DataFrame:
        """What the model said of the test patients of a simulation.

        A row an item: "clinic", "patient" (a number within this table, no id, and another one
        whenever it is asked for), "label", "decision", a column `score of CLASS` each, and the
        groups. Patients who withdrew or were erased since are left out.

        Raises:
            DataError: If the run is none of this machine's simulations, or its test figures come
                from noised counts: then nobody may see predictions.
            PolicyError: If a real clinic's folder lies where a simulated one's should.
        """
        kept, why = kept_predictions(self.record, [Workspace(self.work_dir).clinics])
        if not kept:
            raise DataError(
                rule="a simulation on this machine that keeps its predictions",
                got=f"run={self.run}: {why}",
                do="Use `figures`, which the run published.",
            )
        return pd.concat([_frame(name, made) for name, made in kept.items()], ignore_index=True)

    def predict(self, images: Sequence[str | Path], *, tone: str | None = None) -> list[Answer]:
        """Ask the run's model about images, as `skinml predict` does; a clinician decides.

        Args:
            images: Image files; of a model of several views lesion after lesion.
            tone: The patient's skin tone group; None where nobody knows it.

        Returns:
            An answer a lesion.

        Raises:
            ConfigError: If there is no such group.
            DataError: If an image cannot be read.
            IntegrityError: If the model was changed.
        """
        model = open_model(self.folder / "model")
        return [each.found for each in ask(model, [Path(each) for each in images], group=tone)]

    def label_set_coverage(self) -> pd.DataFrame:
        """Measure how often a simulation's label sets held the truth of its test patients.

        A row a group and way, "by group" as the run's model has it and "one limit for all" beside
        it: "share" covered, "low" and "high" of the coverage on average over validation patients,
        noise and test patients, the numbers of "validation" and "test" patients, and "whole", the
        share of sets that hold every label and so tell nothing.

        Raises:
            DataError: If the run has no label sets, or is none of this machine's simulations.
            IntegrityError: If the model or a clinic's folder was changed.
            PolicyError: If a real clinic's folder lies where a simulated one's should.
        """
        found = sets_coverage(self.record, self.folder, [Workspace(self.work_dir).clinics])
        rows = [{"sets": way} | each.values() for way, made in found.items() for each in made]
        return pd.DataFrame(rows)

    def report(self) -> Page:
        """Find the report.

        Returns:
            Its page; in a notebook it is shown.
        """
        return Page(self.folder / "report.html", f"report of {self.run}")

    def _repr_html_(self) -> str:
        return summary_html(self.record)


def run(
    experiment: str,
    changes: Mapping[str, Any] | None = None,
    /,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Train, evaluate, report and track an experiment, as `skinml run` does.

    Args:
        experiment: The experiment's name, such as "derm_tone".
        changes: Changes to its config by key, such as {"privacy.epsilon": 1}.
        progress: Hears how far it is.
        **settings: Changes to keys without a dot, such as seed=1, or to whole sections, such as
            privacy={"epsilon": 1}.

    Returns:
        The finished run.

    Raises:
        SkinmlError: For whatever keeps the run from its report; see `skinml.errors`.

    Guarantees:
        Those of `skinml run`: the same seed and config give the same metrics under trust "none";
        under the others the noise never repeats.
    """
    words = overrides_of({**(changes or {}), **settings})
    return _opened(run_experiment(experiment, words, progress=progress))


def resume(run: str, *, work_dir: str | Path = ".", progress: Progress | None = None) -> Result:
    """Go on with a run that was broken off, as `skinml run --resume` does.

    Args:
        run: The run's id.
        work_dir: The working folder that it began in.
        progress: Hears how far it is.

    Returns:
        The finished run.

    Raises:
        SkinmlError: For whatever keeps the run from its report; see `skinml.errors`.
    """
    return _opened(resume_run(run, work_dir=Path(work_dir), progress=progress))


def open_run(run: str, *, work_dir: str | Path = ".") -> Result:
    """Open a finished run.

    Args:
        run: The run's id or folder.
        work_dir: The working folder that it was made in.

    Returns:
        The run.

    Raises:
        DataError: If there is no such run.
    """
    folder = Workspace(Path(work_dir)).find_run(run)
    return Result(read_record(folder), folder, Path(work_dir))


def overrides_of(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Write changes as the command line takes them.

    Args:
        changes: Values by key; a mapping changes several keys of a section.

    Returns:
        A word "key=value" for each.

    Raises:
        ConfigError: If a value is none that a config can hold.

    >>> overrides_of({"privacy": {"epsilon": 1, "trust": None}, "data.views": ["a", "b"]})
    ('privacy.epsilon=1', 'privacy.trust=null', 'data.views=[a,b]')
    """
    words: list[str] = []
    for key, value in changes.items():
        # A key with anything else in it, such as a group's name, can stand in a mapping only.
        flat = isinstance(value, Mapping) and all(str(name).isidentifier() for name in value)
        if isinstance(value, Mapping) and value and flat:
            words += overrides_of({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            words.append(f"{key}={_word(key, value)}")
    return tuple(words)


def _word(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, int | float | np.integer | np.floating):
        return repr(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, str | Path):
        text = str(value)
        quoted = text.replace("\\", "\\\\").replace("'", "\\'")
        return text if _BARE.fullmatch(text) and not _reads_otherwise(text) else f"'{quoted}'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_word(key, each)}" for name, each in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_word(key, each) for each in value) + "]"
    raise ConfigError(
        rule="a value that a config can hold: a number, a word, a list or a mapping of them",
        got=f"{key}={type(value).__name__}",
        do="Pass plain Python values.",
    )


def _reads_otherwise(text: str) -> bool:
    """Whether a bare word would be read as a number, a truth value or nothing."""
    if text.lower() in ("null", "true", "false", "nan", "inf", "-inf"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _opened(finished: Finished) -> Result:
    work_dir = Path(str(finished.record.config["work_dir"]))
    return Result(finished.record, finished.folder, work_dir)


def _frame(clinic: str, made: Predictions) -> pd.DataFrame:
    names = np.asarray(made.classes.names)
    # Ids stay inside: a number tells which items are of one patient, and nothing else. Ids' order,
    # or a stream of the run's public seed, would let whoever knows the ids number them, too.
    different, places = np.unique(made.patients, return_inverse=True)
    drawn = SystemRandom().sample(range(len(different)), len(different))
    numbers = np.asarray(drawn, dtype=np.int64)[places]
    columns: dict[str, Any] = {
        "clinic": clinic,
        "patient": [f"{clinic}-{number}" for number in numbers],
        "label": names[made.labels],
        "decision": names[made.decisions],
    }
    for at, name in enumerate(names):
        columns[f"score of {name}"] = made.probabilities[:, at]
    return pd.DataFrame(columns | {name: list(values) for name, values in made.groups.items()})
