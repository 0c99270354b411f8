"""Jailbreak attacks: transformations of a request that make a safe model answer it."""
