"""The exceptions a user can cause.

Each message is one line with three parts: what was given, what was expected, what to change.
`main.py` prints it and exits with code 2; any other exception is a bug and keeps its traceback.
A message may quote a file from somebody else. It is therefore made safe for a terminal here, and
secrets in URLs are removed.
"""

from collections.abc import Sequence

from safety_jax.base import redaction, terminal

# A message may list the columns of a file: thousands of them, with long names.
_LONGEST = 3_000  # characters
INTERRUPTED = 130  # the exit code that shells report after Ctrl-C


class UserError(Exception):
    """Something the user gave cannot be used."""

    def __init__(self, message: str):
        line = redaction.public(" ".join(message.split()))
        super().__init__(terminal.shortened(terminal.clean(line), _LONGEST))


class ConfigError(UserError):
    """A config value, or a combination of them, is not usable."""


class DataError(UserError):
    """A data source, or one row of it, is not usable; the message names file and row."""


class CheckpointError(UserError):
    """A model folder, an adapter folder or a saved state is not usable."""


class NotFiniteError(UserError):
    """A model's outputs are not finite; the message names the model and the place."""


class DivergenceError(UserError):
    """Training produced a loss that is not finite; the message names step and row ids."""


def few(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first names of a list for a message, and the number of others: `a, b and 7 more`."""
    named = separator.join(names[:most])
    more = len(names) - most
    comma = separator.strip(" ,")  # no comma before "and", but a semicolon
    return named if more <= 0 else f"{named}{comma} and {more} more"
