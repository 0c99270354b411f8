"""Judges: text in, scores out, each with a card that says what the scores mean."""
