"""The mathematics: losses, statistics, calibration. Its functions take arrays, not models."""
