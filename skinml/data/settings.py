"""What a config may say about the data: where they are, who is asked what, how they are divided."""

from __future__ import annotations

from math import isclose
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from skinml.data.synthetic.settings import SyntheticSettings
from skinml.stewardship.purposes import Purpose

Unit = Literal["patient", "lesion", "image"]
_IDENTIFYING = {"image", "patient_id", "lesion_id", "row"}
GROUP_ATTRIBUTES = ("skin_tone", "sex", "age_band", "anatomical_site", "clinic")
CASES = "diagnosis"
"""An attribute that comparisons of groups are standardised by; it is no group of its own."""


class _Frozen(BaseModel):
    """Settings that nobody changes after they were read, and that know no other key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitFractions(_Frozen):
    """The share of patients that each split expects."""

    train: float = Field(0.7, gt=0, lt=1, description="Expected share of training patients.")
    validation: float = Field(0.1, gt=0, lt=1, description="Expected share of validation patients.")
    test: float = Field(0.2, gt=0, lt=1, description="Expected share of test patients.")

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.validation + self.test
        if not isclose(total, 1, abs_tol=1e-9):
            raise ValueError(f"the fractions of the three splits must sum to 1, not {total:g}")
        return self


class PartitionSettings(_Frozen):
    """Which clinic holds which patient."""

    by: Literal["column", "site", "random", "dirichlet", "pooled"] = Field(
        "column",
        description="column: the manifest says; site: by the patient's anatomical site; random: "
        "patients at random; dirichlet: at random with a different label mix a clinic; pooled: "
        "one clinic holds everybody.",
    )
    column: str = Field("clinic", description="The manifest's column that names the clinic.")
    num_clinics: int = Field(4, ge=1, description="How many clinics random and dirichlet make.")
    alpha: float = Field(
        1.0, gt=0, description="Dirichlet concentration; the smaller, the more clinics differ."
    )
    prefix: str = Field("clinic", min_length=1, description="Made clinics are called PREFIX-1...")


class ImageLimits(_Frozen):
    """What an image file may ask of the machine that opens it."""

    max_bytes: int = Field(50 * 2**20, gt=0, description="Largest file, in bytes.")
    max_pixels: int = Field(50_000_000, gt=0, description="Most pixels, read from the header.")
    min_side: int = Field(16, gt=0, description="Shortest side, in pixels.")


class LeakageSettings(_Frozen):
    """How the audit for the same picture in two splits judges."""

    near_duplicates: Literal["error", "report"] = Field(
        "error",
        description="What a near-duplicate across splits does: stop the run, or only be counted.",
    )
    shared_units: Literal["error", "leave_out", "report"] = Field(
        "error",
        description="What a patient, lesion or image that a published split has in both parts "
        "does: stop the run; be left out of training and validation; or only be counted, without "
        "privacy and under a stamp.",
    )
    # Chosen on 13,984 real images (HAM10000 and MILK10k, 98 million pairs). Pairs of different
    # patients are all chance look-alikes, small dark spots on plain skin: the closest at 26 bits,
    # 20 pairs up to 34, 318 up to 48. Copies of one picture that were recompressed (JPEG 50) or
    # halved differ by at most 22 bits, and by 24 or less in 95% after losing 2% of their margin.
    max_distance: int = Field(
        24,
        ge=0,
        le=256,
        description="Greatest Hamming distance between the 256-bit perceptual hashes of two "
        "images that counts as a near-duplicate.",
    )


class DataSettings(_Frozen):
    """Which images are used for which question, and how they are divided."""

    name: str = Field(min_length=1, description="The data's name in reports.")
    source: Literal["synthetic", "manifest"] = Field(
        "manifest", description="Drawn by the synthetic generator, or read from a manifest."
    )
    root: Path | None = Field(
        None, description="Folder of the manifest and its images, relative to the working folder."
    )
    manifest: str = Field("manifest.csv", description="The manifest's name inside root.")
    unit: Unit = Field(
        "patient", description="What patient_id stands for; every output says it. A sidecar wins."
    )
    seed: int = Field(0, ge=0, description="Seed of made clinics and synthetic data.")
    split: Literal["hash", "published"] = Field(
        "hash",
        description="hash: by the keyed hash of each patient; published: the manifest's column "
        "published_split says who is tested, and the hash who of the others validates.",
    )
    split_key: str = Field(
        min_length=1, description="Public key of the hash that puts a patient into a split."
    )
    fractions: SplitFractions = Field(
        default=SplitFractions(), description="Expected share of patients in each split."
    )
    where: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Keep rows whose column has one of these values."
    )
    target: Literal["malignant", "diagnosis"] = Field(
        "malignant", description="What the model tells apart."
    )
    classes: tuple[str, ...] = Field(
        (), description="Shared diagnoses in the order of the outputs, for target diagnosis."
    )
    views: tuple[str, ...] = Field(
        (), description="Modalities joined into one item a lesion; empty: each image is an item."
    )
    partition: PartitionSettings = Field(
        default=PartitionSettings(), description="Which clinic holds which patient."
    )
    taxonomy: Path | None = Field(
        None, description="A clinic's own words, a YAML file that extends the shipped one."
    )
    limits: ImageLimits = Field(
        default=ImageLimits(), description="What an image file may ask of the machine."
    )
    leakage: LeakageSettings = Field(
        default=LeakageSettings(), description="How the leakage audit judges."
    )
    tone_scale: str | None = Field(
        None,
        description="The scale that bins of skin_tone are written for; also the scale of rows "
        "whose manifest, sidecar and dataset name none.",
    )
    groups: tuple[str, ...] = Field(
        GROUP_ATTRIBUTES, description="Attributes that results are reported by."
    )
    bins: dict[str, dict[str, tuple[str, ...]]] = Field(
        default_factory=dict,
        description="For an attribute, the values that each reported group joins.",
    )
    age_bands: tuple[int, ...] = Field(
        (30, 50, 70), min_length=1, description="Years at which a new age band begins, rising."
    )
    purpose: Purpose | None = Field(
        None,
        description="What the data are used for, which licence or consent must cover; none: "
        "federated_training where clinics train together, research where one place holds all, "
        "statistics where patients are counted.",
    )
    consents: str | None = Field(
        None,
        description="A table of consents beside the manifest, for virtual clinics; rows without a "
        "licence need one. A real clinic keeps a register.",
    )
    synthetic: SyntheticSettings | None = Field(
        None, description="How synthetic data are drawn, for source synthetic."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.source == "manifest" and self.root is None:
            raise ValueError("source manifest needs root, the folder of the manifest")
        if self.source == "synthetic" and self.root is not None:
            raise ValueError(
                "source synthetic draws its images and reads no root: for images of your own say "
                "data.source=manifest too"
            )
        private = _IDENTIFYING & {*self.where, self.partition.column}
        if private:
            raise ValueError(
                f"where and partition.column must not read {', '.join(sorted(private))}: the "
                "config is public"
            )
        if self.target == "diagnosis" and len(self.classes) < 2:
            raise ValueError("target diagnosis needs at least two classes")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must differ from one another")
        if len(set(self.views)) < len(self.views):
            raise ValueError("views must differ from one another")
        known = (*GROUP_ATTRIBUTES, CASES)
        unknown = set(self.groups) - set(known)
        if unknown:
            raise ValueError(f"groups must be among {', '.join(known)}, not {', '.join(unknown)}")
        if list(self.age_bands) != sorted(set(self.age_bands)) or min(self.age_bands) < 1:
            raise ValueError("age_bands must rise, from 1 year on")
        if "skin_tone" in self.bins and self.tone_scale is None:
            raise ValueError("bins of skin_tone need tone_scale, the scale they are written for")
        for attribute, bins in self.bins.items():
            values = [value for members in bins.values() for value in members]
            if len(set(values)) < len(values):
                raise ValueError(f"bins of {attribute} must not share a value")
        return self
