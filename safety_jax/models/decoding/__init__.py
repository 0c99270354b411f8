"""Answers from a model: sampling, beams, caches, the compiled programs."""
