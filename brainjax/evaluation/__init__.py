"""Scores, figures, baselines and the report of a run."""
