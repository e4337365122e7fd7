"""Acceptance criteria: what a model has to show, fixed in the config before the data are seen."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

VALUE, LOWER, UPPER = "value", "lower limit", "upper limit"
OVERALL, EVERY = "overall", "every"


class Criterion(BaseModel):
    """One thing that a model has to show.

    Of a figure: `figure`, `at_least` or `at_most`, and whose it is. Of a gap: `gap` and `column`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    figure: str | None = Field(None, description="The figure that is held against a bound.")
    gap: str | None = Field(None, description="The figure in which groups may not differ.")
    column: str | None = Field(None, description="The attribute whose groups are meant.")
    group: str = Field(
        OVERALL,
        description='A group of the column; "every" for each known one, and for those that '
        'fairness.expected names; "overall" for everybody, and of a gap for each two groups.',
    )
    at_least: float | None = Field(None, description="The least that the figure may be.")
    at_most: float | None = Field(None, description="The most that the figure may be.")
    by: Literal["value", "lower limit", "upper limit"] | None = Field(
        None,
        description="What is held against the bound; without an entry the limit of the interval on "
        "the bad side. A value is never enough below fairness.min_events.",
    )
    verdict: Literal["ruled out within the margin"] = Field(
        "ruled out within the margin", description="What the comparison has to end in."
    )
    allow_cannot_tell: bool = Field(
        default=False,
        description="Whether it is enough that the data cannot tell; a failure that is shown never "
        "is.",
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.figure is None) == (self.gap is None):
            raise ValueError("a criterion needs a figure or a gap, one of the two")
        bounds = (self.at_least is not None) + (self.at_most is not None)
        if self.figure is not None and bounds != 1:
            raise ValueError("a criterion of a figure needs at_least or at_most, one of the two")
        if (self.at_least is not None and self.by == UPPER) or (
            self.at_most is not None and self.by == LOWER
        ):
            raise ValueError(
                "by names the limit on the good side, which fewer data pass more easily"
            )
        if self.gap is not None and (bounds or self.by):
            raise ValueError(
                "a criterion of a gap takes no bound: fairness.margin, or the figure's own in "
                "fairness.margins, is its bound"
            )
        if self.gap is not None and self.column is None:
            raise ValueError("a criterion of a gap needs the column whose groups are compared")
        if self.figure is not None and self.column is None and self.group != OVERALL:
            raise ValueError("a criterion of a group needs the column that the group is of")
        if self.column is not None and self.figure is not None and self.group == OVERALL:
            raise ValueError(f'a criterion of a column needs a group, or group: "{EVERY}"')
        return self

    @property
    def words(self) -> str:
        """The criterion in one line."""
        if self.gap is not None:
            whose = "" if self.group in (OVERALL, EVERY) else f" of {self.group}"
            found = f"gap in {self.gap}{whose} by {self.column}: {self.verdict}"
        else:
            whose = "everybody" if self.column is None else f"{self.column} {self.group}"
            if self.group == EVERY:
                whose = f"every {self.column} group"
            side = "at least" if self.at_least is not None else "at most"
            bound = self.at_least if self.at_least is not None else self.at_most
            found = f"{self.figure} of {whose} {side} {bound:g} by its {self.read_at}"
        return f"{found}, or cannot tell" if self.allow_cannot_tell else found

    @property
    def is_of_all(self) -> bool:
        """Whether all groups of the column are meant."""
        return self.column is not None and (
            self.group == EVERY or (self.gap is not None and self.group == OVERALL)
        )

    @property
    def read_at(self) -> str:
        """What is held against the bound."""
        return self.by or (LOWER if self.at_least is not None else UPPER)
