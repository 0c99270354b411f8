"""From a data source to fixed-shape batches: sources, records, mixing, prompts, encode, loader."""
