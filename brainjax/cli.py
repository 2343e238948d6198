"""The command line: `brainjax VERB`. Each verb calls one function and prints.

Exit status: 0 done; 2 the input or the command is wrong, said in one line on
stderr; 75 stopped by a signal after saving.
"""

import argparse
import logging
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Iterable, Sequence

import brainjax
from brainjax import InputError
from brainjax.cohort.manifest import MODALITIES

EXIT_INPUT = 2
EXIT_STOPPED = 75
_MOST_LINES = 20  # of one kind of complaint on stderr
_SHEET_SCANS = 12  # on the contact sheet of `prepare`
# Of `cohort`; without the option, the layout's own default holds.
LAYOUT_OF_OPTION = {
  "label_column": "bids",
  "unit": "figshare",
  "modality": "folders",
  "participants": "phantom",
  "seed": "phantom",
}
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


def _exit_alone(args, code: int) -> int:
  """Ends one of several processes at once; returns the code if it is alone.

  The others may wait for it, and at its ordinary end it would wait for them.
  """
  if getattr(args, "distributed", None):
    sys.stderr.flush()
    os._exit(code)
  return code


def _cohort(args) -> None:
  from brainjax.cohort import layouts, manifest, summary

  options = {}
  for name, layout in LAYOUT_OF_OPTION.items():
    value = getattr(args, name)
    if value is None:
      continue
    if layout != args.layout:
      raise InputError(
        f"--{name.replace('_', '-')}: of the layout {layout}, not of"
        f" {args.layout}; leave it out"
      )
    options[name] = value
  if args.layout == "phantom":
    options["progress"] = _progress("drawing")
  rows, columns = layouts.LAYOUTS[args.layout](args.root, **options)
  manifest.write_manifest(args.out, rows, columns)
  # Read back, so that what was written is known to be valid.
  counts = summary.summarise(manifest.read_manifest(args.out))
  _, _, scans, people, groups = counts[0]
  _say(f"{args.out}: {scans} scans, {people} participants, {groups} groups")
  _print_counts(counts[1:])


def _prepare(args) -> None:
  from brainjax.preparation import prepare

  config = _config(args)
  if args.workers < 1:
    raise InputError(f"--workers={args.workers}: at least 1")
  summary = prepare.prepare(
    args.manifest,
    args.out,
    config.preparation,
    num_workers=args.workers,
    progress=_progress("preparing"),
    say=_say,
  )
  _complain(
    f"rejected: {row['file']}: {row['reason']}" for row in summary.rejected
  )
  _complain(
    f"warning: {row['participant_id']} {row['session_id']}".rstrip()
    + f": {row['warning']}"
    for row in summary.warnings
  )
  _say(summary.text)
  _say(f"look at some of them: {_write_contact_sheet(args.out)}")


def _write_contact_sheet(out: pathlib.Path) -> pathlib.Path:
  """Draws some scans of a folder of records, evenly spread over it."""
  from brainjax import records
  from brainjax.evaluation import figures, montage

  record_set = records.RecordSet(out)
  chosen = montage.spread(len(record_set), _SHEET_SCANS)
  scans = [record_set[int(i)] for i in chosen]
  sheet = montage.contact_sheet(
    scans,
    [
      " ".join(filter(None, (s.participant_id, s.session_id, s.label)))
      for s in scans
    ],
    modalities=record_set.index["modalities"],
    title=f"{len(scans)} of {len(record_set)} scans in {out.name}",
  )
  path = out / "contact_sheet.png"
  figures.save_png(sheet, path)
  return path


def _complain(lines: Iterable[str]) -> None:
  """Prints the first lines on stderr; all of them are in a table."""
  lines = list(lines)
  for line in lines[:_MOST_LINES]:
    print(line, file=sys.stderr)
  if len(lines) > _MOST_LINES:
    print(f"... and {len(lines) - _MOST_LINES} more", file=sys.stderr)


def _train(args) -> int:
  from brainjax.evaluation import evaluate
  from brainjax.training import processes, train

  config = _config(args)
  if args.distributed:
    processes.join(args.distributed)
  speaks = processes.is_first()
  try:
    train.train(config, args.workdir, console=_console(quiet=not speaks))
  except train.Stopped as stopped:
    return _stopped(stopped) if speaks else EXIT_STOPPED
  if speaks:
    _evaluate_split(args.workdir, "validation")
  else:
    evaluate.evaluate(args.workdir, "validation")
  processes.wait_for_all("report written")
  return 0


