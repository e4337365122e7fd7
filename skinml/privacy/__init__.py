"""What is promised, spent and enforced: accounting, ledger, clipping, noise, DP-SGD."""
