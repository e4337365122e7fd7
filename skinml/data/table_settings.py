"""What a config may say about statistics over clinics: which tables, by which regions."""

from __future__ import annotations

import re
from itertools import chain

from pydantic import BaseModel, ConfigDict, Field, model_validator

ATTRIBUTES = (
    "diagnosis",
    "skin_tone",
    "age_band",
    "sex",
    "anatomical_site",
    "treatment",
    "outcome",
)
"""What patients can be counted by."""
EXPERIMENT = "statistics"
"""The name of the experiment that every run of statistics is, whatever its data are."""
USUAL_TABLES = ("diagnosis", "skin_tone", "age_band", "treatment", "outcome")
_CROSSED = ":"
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LEAST_CLINICS = 2


class StatisticsSettings(BaseModel):
    """Which tables of patients are released, and how they are shown. All of it is public."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tables: tuple[str, ...] = Field(
        USUAL_TABLES,
        min_length=1,
        max_length=20,
        description="What patients are counted by, a table each: an attribute, or two with a colon "
        f"between, such as diagnosis:treatment. Attributes: {', '.join(ATTRIBUTES)}. Each further "
        "table makes the noise in all of them larger.",
    )
    least_count: int = Field(
        10,
        ge=1,
        le=10_000,
        description="Counts below it are not shown, nor those that noise alone could make in 1 of "
        "40 empty cells, whichever limit is greater.",
    )
    regions: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Groups of clinics, each of which has tables of its own; together all clinics, "
        "each once. Empty: one group.",
    )

    @model_validator(mode="after")
    def _agree(self) -> StatisticsSettings:
        for table, attributes in zip(self.tables, self.crossings, strict=True):
            unknown = [name for name in attributes if name not in ATTRIBUTES]
            if unknown or len(attributes) > 2 or len(set(attributes)) < len(attributes):
                raise ValueError(
                    f"a table is one of {', '.join(ATTRIBUTES)}, or two different ones with "
                    f"'{_CROSSED}' between, not {table}"
                )
        if len({frozenset(each) for each in self.crossings}) < len(self.tables):
            raise ValueError("tables must differ from one another")
        members = list(chain(*self.regions.values()))
        if len(set(members)) < len(members):
            raise ValueError("a clinic is in one region")
        strange = [name for name in self.regions if not _REGION.fullmatch(name)]
        if strange:
            raise ValueError("names of regions are letters, digits, _ and -")
        small = [name for name, own in self.regions.items() if len(own) < _LEAST_CLINICS]
        if small:
            raise ValueError(f"a region has {_LEAST_CLINICS} clinics or more, not {small[0]}")
        return self

    @property
    def crossings(self) -> tuple[tuple[str, ...], ...]:
        """The attributes of each table."""
        return tuple(tuple(table.split(_CROSSED)) for table in self.tables)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Every attribute that a table needs, once."""
        return tuple(dict.fromkeys(chain(*self.crossings)))
