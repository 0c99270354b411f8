"""Evaluation: sets, attacks, answers, measures, and their results."""
