"""Reward-ranked fine-tuning, round by round: prompts, candidates, choices, measures."""
