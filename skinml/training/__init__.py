"""The one local loop: features, fit, evaluate."""
