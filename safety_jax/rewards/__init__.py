"""Training judges: data, model, loss, and how good the judge is."""
