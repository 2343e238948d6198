"""The verbs of the command line: a module each, with `add` and `run`."""
