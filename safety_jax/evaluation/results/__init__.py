"""The results of an evaluation, as plain data."""
