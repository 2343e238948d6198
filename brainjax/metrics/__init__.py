"""Scores and their intervals, in numpy."""
