"""`brainjax report`."""

import pathlib

from brainjax.commands import console, parsing


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(verbs, "report", run, "write the page of a run")
  parser.add_argument(
    "workdirs",
    type=pathlib.Path,
    nargs="+",
    metavar="WORKDIR",
    help="the run, then others to compare it with",
  )
  parser.add_argument("--out", type=pathlib.Path, help="the page")


def run(args) -> None:
  """Runs the verb."""
  from brainjax.evaluation import report

  console.say(f"report: {report.write_report(args.workdirs, out=args.out)}")
