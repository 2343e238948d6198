"""The numbers of a page: models side by side, the cohort, throughput."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainjax.evaluation import verdict
from brainjax.evaluation.run_files import Run

_SPLITS = ("train", "validation", "test")


def comparison(
  run: Run, others: Sequence[Run], split: str
) -> list[dict[str, Any]]:
  """Holds a run against other runs, the shortcuts and always one answer.

  Args:
    run: The run.
    others: To compare with.
    split: Whose metrics.

  Returns:
    Rows `{"name", "kind", "run", "note", "scores"}`; the kind is "run",
    "compared", "shortcut" or "constant". A row with a note cannot be compared.
  """
  scores, classes = run.metrics[split], run.model["classes"]
  rows = []

  def add(name, kind, scores, *, run=None, note=""):
    row = {"name": name, "kind": kind, "run": run, "note": note}
    rows.append(row | {"scores": scores})

  add(run.name, "run", scores, run=run)
  for number, other in enumerate(others, start=2):
    name, note = other.name, ""
    if name in {row["name"] for row in rows}:
      name = f"{name}, run {number}"
    if not other.classifies:
      note = "reconstructs, and classifies nothing"
    elif split not in other.metrics:
      note = f"no {split} metrics"
    elif other.model["classes"] != classes:
      note = "other classes: not comparable"
    elif _scored(other) != _scored(run):
      note = "other splits: not comparable"
    add(name, "compared", other.metrics.get(split, {}), run=other, note=note)
  for name, probe in scores.get("probes", {}).items():
    add(f"{verdict.PROBES.get(name, name)} alone", "shortcut", probe)
  largest, levels = verdict.baseline(scores, classes)
  constant: dict[str, Any] = {
    k: {**verdict.UNDEFINED, "value": v} for k, v in levels.items()
  }
  add(f"always {largest}", "constant", constant | {"n": scores["n"]})
  return rows


def _scored(run: Run) -> set[tuple[str, ...]]:
  """Returns the scans whose class is known, with class and split."""
  names = ("participant_id", "session_id", "class", "split")
  return {
    tuple(scan[name] for name in names) for scan in run.scans if scan["class"]
  }


def cohort(scans: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
  """Counts groups, participants and scans by class, source and split."""
  units = ("group_id", "participant_id", "record_index")
  keys = sorted({(scan["class"], scan["source"]) for scan in scans})
  rows = []
  for key in (*keys, None):
    name, source = key or ("all", "")
    row: dict[str, Any] = {"class": name or "unknown", "source": source}
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


def speed(log_lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Takes the median of what the log says of throughput, by name."""
  values = collections.defaultdict(list)
  for line in log_lines:
    for key, value in line.items():
      if key.startswith("perf/"):
        values[key.removeprefix("perf/")].append(value)
  return {name: float(np.median(seen)) for name, seen in values.items()}


def training_seconds(log_lines: Sequence[Mapping[str, Any]]) -> float | None:
  """Estimates how long a run trained: its steps at their median time.

  Compilation, validation and saving are not counted, so that heads are held
  against each other by their steps.
  """
  median = speed(log_lines).get("step_seconds_p50")
  steps = max((line["step"] for line in log_lines), default=0)
  return None if median is None else median * steps
