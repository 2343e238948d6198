"""`brainjax demo`."""

import pathlib

from brainjax.commands import console, parsing


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(
    verbs, "demo", run, "a synthetic cohort, end to end, to a report"
  )
  parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path("demo"), help="folder"
  )


def run(args) -> int:
  """Runs the verb."""
  from brainjax import demo
  from brainjax.training import train

  try:
    demo.run(
      args.out, console=console.make_console(), progress=console.progress
    )
  except train.Stopped as stopped:
    return console.stopped(stopped)
  return 0
