"""Federated skin-condition classifiers with patient-level privacy and honest fairness reports."""

__version__ = "0.1.0"
