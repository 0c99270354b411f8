"""Language models that judge: each is a form, places in a forced answer, labels, and a rule."""
