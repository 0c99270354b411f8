"""Attacks: what somebody does to a request so that a safe model answers it after all."""
