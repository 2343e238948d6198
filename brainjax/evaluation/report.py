"""The report: a run on one HTML page, from the files of its workdir alone.

The page needs no network and no JavaScript; its pictures are inside it and,
as PNG, in `workdir/figures`. It holds no date of its own, so the same files
give the same page.
"""

import base64
import collections
import csv
import dataclasses
import json
import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import ml_collections
import numpy as np
from matplotlib.figure import Figure

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.evaluation import figures, verdict
from brainjax.training import logs

METRICS_VERSION = 1  # that of evaluate.py, whose import would need jax
TRAIN_FILES = (
  "config.json",
  "environment.json",
  "model.json",
  "splits.csv",
  "metrics.jsonl",
)
EVALUATE_FILES = (
  "predictions.csv",
  "predictions_participant.csv",
  "metrics.json",
)
_SPLITS = ("train", "validation", "test")
_MAX_MISTAKES = 6
_MONTAGE_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class _Run:
  """What the workdir of a run holds; rows are those of the CSV files."""

  path: pathlib.Path
  config: dict[str, Any]
  environment: dict[str, Any]
  model: dict[str, Any]
  metrics: dict[str, Any]
  scans: list[dict[str, str]]
  predictions: list[dict[str, str]]
  participants: list[dict[str, str]]

  @property
  def name(self) -> str:
    """Head and encoder, and the folder that tells equal ones apart."""
    model = self.config["model"]
    head, encoder = model["head"]["name"], model["encoder"]["preset"]
    return f"{head} on {encoder} ({self.path.resolve().name})"


def write_report(
  workdirs: Sequence[pathlib.Path], *, out: pathlib.Path | None = None
) -> pathlib.Path:
  """Writes the page of a run, and its figures into `workdir/figures`.

  The test split is reported; the validation split if there is no other.

  Args:
    workdirs: The run the page is about; then others to compare it with.
    out: The page; `report.html` in the first workdir by default.

  Returns:
    Path of the page.

  Raises:
    InputError: A workdir lacks a file or metrics; the command is named.
  """
  run, *others = [_read_run(pathlib.Path(workdir)) for workdir in workdirs]
  split = next((s for s in ("test", "validation") if s in run.metrics), None)
  if split is None:
    raise InputError(
      f"{run.path / 'metrics.json'}: neither test nor validation metrics; run"
      f" `brainjax evaluate --workdir={run.path}`"
    )
  scores, classes = run.metrics[split], run.model["classes"]
  log_lines = logs.read_log(run.path / "metrics.jsonl")
  comparison = _comparison(run, others, split)
  folder = run.path / "figures"
  folder.mkdir(exist_ok=True)
  for stale in folder.glob("mistake_*.png"):
    stale.unlink()

  def picture(figure: Figure, name: str) -> dict[str, str]:
    figures.save_png(figure, folder / name)
    data = base64.b64encode((folder / name).read_bytes()).decode()
    return {"name": name, "data": data}

  out = out or run.path / "report.html"
  source = pathlib.Path(__file__).with_name("report.html.jinja")
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["score"] = verdict.score_text
  page = environment.from_string(source.read_text()).render(
    run=run,
    split=split,
    scores=scores,
    metric_names=verdict.METRICS,
    headline=verdict.headline(scores, classes, split),
    checks=verdict.checks(scores, classes, run.scans),
    comparison=comparison,
    cohort=_cohort(run.scans),
    speed=_speed(log_lines),
    learning=picture(figures.learning_curves(log_lines), "learning_curves.png"),
    roc=picture(_roc_figure(comparison, split), "roc_curves.png"),
    confusion=picture(
      figures.confusion_matrix(scores["confusion_matrix"], classes),
      "confusion_matrix.png",
    ),
    mistakes=_mistakes(run, split, picture),
    fields=config_lib.leaf_fields(ml_collections.ConfigDict(run.config)),
    files=TRAIN_FILES + EVALUATE_FILES,
    base=urllib.parse.quote(os.path.relpath(run.path, out.parent)),
  )
  out.parent.mkdir(parents=True, exist_ok=True)
  with records.replacing(out) as partial:
    partial.write_text(page, encoding="utf-8")
  return out


def _read_run(path: pathlib.Path) -> _Run:
  for name in TRAIN_FILES + EVALUATE_FILES:
    if not (path / name).is_file():
      command = f"brainjax evaluate --workdir={path}"
      if name in TRAIN_FILES:
        command = f"brainjax train --config=FILE --workdir={path}"
      raise InputError(f"{path / name}: missing; run `{command}` first")

  def read_json(name):
    return json.loads((path / name).read_text())

  def read_csv(name):
    with open(path / name, newline="") as file:
      return list(csv.DictReader(file))

  metrics = read_json("metrics.json")
  if metrics["schema_version"] != METRICS_VERSION:
    raise InputError(
      f"{path / 'metrics.json'}: schema version {metrics['schema_version']},"
      f" this brainjax reads {METRICS_VERSION}; run `brainjax evaluate"
      f" --workdir={path}` again"
    )
  return _Run(
    path=path,
    config=read_json("config.json"),
    environment=read_json("environment.json"),
    model=read_json("model.json"),
    metrics=metrics,
    scans=read_csv("splits.csv"),
    predictions=read_csv("predictions.csv"),
    participants=read_csv("predictions_participant.csv"),
  )


