"""Suffixes that make a model answer, found by its own gradients."""
