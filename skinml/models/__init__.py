"""Networks that private training accepts, frozen backbones, heads, the saved model bundle."""
