"""Measures of judged answers, and comparisons of models."""
