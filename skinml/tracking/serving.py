"""The registered model as MLflow loads it: code from a script, weights from the bundle."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas as pd  # MLflow resolves the type hint of `predict` when the class is made
from mlflow.models.signature import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from skinml.errors import DataError
from skinml.records import Labels

Scorer = Callable[[list[bytes], list[str | None]], list[dict[str, Any]]]


class BundleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc] # mlflow is not typed here
    """Scores images with a saved bundle.

    Args:
        load_scorer: Makes a scorer from the bundle's folder. A scorer takes the bytes of image
            files and the group of each, None where nobody knows it, and returns for each a mapping
            of class names to probabilities, with "decision", "label_set", "cannot_tell",
            "reasons", "alarm", "likeness_checked" and "who_decides".
    """

    def __init__(self, load_scorer: Callable[[Path], Scorer]) -> None:
        self._load_scorer = load_scorer
        self._scorer: Scorer | None = None

    def load_context(self, context: Any) -> None:
        """Read the bundle; MLflow calls this once.

        Args:
            context: MLflow's context, which knows where the bundle was put.
        """
        self._scorer = self._load_scorer(Path(context.artifacts["bundle"]))

    def predict(
        self,
        context: Any,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Score images.

        Args:
            context: MLflow's context.
            model_input: A column `image`: the bytes of an image file, or their base64 text; and
                where somebody knows it a column `group`, such as the skin tone's.
            params: Not used.

        Returns:
            A row an image: a column for each class's probability, and those of `signature`.

        Raises:
            DataError: If the column is missing or holds something else.
        """
        if self._scorer is None:
            self.load_context(context)
        if "image" not in model_input.columns or self._scorer is None:
            raise DataError(
                rule="a column named image",
                got=f"columns={', '.join(map(str, model_input.columns))}",
                do="Send the bytes of each image file in a column named image.",
            )
        images = [image_bytes(row, value) for row, value in enumerate(model_input["image"])]
        groups: list[str | None] = [None] * len(images)
        if "group" in model_input.columns:
            groups = [str(each) if each else None for each in model_input["group"].fillna("")]
        return pd.DataFrame(self._scorer(images, groups), index=model_input.index)


def image_bytes(row: int, value: object) -> bytes:
    """Read what one cell holds.

    Args:
        row: The row's number, for the message.
        value: Bytes, or base64 text.

    Returns:
        The bytes of the image file.

    Raises:
        DataError: If it is neither.
    """
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            pass
    raise DataError(
        rule="the bytes of an image file or their base64 text in column image",
        got=f"{type(value).__name__} in row {row}",
        do="Send bytes, or encode them with base64.",
    )


def signature(classes: Labels) -> ModelSignature:
    """Describe what the registered model takes and returns.

    MLflow's server turns base64 text into bytes for a binary column.

    Args:
        classes: What the model tells apart.

    Returns:
        A signature: column `image` in, and `group` where somebody knows it; out a probability for
        each class, the decision, the label set, whether the model cannot tell and why, whether it
        raises an alarm, whether pictures of something else would be found, and the words that a
        clinician decides.
    """
    words = Array(DataType.string)
    outputs = [
        *(ColSpec("double", name) for name in classes.names),
        ColSpec("string", "decision"),
        ColSpec(words, "label_set", required=False),
        ColSpec("boolean", "cannot_tell"),
        ColSpec(words, "reasons"),
        ColSpec("boolean", "alarm", required=False),
        ColSpec("boolean", "likeness_checked"),
        ColSpec("string", "who_decides"),
    ]
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image"), ColSpec("string", "group", required=False)]),
        outputs=Schema(outputs),
    )


def serve(load_scorer: Callable[[Path], Scorer]) -> None:
    """Name the model in the script that MLflow runs to load it.

    Args:
        load_scorer: Makes a scorer from the bundle's folder, see `BundleModel`.
    """
    mlflow.models.set_model(BundleModel(load_scorer))
