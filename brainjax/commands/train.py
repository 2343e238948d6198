"""`brainjax train`."""

import pathlib

from brainjax.commands import console, parsing
from brainjax.commands.evaluate import evaluate_split


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(
    verbs, "train", run, "train a model, or continue a run"
  )
  parser.add_argument(
    "--workdir", type=pathlib.Path, required=True, help="folder of the run"
  )
  parser.add_argument(
    "--distributed",
    nargs="?",
    const="auto",
    metavar="HOST:PORT,N,I",
    help="one of N processes, this one number I from 0; without a value, under"
    " SLURM, Open MPI, Kubernetes or on a TPU VM, jax finds the others",
  )
  parsing.add_config(parser, required=True)


def run(args) -> int:
  """Runs the verb."""
  from brainjax.evaluation import evaluate
  from brainjax.training import processes, train

  config = parsing.config_of(args)
  if args.distributed:
    processes.join(args.distributed)
  speaks = processes.is_first()
  try:
    train.train(
      config, args.workdir, console=console.make_console(quiet=not speaks)
    )
  except train.Stopped as stopped:
    return console.stopped(stopped) if speaks else parsing.EXIT_STOPPED
  if speaks:
    evaluate_split(args.workdir, "validation")
  else:
    evaluate.evaluate(args.workdir, "validation")
  processes.wait_for_all("report written")
  return 0
