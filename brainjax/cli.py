"""The command line: `brainjax VERB`. The verbs are in `commands/`.

Exit status: 0 done; 2 the input or the command is wrong, said in one line on
stderr; 3 an audit failed; 75 stopped by a signal after saving.
"""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence

import brainjax
from brainjax import InputError
from brainjax.commands import (
  ablate,
  audit,
  cohort,
  demo,
  encode,
  evaluate,
  info,
  parsing,
  predict,
  prepare,
  report,
  sweep,
  train,
)
from brainjax.commands.parsing import EXIT_INPUT, EXIT_STOPPED

# In the order of --help.
VERBS = (
  demo,
  cohort,
  prepare,
  audit,
  train,
  sweep,
  encode,
  evaluate,
  ablate,
  predict,
  report,
  info,
)
_NOTICE = "Research software. Not a medical device; not for clinical use."


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns its exit status."""
  args, overrides = make_parser().parse_known_args(argv)
  try:
    args.overrides = parsing.overrides_of(overrides, args)
    _prepare_process()
    return args.run(args) or 0
  except InputError as error:
    if args.debug:
      raise
    line = " ".join(str(error).split())
    print(f"brainjax {args.verb}: {line}", file=sys.stderr, flush=True)
    return _exit_alone(args, EXIT_INPUT)
  except Exception:
    if getattr(args, "distributed", None):
      traceback.print_exc()
      return _exit_alone(args, 1)
    raise
  except KeyboardInterrupt:
    print(
      f"brainjax {args.verb}: interrupted; the same command continues",
      file=sys.stderr,
    )
    return EXIT_STOPPED


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of every verb."""
  parser = parsing.Parser(
    prog="brainjax",
    description=brainjax.__doc__,
    epilog=f"Start with `brainjax demo`. {_NOTICE}",
  )
  parser.add_argument(
    "--version", action="version", version=f"brainjax {brainjax.__version__}"
  )
  verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
  for verb in VERBS:
    verb.add(verbs)
  return parser


def _exit_alone(args, code: int) -> int:
  """Ends one of several processes at once; returns the code if it is alone.

  The others may wait for it, and at its ordinary end it would wait for them.
  """
  if getattr(args, "distributed", None):
    sys.stderr.flush()
    os._exit(code)
  return code


def _prepare_process() -> None:
  """Sets what must be set before jax, grain and orbax are imported."""
  from absl import flags
  from absl import logging as absl_logging

  brainjax.set_xla_flags()
  brainjax.keep_freed_memory()
  brainjax.set_compilation_cache()
  flags.FLAGS.mark_as_parsed()  # grain reads flags; nobody else parses them
  # Orbax logs, with a traceback, what it raises as well.
  absl_logging.set_verbosity(absl_logging.FATAL)
  sys.unraisablehook = _unraisable
  logging.getLogger().setLevel(logging.ERROR)
  # It reports bad headers by itself; brainjax reports them with the file.
  logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


def _unraisable(what) -> None:
  """Leaves out what follows from an error that is raised and said already.

  When a checkpoint cannot be written, tensorstore goes on telling an event
  loop that Orbax closed at the first error.
  """
  if str(what.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(what)


if __name__ == "__main__":
  sys.exit(main())