def _comparison(
  run: _Run, others: Sequence[_Run], split: str
) -> list[dict[str, Any]]:
  """Rows of the table: the models, the probes, and always one answer."""
  scores, classes = run.metrics[split], run.model["classes"]
  rows = []
  for number, other in enumerate((run, *others), start=1):
    name, note = other.name, ""
    if name in {row["name"] for row in rows}:
      name = f"{name}, run {number}"
    if split not in other.metrics:
      note = f"no {split} metrics"
    elif other.model["splits_sha256"] != run.model["splits_sha256"]:
      note = "other splits: not comparable"
    elif other.model["classes"] != classes:
      note = "other classes: not comparable"
    rows.append(
      {
        "name": name,
        "run": other,
        "note": note,
        "scores": other.metrics.get(split, {}),
      }
    )
  for name, probe in scores.get("probes", {}).items():
    name = f"{verdict.PROBES.get(name, name)} alone"
    rows.append({"name": name, "run": None, "note": "", "scores": probe})
  largest, levels = verdict.baseline(scores, classes)
  constant: dict[str, Any] = {
    k: {**verdict.UNDEFINED, "value": v} for k, v in levels.items()
  }
  constant |= {"n": scores["n"]}
  name = f"always {largest}"
  rows.append({"name": name, "run": None, "note": "", "scores": constant})
  return rows


def _cohort(scans: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
  """Numbers of groups, participants and scans by class, source and split."""
  units = ("group_id", "participant_id", "record_index")
  keys = sorted({(scan["class"], scan["source"]) for scan in scans})
  rows = []
  for key in (*keys, None):
    name, source = key or ("all", "")
    row: dict[str, Any] = {"class": name, "source": source}
    for split in _SPLITS:
      members = [
        scan
        for scan in scans
        if scan["split"] == split
        and key in (None, (scan["class"], scan["source"]))
      ]
      row[split] = [len({scan[unit] for scan in members}) for unit in units]
    rows.append(row)
  return rows


def _roc_figure(comparison: Sequence[Mapping[str, Any]], split: str) -> Figure:
  """Draws the runs that are comparable; one only if there are more classes."""
  runs = [row for row in comparison if row["run"] and not row["note"]]
  model, metric = runs[0]["run"].model, "AUC"
  classes = model["classes"]
  if len(classes) > 2:
    runs, metric = runs[:1], "macro AUC"
  curves = {}
  for row in runs:
    people = [p for p in row["run"].participants if p["split"] == split]
    name = f"{row['name']}\n{metric} "
    curves[name + verdict.score_text(row["scores"]["roc_auc"])] = (
      np.array([[float(p[f"proba_{k}"]) for k in classes] for p in people]),
      np.array([classes.index(p["true_label"]) for p in people]),
    )
  return figures.roc_curves(curves, classes, model["positive"])


def _mistakes(run: _Run, split: str, picture) -> dict[str, Any]:
  """The wrong scans that give their true class the least probability."""
  rows = [row for row in run.predictions if row["split"] == split]
  wrong = [row for row in rows if row["predicted_label"] != row["true_label"]]
  wrong.sort(key=lambda row: float(row[f"proba_{row['true_label']}"]))
  record_set, problem = None, ""
  try:
    record_set = records.RecordSet(run.config["data"]["records"])
    if record_set.sha256 != run.model["records_sha256"]:
      problem = f"{record_set.path}: not the records of this run (sha256)"
  except InputError as error:
    problem = str(error)
  record_index = {
    (scan["participant_id"], scan["session_id"]): int(scan["record_index"])
    for scan in run.scans
  }
  worst = []
  for i, row in enumerate(wrong[:_MAX_MISTAKES]):
    person, session = row["participant_id"], row["session_id"]
    mistake = {
      "name": f"{person} {session}".strip(),
      "true": row["true_label"],
      "predicted": row["predicted_label"],
      "probability": float(row[f"proba_{row['true_label']}"]),
    }
    if record_set is not None and not problem:
      title = "{name}: {true}, taken for {predicted}".format(**mistake)
      figure = figures.slice_montage(
        record_set[record_index[person, session]],
        title=title,
        columns=_MONTAGE_COLUMNS,
      )
      mistake["picture"] = picture(figure, f"mistake_{i + 1}.png")
    worst.append(mistake)
  return {
    "worst": worst,
    "num_wrong": len(wrong),
    "num_scans": len(rows),
    "problem": problem,
  }


def _speed(log_lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Medians of what the log says of throughput, by name."""
  values = collections.defaultdict(list)
  for line in log_lines:
    for key, value in line.items():
      if key.startswith("perf/"):
        values[key.removeprefix("perf/")].append(value)
  return {name: float(np.median(seen)) for name, seen in values.items()}
