"""Audits that try to break the promise: replay, canaries, and the bounds that follow from them."""
