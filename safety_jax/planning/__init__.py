"""What a run would need on other machines: memory, communication and time, from shapes alone."""
