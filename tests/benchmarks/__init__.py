"""Measured comparisons with other frameworks; they print figures and never assert."""
