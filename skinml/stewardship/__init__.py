"""Whether data may be used, and how they are kept: admissibility and encryption."""
