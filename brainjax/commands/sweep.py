"""`brainjax sweep`."""

import pathlib

from brainjax.commands import console, parsing


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(
    verbs, "sweep", run, "train a run for each point of a search"
  )
  parser.add_argument(
    "--workdir", type=pathlib.Path, required=True, help="folder of the sweep"
  )
  parsing.add_executor(parser)
  parsing.add_config(parser, required=True)


def run(args) -> int:
  """Runs the verb."""
  import rich.progress

  from brainjax import lock
  from brainjax.evaluation import figures, sweep, sweep_figure
  from brainjax.training import executor

  place = parsing.place_of(args, args.workdir / "slurm")
  asked = sweep.read_sweep(args.config, args.workdir, args.overrides)
  screen = console.make_console()
  with (
    lock.hold(args.workdir, console.say),
    rich.progress.Progress(
      *rich.progress.Progress.get_default_columns(),
      rich.progress.MofNCompleteColumn(),
      console=screen,
      disable=not screen.is_terminal,
    ) as progress,
  ):
    task = progress.add_task("runs", total=len(asked.points))

    def tell(row):
      progress.console.print(_line(row), highlight=False, markup=False)
      progress.advance(task)

    try:
      rows = sweep.run(asked, place, tell=tell)
    except executor.Stopped as stopped:
      return console.stopped(stopped)
    best = sweep.best_row(asked, rows)
    picture = args.workdir / "sweep.png"
    drawn = sweep_figure.sweep_figure(rows, asked.fields, best["run"])
    figures.save_png(drawn, picture)
  console.say(f"best: {_line(best)}")
  others = sweep.not_told_apart(best, rows)
  if others:
    console.say(f"in its interval: {len(others)} other runs")
  console.say(
    f"{args.workdir}: sweep.csv, {picture.name}, best.json; its one look at the"
    f" test split: brainjax evaluate --workdir={asked.folder(best['run'])}"
  )
  unfinished = [row for row in rows if row["status"] == "stopped"]
  return parsing.EXIT_STOPPED if unfinished else 0


def _line(row) -> str:
  from brainjax.evaluation import verdict

  if row["status"] != "done":
    return f"{row['run']}: {row['status']}: {row['reason']}"
  score = verdict.score_text(row)
  return (
    f"{row['run']}: validation {row['metric']} {score},"
    f" {row['epochs']:g} epochs, {row['seconds']:.0f} s"
  )
