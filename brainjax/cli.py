"""The command line: `brainjax VERB`. Each verb calls one function and prints.

Exit status: 0 done; 2 the input or the command is wrong, said in one line on
stderr; 75 stopped by a signal after saving.
"""

import argparse
import logging
import pathlib
import sys
from collections.abc import Sequence

import brainjax
from brainjax import InputError

EXIT_INPUT = 2
EXIT_STOPPED = 75
_NOTICE = "Research software. Not a medical device; not for clinical use."


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns its exit status."""
  args, overrides = make_parser().parse_known_args(argv)
  try:
    args.overrides = _config_overrides(overrides, args)
    _prepare_process()
    return args.run(args) or 0
  except InputError as error:
    if args.debug:
      raise
    line = " ".join(str(error).split())
    print(f"brainjax {args.verb}: {line}", file=sys.stderr)
    return EXIT_INPUT
  except KeyboardInterrupt:
    print(
      f"brainjax {args.verb}: interrupted; the same command continues",
      file=sys.stderr,
    )
    return EXIT_STOPPED


def _cohort(args) -> None:
  from brainjax.cohort import layouts, manifest

  options = {
    "figshare": {"unit": args.unit},
    "folders": {"modality": args.modality},
    "phantom": {"participants": args.participants, "seed": args.seed},
  }[args.layout]
  if args.layout == "phantom":
    options["progress"] = _progress("drawing")
  rows, columns = layouts.LAYOUTS[args.layout](args.root, **options)
  args.out.parent.mkdir(parents=True, exist_ok=True)
  manifest.write_manifest(args.out, rows, columns)
  counts = {}
  for row in rows:
    counts[row["label"]] = counts.get(row["label"], 0) + 1
  people = len({row["participant_id"] for row in rows})
  groups = len({row.get("group_id") or row["participant_id"] for row in rows})
  _say(
    f"{args.out}: {len(rows)} scans, {people} participants, {groups} groups;"
    f" {', '.join(f'{label} {n}' for label, n in sorted(counts.items()))}"
  )


def _prepare(args) -> None:
  from brainjax.preparation import prepare

  config = _config(args)
  summary = prepare.prepare(
    args.manifest,
    args.out,
    config.preparation,
    progress=_progress("preparing"),
  )
  for rejected in summary.rejected:
    print(
      f"rejected: {rejected['file']}: {rejected['reason']}", file=sys.stderr
    )
  _say(summary.text)


def _train(args) -> int:
  from brainjax.training import train

  config = _config(args)
  try:
    train.train(config, args.workdir, console=_console())
  except train.Stopped as stopped:
    return _stopped(stopped)
  _evaluate_split(args.workdir, "validation")
  return 0


def _stopped(stopped: Exception) -> int:
  _say(f"{stopped}; the same command continues")
  return EXIT_STOPPED


def _evaluate(args) -> None:
  _evaluate_split(args.workdir, args.split)


def _evaluate_split(workdir: pathlib.Path, split: str) -> None:
  from brainjax.evaluation import evaluate, report

  scores = evaluate.evaluate(workdir, split)
  _print_scores(split, scores)
  _say(f"report: {report.write_report([workdir])}")


def _report(args) -> None:
  from brainjax.evaluation import report

  _say(f"report: {report.write_report(args.workdirs, out=args.out)}")


def _demo(args) -> int:
  from brainjax import demo
  from brainjax.training import train

  try:
    demo.run(args.out, console=_console(), progress=_progress)
  except train.Stopped as stopped:
    return _stopped(stopped)
  return 0


def _info(args) -> None:
  import os

  from brainjax.training import workdir

  for name, value in workdir.environment().items():
    _say(f"{name}: {value}")
  _say(f"XLA_FLAGS: {os.environ.get('XLA_FLAGS', '')}")


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of every verb."""
  parser = _Parser(
    prog="brainjax",
    description=brainjax.__doc__,
    epilog=f"Start with `brainjax demo`. {_NOTICE}",
  )
  parser.add_argument(
    "--version", action="version", version=f"brainjax {brainjax.__version__}"
  )
  verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

  demo = _verb(
    verbs, "demo", _demo, "a synthetic cohort, end to end, to a report"
  )
  demo.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path("demo"), help="folder"
  )

  cohort = _verb(verbs, "cohort", _cohort, "read a cohort into a manifest")
  cohort.add_argument(
    "layout",
    choices=("figshare", "folders", "phantom"),
    help="how the files lie under ROOT; phantom draws them there",
  )
  cohort.add_argument("root", type=pathlib.Path, metavar="ROOT")
  cohort.add_argument(
    "--out", type=pathlib.Path, required=True, help="manifest to write (CSV)"
  )
  cohort.add_argument(
    "--unit",
    choices=("patient", "run", "slice"),
    default="patient",
    help="figshare: what a scan is (default: %(default)s)",
  )
  cohort.add_argument(
    "--modality", default="t1", help="folders: image column (default: t1)"
  )
  cohort.add_argument(
    "--participants", type=int, default=200, help="phantom: how many"
  )
  cohort.add_argument("--seed", type=int, default=0, help="phantom: which")

  prepare = _verb(verbs, "prepare", _prepare, "turn scans into records")
  prepare.add_argument("manifest", type=pathlib.Path, metavar="MANIFEST")
  prepare.add_argument(
    "--out", type=pathlib.Path, required=True, help="folder of records"
  )
  _add_config(prepare, required=False)

  train = _verb(verbs, "train", _train, "train a model, or continue a run")
  train.add_argument(
    "--workdir", type=pathlib.Path, required=True, help="folder of the run"
  )
  _add_config(train, required=True)

  evaluate = _verb(verbs, "evaluate", _evaluate, "score a split of a run")
  evaluate.add_argument("--workdir", type=pathlib.Path, required=True)
  evaluate.add_argument(
    "--split",
    choices=("train", "validation", "test"),
    default="test",
    help="default: %(default)s",
  )

  report = _verb(verbs, "report", _report, "write the page of a run")
  report.add_argument(
    "workdirs",
    type=pathlib.Path,
    nargs="+",
    metavar="WORKDIR",
    help="the run, then others to compare it with",
  )
  report.add_argument("--out", type=pathlib.Path, help="the page")

  _verb(verbs, "info", _info, "versions, devices and flags")
  return parser


