"""Model ports, adapters and the folders they are read from and written to."""
