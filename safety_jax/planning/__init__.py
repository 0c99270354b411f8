"""What a run needs of machines that are not there: memory, exchanges, time, from shapes alone."""
