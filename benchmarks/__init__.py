"""Measurements: what governance costs, side by side with the bare application and the published package."""
