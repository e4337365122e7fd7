"""A saved model: weights in safetensors, everything about them in JSON.

A bundle is a folder of `model.safetensors` and `bundle.json`. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors import numpy as safe_arrays

from skinml.errors import DataError, EnvironmentProblem, IntegrityError
from skinml.models.likeness import CENTRE
from skinml.models.linear_head import BIAS_INPUT, LinearHead, softmax
from skinml.records import Labels

WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "bundle.json"
_HEAD_ARRAYS = {"centre", "weight", "offset"}


class BundleSpec(BaseModel):
    """What a model is, in plain values.

    Attributes:
        format_version: Of this layout.
        kind: "linear_head" on a backbone's features, or "network".
        labels: The classes in the order of the outputs.
        malignant: For each class, whether it counts as malignant.
        backbone: Name of the backbone of a head; empty for a network.
        backbone_version: Of the features that a head was trained on, or that a network's mean of
            its validation patients is of; empty for a network without.
        network: Name of the network; empty for a head.
        image_size: Height and width in pixels.
        views: The images of one item in the order of the features, such as ("dermoscopic",).
        preprocessing: Names what happens between a file and the model.
        taxonomy_version: Of the words in `labels`.
        bias_input: The constant behind a head's features.
        threshold: Malignancy score from which an item counts as alarm; None where none was fixed.
        threshold_source: Where the threshold comes from, in words.
        label_sets: `fairness.label_sets.LabelSets.values`; empty where the run released no counts
            for them.
        calibration: "intercept" and "slope" through the malignancy score's log odds; empty where
            the released scores gave none.
        guarantee: What is promised to a patient, as plain values.
        config: The whole config of the run.
        provenance: Run id, version of skinml, time, name and unit of the data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    kind: Literal["linear_head", "network"]
    labels: tuple[str, ...] = Field(min_length=2)
    malignant: tuple[bool, ...]
    backbone: str = ""
    backbone_version: str = ""
    network: Literal["", "small_cnn", "resnet18_groupnorm"] = ""
    image_size: int = Field(gt=0)
    views: tuple[str, ...] = Field(min_length=1)
    preprocessing: str
    taxonomy_version: str
    bias_input: float = BIAS_INPUT
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    threshold_source: str = ""
    label_sets: dict[str, Any] = Field(default_factory=dict)
    calibration: dict[str, float] = Field(default_factory=dict)
    guarantee: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _flags_fit(self) -> Self:
        """Refuse flags that cannot belong to the labels."""
        if len(self.malignant) != len(self.labels):
            raise ValueError("malignant needs one entry a label")
        return self

    @property
    def classes(self) -> Labels:
        """The labels as the record that crosses rooms."""
        return Labels(names=self.labels, malignant=self.malignant)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model and what it is.

    Attributes:
        spec: What it is.
        arrays: `head_arrays` of a head; or `networks.network_arrays` of a network, and where its
            run released it `likeness.CENTRE`, the mean of the validation patients' features.
    """

    spec: BundleSpec
    arrays: Mapping[str, NDArray[Any]]


def head_arrays(head: LinearHead) -> dict[str, NDArray[np.float32]]:
    """Take a head's arrays for a bundle; its `bias_input` goes into the spec.

    Args:
        head: The trained head.

    Returns:
        "centre", "weight" and "offset".
    """
    return {name: getattr(head, name).astype(np.float32) for name in sorted(_HEAD_ARRAYS)}


def head_of(bundle: Bundle) -> LinearHead:
    """Rebuild the head of a bundle.

    Args:
        bundle: A bundle of kind "linear_head".

    Returns:
        The head.

    Raises:
        DataError: If the bundle holds no head, or one that does not fit its labels.
    """
    if bundle.spec.kind != "linear_head" or bundle.arrays.keys() != _HEAD_ARRAYS:
        raise _not_a_bundle("arrays that are not a linear head's")
    head = LinearHead(**dict(bundle.arrays), bias_input=bundle.spec.bias_input)
    if len(head.offset) != len(bundle.spec.labels):
        raise _not_a_bundle(f"{len(head.offset)} outputs and {len(bundle.spec.labels)} labels")
    return head


def score(
    bundle: Bundle, inputs: NDArray[Any], *, batch_size: int = 64
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Score items.

    Args:
        bundle: The model.
        inputs: (n, d) from `linear_head.item_features` for a head; images (n, image_size,
            image_size, 3) of uint8 for a network.
        batch_size: Images that pass through a network at once.

    Returns:
        (n, k) probabilities, rows sum to 1; (n,) index of the class decided for.

    Raises:
        DataError: If the inputs or the arrays do not fit the spec.
    """
    if bundle.spec.kind == "linear_head":
        head = head_of(bundle)
        return head.probabilities(inputs), head.decisions(inputs)
    logits = _network_logits(bundle, inputs, batch_size)
    return softmax(logits), logits.argmax(axis=1)


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write a bundle into a folder, which is made where it is missing.

    Args:
        folder: Where; a bundle that is there is replaced.
        bundle: What. NaN and infinity in its spec are written as null.

    Raises:
        EnvironmentProblem: If the folder cannot be written to.

    Guarantees:
        `bundle.json` is written last and names the weights' digest, so that a bundle whose
        writing was cut short does not load.
    """
    arrays = {name: np.ascontiguousarray(value) for name, value in bundle.arrays.items()}
    weights = safe_arrays.save(arrays)
    spec = bundle.spec.model_dump(mode="json")
    content = {
        "spec": spec,
        "sha256": {"weights": hashlib.sha256(weights).hexdigest(), "spec": _spec_digest(spec)},
    }
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / WEIGHTS_FILE, weights)
        _replace(folder / SPEC_FILE, text.encode())
    except OSError as error:
        raise EnvironmentProblem(
            rule="a folder that the model can be written to",
            got=f"folder={folder} ({error.strerror})",
            do="Check its permissions and the space on the disk.",
        ) from error


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check it.

    Args:
        folder: Where `save_bundle` wrote it.

    Returns:
        The bundle.

    Raises:
        DataError: If the folder does not hold a bundle of this format.
        IntegrityError: If the weights or the spec were changed since they were written.

    Guarantees:
        No code in the files runs: neither JSON nor safetensors can hold any.
    """
    try:
        content = json.loads((folder / SPEC_FILE).read_bytes())
        weights = (folder / WEIGHTS_FILE).read_bytes()
        expected = (content["sha256"]["weights"], content["sha256"]["spec"])
        spec = content["spec"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _not_a_bundle(f"folder={folder}") from None
    if expected != (hashlib.sha256(weights).hexdigest(), _spec_digest(spec)):
        raise IntegrityError(
            rule="a model as it was written",
            got=f"weights or spec with another digest in folder={folder}",
            do="Do not use this copy. Fetch the model again from where it was trained.",
        )
    try:
        return Bundle(spec=BundleSpec.model_validate(spec), arrays=safe_arrays.load(weights))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "spec"
        raise _not_a_bundle(f"{error.error_count()} faults, the first in {field}") from None
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise _not_a_bundle(f"a {WEIGHTS_FILE} that is not safetensors") from None


def _network_logits(bundle: Bundle, images: NDArray[Any], batch_size: int) -> NDArray[np.float64]:
    """Run images through the bundle's network."""
    import torch

    from skinml.models import networks

    spec = bundle.spec
    # These initial weights are all replaced by the bundle's own.
    stream = np.random.Generator(np.random.Philox(0))
    network = networks.build_network(spec.network, len(spec.labels), stream)
    networks.load_network_arrays(
        network, {name: values for name, values in bundle.arrays.items() if name != CENTRE}
    )
    network.eval()
    expected = (spec.image_size, spec.image_size, 3)
    if images.shape[1:] != expected:
        raise DataError(
            rule=f"images of shape (n, {', '.join(map(str, expected))})",
            got=f"shape={images.shape}",
            do="Resize the images to the size that the network was trained on.",
        )
    logits = np.empty((len(images), len(spec.labels)))
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            batch = networks.input_tensor(images[start : start + batch_size])
            logits[start : start + batch_size] = network(batch).numpy()
    return logits


def _spec_digest(spec: Any) -> str:
    """Name a spec by its content."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _not_a_bundle(got: str) -> DataError:
    """Build the error for what is not a bundle."""
    return DataError(
        rule=f"a saved model: {SPEC_FILE} and {WEIGHTS_FILE} that belong together",
        got=got,
        do="Give the model folder of a finished run.",
    )