def _stopped(stopped: Exception) -> int:
  _say(f"{stopped}; the same command continues")
  return EXIT_STOPPED


def _encode(args) -> None:
  from brainjax.training import encode

  began = time.perf_counter()
  summary = encode.encode(
    args.workdir, args.out, progress=_progress("encoding")
  )
  seconds = time.perf_counter() - began
  _say(
    f"{args.out}: {summary.num_scans} scans, {summary.num_slices} slices,"
    f" {summary.num_features} features each; "
    + (f"{seconds:.0f} s" if summary.new else "nothing to do")
  )


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


def _predict(args) -> None:
  images = {
    modality: file
    for modality in MODALITIES
    if (file := getattr(args, modality))
  }
  if [bool(args.scans), bool(images), bool(args.manifest)].count(True) != 1:
    raise InputError(
      "give one of SCAN..., an option for each modality (--t1c=FILE"
      " --flair=FILE), or --manifest=CSV"
    )
  import rich.table
  import rich.text

  from brainjax import predict
  from brainjax.cohort import manifest

  if args.manifest:
    scans = manifest.read_manifest(args.manifest)
  else:
    scans = predict.manifest_of_scans(args.workdir, args.scans, images)
  summary = predict.predict(
    args.workdir, scans, args.out, progress=_progress("predicting")
  )
  _complain(
    f"rejected: {row['file']}: {row['reason']}" for row in summary.rejected
  )
  _complain(f"warning: {scan}: {text}" for scan, text in summary.warnings)
  table = rich.table.Table("scan", "answer", "probability", "warnings")
  for row in summary.predictions[:_MOST_LINES]:
    probability = float(row[f"proba_{row['predicted_label']}"])
    count = len([scan for scan, _ in summary.warnings if scan == row["scan"]])
    name = rich.text.Text(row["scan"], overflow="fold")  # no markup
    answer = rich.text.Text(row["predicted_label"])
    table.add_row(name, answer, f"{probability:.3f}", str(count or ""))
  _console().print(table)
  _say(
    f"{len(summary.predictions)} scans predicted; tables and pictures:"
    f" {args.out}\n{predict.NOTICE}"
  )


def _demo(args) -> int:
  from brainjax import demo
  from brainjax.training import train

  try:
    demo.run(args.out, console=_console(), progress=_progress)
  except train.Stopped as stopped:
    return _stopped(stopped)
  return 0


