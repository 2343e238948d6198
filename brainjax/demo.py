"""The demo: a synthetic cohort, from drawn scans to a report, on a CPU.

It goes the way of a real study: cohort, preparation, audit, training of two
heads, one look at the test split. Its seed was fixed before the test split was
ever scored, and nothing was tuned on it.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
import rich.console
import rich.table

from brainjax import config as config_lib
from brainjax.audit import audit
from brainjax.cohort import manifest, phantom
from brainjax.evaluation import evaluate, report, verdict
from brainjax.preparation import prepare
from brainjax.training import train

HEADS = ("lstm", "mean")
PARTICIPANTS = 240
SEED = 1


def get_config(head: str) -> ml_collections.ConfigDict:
  """Returns the demo's config: small slices, a small encoder, few epochs."""
  config = config_lib.get_config(f"head={head}")
  config.preparation.bias_field.method = "none"  # for its time
  config.preparation.height = 64
  config.preparation.width = 64
  config.preparation.num_slices = 16
  config.model.encoder.preset = "micro"
  if head == "lstm":
    config.model.head.hidden_size = 64
  config.optimizer.learning_rate = 3e-3
  config.data.scans_per_step = 8
  config.train.epochs = 24
  return config


def run(
  out: pathlib.Path,
  *,
  console: rich.console.Console,
  progress: Callable[[str], Any],
) -> pathlib.Path:
  """Runs the demo; started again, it continues.

  Args:
    out: Folder of everything it makes.
    console: Where it reports.
    progress: Gives a wrapper of a loop, from a text.

  Returns:
    Path of the report.
  """
  _step(console, 1, f"a synthetic cohort of {PARTICIPANTS} participants")
  rows, columns = phantom.write_phantom_cohort(
    out / "cohort",
    participants=PARTICIPANTS,
    seed=SEED,
    progress=progress("drawing"),
  )
  path = out / "cohort" / "manifest.csv"
  manifest.write_manifest(path, rows, columns)

  _step(console, 2, "scans into records, and what could deceive in them")
  summary = prepare.prepare(
    path,
    out / "records",
    get_config(HEADS[0]).preparation,
    num_workers=len(os.sched_getaffinity(0)),
    progress=progress("preparing"),
  )
  console.print(summary.text, highlight=False)
  audited = audit.audit(out / "records", progress=progress)
  said = audit.verdict(audited.findings)["verdict"]
  console.print(f"{said} {audited.page}", highlight=False)

  workdirs = []
  for number, head in enumerate(HEADS, start=3):
    _step(console, number, f"a DenseNet and the head {head!r}")
    config = get_config(head)
    config.data.records = str(out / "records")
    workdirs.append(out / head)
    train.train(config, workdirs[-1], console=console)

  _step(console, 5, "the test split, scored once")
  scores = {workdir.name: evaluate.evaluate(workdir) for workdir in workdirs}
  console.print(_table(scores))
  page = report.write_report(workdirs)
  console.print(f"report: {page}", highlight=False)
  return page


def _step(console: rich.console.Console, number: int, text: str) -> None:
  console.print(f"\n[bold]{number}. {text}[/bold]", highlight=False)


def _table(scores: dict[str, dict[str, Any]]) -> rich.table.Table:
  first = next(iter(scores.values()))
  table = rich.table.Table(
    title=f"normal against tumour, {first['n']} test participants"
  )
  table.add_column("what")
  table.add_column("ROC AUC [95 % interval]")
  table.add_column("balanced accuracy")
  rows = {f"DenseNet + {head}": score for head, score in scores.items()}
  for name, probe in first["probes"].items():
    rows[f"shortcut probe: {name}"] = probe
  for name, score in rows.items():
    table.add_row(
      name,
      verdict.score_text(score["roc_auc"]),
      verdict.score_text(score["balanced_accuracy"]),
    )
  return table
