"""Public cohort layouts, each read into manifest rows."""
