"""What answers and scores come to, and how models compare."""
