"""The jobs a config can name. A config ends here: everything below takes plain named arguments."""
