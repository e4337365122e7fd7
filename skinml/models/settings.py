"""What the config says about the model."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Precision = Literal["reference", "float32", "mixed", "bfloat16"]


class ModelSettings(BaseModel):
    """Which model is trained and how images reach it.

    Attributes:
        kind: "linear_head" trains a linear head on a frozen backbone's features; "network" trains
            a whole network end to end.
        backbone: "efficientnet_lite0", or "torchvision/" and the name of a torchvision
            classification model. Read for "linear_head" only.
        weights: The weights of a torchvision backbone: a path (.pth or .safetensors) or an https
            address (.pth). EfficientNet-Lite0 brings its own.
        network: The network to train for "network"; None for "linear_head".
        image_size: Height and width in pixels that images are brought to.
        half_turn: Whether a picture's features are the mean of it and of it turned by 180 degrees:
            steadier features for twice the time. Skin has no upside.
        precision: How the backbone computes. "reference" computes layer by layer, as the weights
            were published. "float32" folds normalisations into convolutions, which moves features
            by about a millionth. "mixed", for efficientnet_lite0, also computes late layers in
            bfloat16: at 224 pixels features move by 1.4%, AUROC by less than 0.001 on two public
            datasets. "bfloat16" computes all in it, and moves features by 7%. "auto" is "mixed"
            where that was measured and pays (efficientnet_lite0 at 224 pixels on processors with
            AMX), else "float32".
        batch_size: Images that pass through the backbone at once. It changes speed and, below
            float precision, the features; not what is learnt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["linear_head", "network"] = "linear_head"
    backbone: str = Field(
        default="efficientnet_lite0", pattern=r"^(efficientnet_lite0|torchvision/[a-z0-9_]+)$"
    )
    weights: str | None = None
    network: Literal["small_cnn", "resnet18_groupnorm"] | None = None
    image_size: int = Field(default=224, ge=16, le=1024)
    half_turn: bool = False
    precision: Literal["auto"] | Precision = "auto"
    batch_size: int = Field(default=16, ge=1, le=1024)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        """Refuse settings of which one part would silently be ignored."""
        if self.kind == "network" and self.network is None:
            raise ValueError("kind=network needs network: small_cnn or resnet18_groupnorm")
        if self.kind == "network" and self.half_turn:
            raise ValueError("half_turn is read for kind=linear_head only; set it to false")
        if self.kind == "linear_head" and self.network is not None:
            raise ValueError("network is read for kind=network only; set network to null")
        if self.backbone == "efficientnet_lite0" and self.weights is not None:
            raise ValueError(
                "efficientnet_lite0 brings its own weights; set weights to null "
                "or backbone to torchvision/NAME"
            )
        if self.backbone != "efficientnet_lite0" and self.precision == "mixed":
            raise ValueError(
                "precision=mixed is measured for efficientnet_lite0 only; set precision to auto"
            )
        if self.backbone != "efficientnet_lite0" and self.weights is None:
            raise ValueError("a torchvision backbone needs weights: a path or an https address")
        return self
