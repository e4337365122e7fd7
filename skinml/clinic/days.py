"""Which day it is at a clinic's desk, for commands: the rule is `skinml.stewardship.days`."""

from __future__ import annotations

from skinml.stewardship.days import day_of, this_day

__all__ = ["day_of", "this_day"]
