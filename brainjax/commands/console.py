"""What every verb prints with: lines, tables, progress."""

import sys
from collections.abc import Iterable

from brainjax.commands.parsing import EXIT_STOPPED

MOST_LINES = 20  # of one kind of complaint on stderr


def make_console(*, quiet: bool = False):
  """Returns a console that leaves the breaking of lines to the terminal."""
  import rich.console

  return rich.console.Console(soft_wrap=True, quiet=quiet)


def say(text: str) -> None:
  """Prints a line as it is."""
  make_console().print(text, highlight=False, markup=False)


def progress(text: str):
  """Returns a wrapper that shows how far a loop is, on a terminal only."""
  import rich.progress

  console = make_console()
  return lambda items, total=None: rich.progress.track(
    items, text, total, console=console, disable=not console.is_terminal
  )


def complain(lines: Iterable[str]) -> None:
  """Prints the first lines on stderr; all of them are in a table."""
  lines = list(lines)
  for line in lines[:MOST_LINES]:
    print(line, file=sys.stderr)
  if len(lines) > MOST_LINES:
    print(f"... and {len(lines) - MOST_LINES} more", file=sys.stderr)


def print_counts(counts) -> None:
  """Prints the rows of `cohort.summary.summarise` as a table."""
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
  make_console().print(table)


def print_scores(split: str, scores) -> None:
  """Prints one split of metrics.json as a table."""
  import rich.table

  from brainjax.evaluation import verdict

  table = rich.table.Table(title=f"{split}, {scores['n']} participants")
  table.add_column("metric")
  table.add_column("value [95 % interval]")
  for name, score in scores.items():
    if isinstance(score, dict) and "value" in score:
      table.add_row(name, verdict.score_text(score))
  scans = scores.get("scans")
  if scans:
    text = verdict.score_text(scans["accuracy"])
    table.add_row(f"accuracy of each of {scans['n']} scans", text)
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
  make_console().print(table)


def print_aucs(title: str, scores) -> None:
  """Prints the AUC of several models as a table."""
  import rich.table

  from brainjax.evaluation import verdict

  table = rich.table.Table(title=title)
  table.add_column("model")
  table.add_column("roc_auc [95 % interval]")
  for name, score in scores.items():
    table.add_row(name, verdict.score_text(score["roc_auc"]))
  make_console().print(table)


def stopped(reason: Exception) -> int:
  """Says why a command stopped; returns its exit status."""
  say(f"{reason}; the same command continues")
  return EXIT_STOPPED
