"""Audits of judges: agreement with labels, and changes that should not flip a verdict."""
