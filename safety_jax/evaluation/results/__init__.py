"""What an evaluation comes to, as plain data."""
