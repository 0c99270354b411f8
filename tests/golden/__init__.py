"""Stored answers of transformers, peft and trl, and the scripts that make them."""
