"""Whether a judge can be trusted: its verdicts against labels, and what should not move them."""
