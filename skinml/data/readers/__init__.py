"""One reader a published dataset: its own metadata files to a manifest's columns."""
