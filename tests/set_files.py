"""Files of rows, and the sets of prompts in them."""

import json

from safety_jax.evaluation.sets.reading import read_sets


def write(path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(*specs):
    return read_sets(specs, "", "evaluate.sets", 0)
