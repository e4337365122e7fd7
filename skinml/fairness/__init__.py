"""Estimates with intervals by group, thresholds, calibration."""
