"""Answers of models, generated here or read from files."""
