"""From a config to a result: the wiring of all rooms."""
