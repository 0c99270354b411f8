"""What models answered, here or elsewhere."""
