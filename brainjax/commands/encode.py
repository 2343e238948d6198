"""`brainjax encode`."""

import pathlib
import time

from brainjax.commands import console, parsing


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(
    verbs, "encode", run, "features of every scan, to train heads on"
  )
  parser.add_argument(
    "--workdir", type=pathlib.Path, required=True, help="of the encoder's run"
  )
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    required=True,
    metavar="FEATURES",
    help="folder; a head takes it as --config.data.records=FEATURES",
  )


def run(args) -> None:
  """Runs the verb."""
  from brainjax.training import encode

  began = time.perf_counter()
  summary = encode.encode(
    args.workdir, args.out, progress=console.progress("encoding")
  )
  seconds = time.perf_counter() - began
  console.say(
    f"{args.out}: {summary.num_scans} scans, {summary.num_slices} slices,"
    f" {summary.num_features} features each; "
    + (f"{seconds:.0f} s" if summary.new else "nothing to do")
  )
