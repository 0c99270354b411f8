"""Evaluation sets: what models are asked."""
