"""What a config says of the gates of its virtual clinics."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from skinml.stewardship.policy import Policy


class VirtualClinicSettings(BaseModel):
    """How the clinic folders of a simulation are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Policy = Field(
        description="The policy of every virtual clinic, but for its name. A clinic whose policy "
        "is another one gets this one, and its audit log says so."
    )