def _info(args) -> None:
  from brainjax.training import workdir

  for name, value in workdir.environment().items():
    _say(f"{name}: {value}")
  _say(f"XLA_FLAGS: {os.environ.get('XLA_FLAGS', '')}")
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  _say(f"compiled code is kept in: {cache or 'nowhere'}")


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
    metavar="LAYOUT",
    choices=("bids", "figshare", "folders", "manifest", "phantom"),
    help="how the files lie under ROOT: %(choices)s; ROOT of manifest is a CSV"
    " file, written again where --out says; phantom draws scans in ROOT",
  )
  cohort.add_argument("root", type=pathlib.Path, metavar="ROOT")
  cohort.add_argument(
    "--out", type=pathlib.Path, required=True, help="manifest to write (CSV)"
  )
  cohort.add_argument(
    "--label-column",
    metavar="NAME",
    help="bids: column of participants.tsv with the label (default: no labels)",
  )
  cohort.add_argument(
    "--unit",
    choices=("patient", "run", "slice"),
    help="figshare: what a scan is (default: patient)",
  )
  cohort.add_argument("--modality", help="folders: image column (default: t1)")
  cohort.add_argument(
    "--participants", type=int, help="phantom: how many (default: 200)"
  )
  cohort.add_argument("--seed", type=int, help="phantom: which (default: 0)")

  prepare = _verb(verbs, "prepare", _prepare, "turn scans into records")
  prepare.add_argument("manifest", type=pathlib.Path, metavar="MANIFEST")
  prepare.add_argument(
    "--out", type=pathlib.Path, required=True, help="folder of records"
  )
  prepare.add_argument(
    "--workers",
    type=int,
    default=len(os.sched_getaffinity(0)),
    help="processes (default: one a core, %(default)s)",
  )
  _add_config(prepare, required=False)

  train = _verb(verbs, "train", _train, "train a model, or continue a run")
  train.add_argument(
    "--workdir", type=pathlib.Path, required=True, help="folder of the run"
  )
  train.add_argument(
    "--distributed",
    nargs="?",
    const="auto",
    metavar="HOST:PORT,N,I",
    help="one of N processes, this one number I from 0; without a value, under"
    " SLURM, Open MPI, Kubernetes or on a TPU VM, jax finds the others",
  )
  _add_config(train, required=True)

  encode = _verb(
    verbs, "encode", _encode, "features of every scan, to train heads on"
  )
  encode.add_argument(
    "--workdir", type=pathlib.Path, required=True, help="of the encoder's run"
  )
  encode.add_argument(
    "--out",
    type=pathlib.Path,
    required=True,
    metavar="FEATURES",
    help="folder; a head takes it as --config.data.records=FEATURES",
  )

  evaluate = _verb(verbs, "evaluate", _evaluate, "score a split of a run")
  evaluate.add_argument("--workdir", type=pathlib.Path, required=True)
  evaluate.add_argument(
    "--split",
    choices=("train", "validation", "test"),
    default="test",
    help="default: %(default)s",
  )

  predict = _verb(verbs, "predict", _predict, "ask a run about new scans")
  predict.add_argument(
    "scans",
    type=pathlib.Path,
    nargs="*",
    metavar="SCAN",
    help="files, each a scan, for a model of one modality",
  )
  predict.add_argument(
    "--workdir",
    type=pathlib.Path,
    required=True,
    action="append",
    help="of a run; given again, the runs answer together",
  )
  for modality in MODALITIES:
    predict.add_argument(
      f"--{modality}",
      type=pathlib.Path,
      metavar="FILE",
      help=f"{modality} image of one scan",
    )
  predict.add_argument(
    "--manifest", type=pathlib.Path, metavar="CSV", help="many scans"
  )
  predict.add_argument(
    "--out", type=pathlib.Path, required=True, help="folder of the answers"
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


def _console(*, quiet: bool = False):
  import rich.console

  return rich.console.Console(soft_wrap=True, quiet=quiet)


def _say(text: str) -> None:
  _console().print(text, highlight=False, markup=False)


def _progress(text: str):
  """Returns a wrapper that shows how far a loop is, on a terminal only."""
  import rich.progress

  console = _console()
  return lambda items, total=None: rich.progress.track(
    items, text, total, console=console, disable=not console.is_terminal
  )


def _print_counts(counts) -> None:
  import rich.table
  import rich.text

  table = rich.table.Table()
  for title in ("", "", "scans", "participants", "groups"):
    table.add_column(title, justify="right" if title else "left")
  previous = ""
  for what, value, *numbers in counts:
    if what != previous:
      table.add_section()
    table.add_row(
      "" if what == previous else what,
      rich.text.Text(value, overflow="fold"),  # a name is no markup
      *map(str, numbers),
    )
    previous = what
  _console().print(table)


def _print_scores(split: str, scores) -> None:
  import rich.table

  from brainjax.evaluation import verdict

  table = rich.table.Table(title=f"{split}, {scores['n']} participants")
  table.add_column("metric")
  table.add_column("value [95 % interval]")
  for name, score in scores.items():
    if isinstance(score, dict) and "value" in score:
      table.add_row(name, verdict.score_text(score))
  for name, score in scores.get("reconstruction", {}).items():
    if name.startswith("psnr"):
      table.add_row(f"{name}, dB", verdict.score_text(score))
  for kind, what in (
    ("probes", "shortcut probe"),
    ("feature_probes", "linear probe"),
  ):
    for name, score in scores.get(kind, {}).items():
      text = verdict.score_text(score["roc_auc"])
      table.add_row(f"{what}: {name}, roc_auc", text)
  _console().print(table)


if __name__ == "__main__":
  sys.exit(main())
