"""Where a run writes what it saw."""
