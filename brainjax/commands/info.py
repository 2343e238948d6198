"""`brainjax info`."""

import os

from brainjax.commands import console, parsing


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parsing.add_verb(verbs, "info", run, "versions, devices and flags")


def run(args) -> None:
  """Runs the verb."""
  from brainjax.training import workdir

  for name, value in workdir.environment().items():
    console.say(f"{name}: {value}")
  console.say(f"XLA_FLAGS: {os.environ.get('XLA_FLAGS', '')}")
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  console.say(f"compiled code is kept in: {cache or 'nowhere'}")
