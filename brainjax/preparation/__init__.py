"""Scanner file to record, once, on CPU cores."""
