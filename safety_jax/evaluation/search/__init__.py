"""Search for adversarial suffixes by a model's own gradients."""
