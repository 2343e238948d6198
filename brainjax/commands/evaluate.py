"""`brainjax evaluate`."""

import pathlib

from brainjax import InputError
from brainjax.commands import console, parsing


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(verbs, "evaluate", run, "score a split of a run")
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument(
    "--split",
    choices=("train", "validation", "test"),
    default="test",
    help="default: %(default)s",
  )
  parser.add_argument(
    "--records",
    type=pathlib.Path,
    metavar="OTHER",
    help="records of another cohort, to score instead of a split",
  )
  parser.add_argument(
    "--baselines",
    action="store_true",
    help="also fit and score random forest, SVM, k-NN and others on the split",
  )


def run(args) -> None:
  """Runs the verb."""
  if args.records and args.baselines:
    raise InputError("--baselines: of a split; leave out --records")
  if args.records:
    evaluate_external(args.workdir, args.records)
  else:
    evaluate_split(args.workdir, args.split, baselines=args.baselines)


def evaluate_external(workdir: pathlib.Path, folder: pathlib.Path) -> None:
  """Scores another cohort, prints the scores and writes the page."""
  from brainjax.evaluation import external, report

  name, scores = external.evaluate_external(workdir, folder)
  console.print_scores(name, scores)
  console.say(f"report: {report.write_report([workdir])}")


def evaluate_split(
  workdir: pathlib.Path, split: str, *, baselines: bool = False
) -> None:
  """Scores a split of a run, prints the scores and writes the page."""
  from brainjax.evaluation import evaluate, report, test_lock

  scores = evaluate.evaluate(workdir, split)
  console.print_scores(split, scores)
  looks = test_lock.read_looks(workdir)
  if split == "test" and len(looks) > 1:
    console.complain([f"warning: {test_lock.summary(looks)}"])
  if baselines:
    from brainjax.evaluation import comparators

    found = comparators.score_baselines(
      workdir, split, progress=console.progress("describing")
    )
    console.print_aucs(f"comparators, {split}", found)
  console.say(f"report: {report.write_report([workdir])}")
