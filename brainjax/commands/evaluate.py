"""`brainjax evaluate`."""

import pathlib

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


def run(args) -> None:
  """Runs the verb."""
  evaluate_split(args.workdir, args.split)


def evaluate_split(workdir: pathlib.Path, split: str) -> None:
  """Scores a split of a run, prints the scores and writes the page."""
  from brainjax.evaluation import evaluate, report, test_lock

  scores = evaluate.evaluate(workdir, split)
  console.print_scores(split, scores)
  looks = test_lock.read_looks(workdir)
  if split == "test" and len(looks) > 1:
    console.complain([f"warning: {test_lock.summary(looks)}"])
  console.say(f"report: {report.write_report([workdir])}")