class _Parser(argparse.ArgumentParser):
  """Says what is wrong in one line, like every other error."""

  def error(self, message):
    print(f"{self.prog}: {message}; see `{self.prog} --help`", file=sys.stderr)
    sys.exit(EXIT_INPUT)


def _verb(verbs, name: str, run, text: str) -> argparse.ArgumentParser:
  parser = verbs.add_parser(
    name, help=text, description=text[0].upper() + text[1:] + "."
  )
  parser.add_argument(
    "--debug", action="store_true", help="show the traceback of an error"
  )
  parser.set_defaults(run=run)
  return parser


def _add_config(parser: argparse.ArgumentParser, *, required: bool) -> None:
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


def _config_overrides(unknown: Sequence[str], args) -> list[str]:
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


def _config(args):
  from brainjax import config as config_lib

  if args.config is None:
    config = config_lib.get_config()
    for override in args.overrides:
      config_lib.set_field(config, override)
    return config
  return config_lib.load_config(args.config, args.overrides)


def _prepare_process() -> None:
  """Sets what must be set before jax, grain and orbax are imported."""
  from absl import flags
  from absl import logging as absl_logging

  brainjax.set_xla_flags()
  flags.FLAGS.mark_as_parsed()  # grain reads flags; nobody else parses them
  absl_logging.set_verbosity(absl_logging.ERROR)
  logging.getLogger().setLevel(logging.ERROR)
  # It reports bad headers by itself; brainjax reports them with the file.
  logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


def _console():
  import rich.console

  return rich.console.Console(soft_wrap=True)


def _say(text: str) -> None:
  _console().print(text, highlight=False, markup=False)


def _progress(text: str):
  """Returns a wrapper that shows how far a loop is, on a terminal only."""
  import rich.progress

  console = _console()
  return lambda items: rich.progress.track(
    items, text, console=console, disable=not console.is_terminal
  )


def _print_scores(split: str, scores) -> None:
  import rich.table

  from brainjax.evaluation import verdict

  table = rich.table.Table(title=f"{split}, {scores['n']} participants")
  table.add_column("metric")
  table.add_column("value [95 % interval]")
  for name, score in scores.items():
    if isinstance(score, dict) and "value" in score:
      table.add_row(name, verdict.score_text(score))
  for probe, probe_scores in scores["probes"].items():
    table.add_row(
      f"shortcut probe: {probe}, roc_auc",
      verdict.score_text(probe_scores["roc_auc"]),
    )
  _console().print(table)


if __name__ == "__main__":
  sys.exit(main())
