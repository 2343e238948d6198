"""`brainjax ablate`."""

import pathlib

from brainjax import InputError
from brainjax.commands import console, parsing


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(
    verbs, "ablate", run, "compare heads over folds and seeds, with controls"
  )
  parser.add_argument(
    "--workdir", type=pathlib.Path, required=True, help="of the ablation"
  )
  parser.add_argument(
    "--heads",
    required=True,
    metavar="NAME,NAME,...",
    help="to compare, e.g. lstm,gru,densenet1d; `mean` is always there",
  )
  parser.add_argument(
    "--folds",
    default="5",
    metavar="N|source",
    help="of a cross-validation by group (default 5), or each source in turn",
  )
  parser.add_argument(
    "--seeds", type=int, default=3, help="trainings of each fold (default 3)"
  )
  parser.add_argument(
    "--end-to-end",
    action="store_true",
    help="a whole run for each head, fold and seed, in place of heads on"
    " features; takes --executor and --jobs",
  )
  parsing.add_executor(parser)
  parsing.add_config(parser, required=True)


def run(args) -> int:
  """Runs the verb."""
  from brainjax.evaluation import ablation
  from brainjax.training import executor, train

  place = parsing.place_of(args, args.workdir / "slurm")
  if not args.end_to_end and place != executor.Local():
    raise InputError("--executor, --jobs, --slurm: of --end-to-end; add it")
  try:
    found = ablation.ablate(
      parsing.config_of(args),
      args.workdir,
      heads=args.heads.split(","),
      folds=args.folds,
      seeds=args.seeds,
      console=console.make_console(),
      end_to_end=place if args.end_to_end else None,
    )
  except (train.Stopped, executor.Stopped) as stopped:
    return console.stopped(stopped)
  _print(found)
  console.say(f"{args.workdir / 'ablation.html'}: the page")
  return 0


def _print(found) -> None:
  """Prints the heads, the best first, and what was declared."""
  import rich.table

  from brainjax.evaluation import ablation_page, verdict

  metric = found["metric"]
  of_name = {row["head"]: row for row in found["heads"]}
  table = rich.table.Table(
    title=f"{verdict.METRICS[metric]}, {found['participants']} participants"
  )
  reference = f"against {found['reference']}"
  for title in ("head", "value [95 % interval]", reference, "p", "s a run"):
    table.add_column(title)
  for name in found["order"]:
    row, against = of_name[name], found["against_reference"].get(name)
    p = against and against.get("holm_p", against["p"])
    table.add_row(
      name,
      verdict.score_text(row["scores"][metric]),
      verdict.difference_text(against) if against else "",
      verdict.p_text(p) if against else "",
      f"{row['seconds'] / row['runs']:.2f}",
    )
  console.make_console().print(table)
  console.say(ablation_page.headline(found))
