"""What a clinic holds: manifests, taxonomy, splits, decoding, the feature store, synthetic data."""
