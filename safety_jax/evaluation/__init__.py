"""What models answer, judged, counted and compared."""
