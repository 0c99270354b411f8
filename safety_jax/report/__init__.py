"""What a run leaves for people to read: plots and the model card."""
