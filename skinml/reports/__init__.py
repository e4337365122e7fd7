"""Documents for a reviewer, made from a finished run's record."""
