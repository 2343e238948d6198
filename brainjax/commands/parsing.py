"""What the parsers of the verbs share."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from brainjax import InputError

EXIT_INPUT = 2
EXIT_STOPPED = 75


class Parser(argparse.ArgumentParser):
  """Says what is wrong in one line, like every other error."""

  def error(self, message):
    """Prints the line and exits with 2."""
    print(f"{self.prog}: {message}; see `{self.prog} --help`", file=sys.stderr)
    sys.exit(EXIT_INPUT)


def add_verb(verbs, name: str, run, text: str) -> argparse.ArgumentParser:
  """Returns the parser of a verb; `run(args)` gives its exit status."""
  parser = verbs.add_parser(
    name, help=text, description=text[0].upper() + text[1:] + "."
  )
  parser.add_argument(
    "--debug", action="store_true", help="show the traceback of an error"
  )
  parser.set_defaults(run=run)
  return parser


def add_config(parser: argparse.ArgumentParser, *, required: bool) -> None:
  """Adds --config; the overrides of its fields are left to `overrides_of`."""
  parser.add_argument(
    "--config",
    required=required,
    metavar="FILE[:arg]",
    help="e.g. configs/densenet_lstm.py or configs/default.py:head=mean",
  )
  parser.epilog = (
    "Any field of the config can be set: --config.SECTION.FIELD=VALUE, e.g."
    " --config.train.epochs=20. The fields are in brainjax/config.py."
  )


def overrides_of(unknown: Sequence[str], args) -> list[str]:
  """Returns `section.field=value` of the `--config.` arguments."""
  takes_config = hasattr(args, "config")
  overrides = []
  for argument in unknown:
    if not argument.startswith("--config.") or not takes_config:
      raise InputError(
        f"{argument}: no such argument; see `brainjax {args.verb} --help`"
      )
    overrides.append(argument.removeprefix("--config."))
  return overrides


def config_of(args):
  """Returns the config of --config and its overrides."""
  from brainjax import config as config_lib

  if args.config is None:
    config = config_lib.get_config()
    for override in args.overrides:
      config_lib.set_field(config, override)
    return config
  return config_lib.load_config(args.config, args.overrides)


def add_executor(parser: argparse.ArgumentParser) -> None:
  """Adds where a verb's many runs take place; read by `place_of`."""
  parser.add_argument(
    "--executor",
    choices=("local", "slurm"),
    default="local",
    help="where the runs take place (default: %(default)s)",
  )
  parser.add_argument(
    "--jobs",
    type=int,
    metavar="N",
    help="runs at a time; here each has its share of cores and GPUs (default: 1"
    " here, 256 on SLURM)",
  )
  parser.add_argument(
    "--slurm",
    action="append",
    default=[],
    metavar="OPTION=VALUE",
    help="of sbatch, as submitit calls it: partition=gpu, time=240 (minutes),"
    " gpus_per_node=1, ...; may be given again",
  )


def place_of(args, folder: pathlib.Path):
  """Returns the `training.executor` place of --executor, --jobs, --slurm.

  Args:
    args: Of a verb with `add_executor`.
    folder: For the files of SLURM jobs; on a file system that all nodes see.
  """
  from brainjax.training import executor, slurm

  at_once = {} if args.jobs is None else {"at_once": args.jobs}
  if args.jobs is not None and args.jobs < 1:
    raise InputError(f"--jobs={args.jobs}: at least 1")
  if args.executor == "local":
    if args.slurm:
      raise InputError("--slurm: of --executor=slurm; leave it out")
    return executor.Local(**at_once)
  options = {}
  for option in args.slurm:
    name, equals, value = option.partition("=")
    if not equals:
      raise InputError(f"--slurm={option}: write --slurm=OPTION=VALUE")
    options[name] = int(value) if value.isdecimal() else value
  return slurm.Slurm(folder, options, **at_once)
