"""The mathematics: losses, statistics, calibration. It takes arrays and knows of no model."""
