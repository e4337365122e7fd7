"""Who is in a noisy step's sample: drawn for each patient by itself, keyed by the patient.

A patient's draw depends on the release's secret, the step and the patient's own id, and on nobody
else: without one patient, all others are drawn as before, with the same images and the same views.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinml.errors import require_in_range
from skinml.records import StrArray

_PERSON = b"skinml sampling"


@dataclass(frozen=True, repr=False)
class Sampled:
    """One patient of a step's sample. Per patient: never log.

    Attributes:
        rows: (m,) positions of the patient's images that the step uses, rising.
        key: 128 bits that the patient's random views in this step are drawn from.
    """

    rows: NDArray[np.intp]
    key: int

    def stream(self) -> np.random.Generator:
        """Open the patient's own random stream of this step.

        Returns:
            A generator at the beginning of the stream.
        """
        return np.random.Generator(np.random.Philox(key=self.key))


def rows_by_patient(patients: StrArray) -> dict[str, NDArray[np.intp]]:
    """Find each patient's images.

    Args:
        patients: (n,) the id of each image's patient.

    Returns:
        For each patient, in the order of their ids, the positions of the images, rising.
    """
    names, position = np.unique(patients, return_inverse=True)
    order = np.argsort(position, kind="stable")
    ends = np.cumsum(np.bincount(position, minlength=len(names)))
    parts = np.split(order, ends[:-1]) if len(names) else []
    return {str(name): part for name, part in zip(names, parts, strict=True)}


def draw_sample(
    rows: Mapping[str, NDArray[np.intp]],
    *,
    secret: bytes,
    step: int,
    sampling_prob: float,
    max_images: int,
    shares: Mapping[str, float] | None = None,
) -> Sequence[Sampled]:
    """Draw a step's Poisson sample of patients and the images of theirs that it uses.

    Args:
        rows: Each patient's images, see `rows_by_patient`.
        secret: Key of at most 64 bytes, fresh for each release and known to this clinic alone.
        step: Number of the step within the release.
        sampling_prob: Chance of each patient to be in the sample, 0 to 1.
        max_images: Images of a patient that are used at most, from 1.
        shares: What each patient's own chance is a part of sampling_prob of, 0 to 1; None: all of
            it. It must follow from the patient's own records and public figures alone.

    Returns:
        The patients of the sample in the order of their ids; often none.

    Raises:
        ConfigError: If sampling_prob or a share is outside its range.

    Guarantees:
        Patients are drawn independently of each other, each with a chance of at most
        sampling_prob times its share and at least 2**-53 below; so an accountant that is told
        sampling_prob, the largest rate there is, counts for every patient. Whether a patient is
        drawn, which of its images are used and its key do not change with the other patients.
    """
    require_in_range(0, 1, sampling_prob=sampling_prob)
    threshold, sample = int(sampling_prob * 2**53), []
    for patient, own in rows.items():
        if shares is not None:
            require_in_range(0, 1, share=shares[patient])
            threshold = int(sampling_prob * shares[patient] * 2**53)
        digest = hashlib.blake2b(
            step.to_bytes(8, "big") + patient.encode(), key=secret, person=_PERSON
        ).digest()
        if int.from_bytes(digest[:8], "big") >> 11 < threshold:
            chosen = _some(own, max_images, int.from_bytes(digest[8:24], "big"))
            sample.append(Sampled(chosen, int.from_bytes(digest[24:40], "big")))
    return sample


def _some(rows: NDArray[np.intp], at_most: int, key: int) -> NDArray[np.intp]:
    if len(rows) <= at_most:
        return rows
    rng = np.random.Generator(np.random.Philox(key=key))
    return np.sort(rng.choice(rows, size=at_most, replace=False))
