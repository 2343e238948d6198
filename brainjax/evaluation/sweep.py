"""A sweep: one run a point, compared on the validation split alone.

The test split is never scored, so that the best run can be, once.
"""

import contextlib
import dataclasses
import json
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.evaluation import verdict
from brainjax.training import executor, logs, search
from brainjax.training.jobs import STOPPED, End, Job

_LOWER_IS_BETTER = ("brier", "ece")


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What is tried, and where.

  Attributes:
    spec: `FILE[:arg]` of the sweep.
    workdir: Its folder; a run's is `runs/NAME` in it.
    overrides: `section.field=value` of every run.
    criterion: Metric of the validation split that chooses.
    points: By the names of their runs.
  """

  spec: str
  workdir: pathlib.Path
  overrides: tuple[str, ...]
  criterion: str
  points: dict[str, search.Point]

  @property
  def fields(self) -> list[str]:
    """Dotted names of the fields that vary."""
    return list(next(iter(self.points.values())))

  def folder(self, name: str) -> pathlib.Path:
    """Returns the workdir of a run."""
    return self.workdir / "runs" / name

  def job(self, name: str) -> Job:
    """Returns what trains a run and scores its validation split."""
    folder = self.folder(name)
    overrides = [*self.overrides, *search.overrides(self.points[name])]
    arguments = ["train", f"--config={self.spec}", f"--workdir={folder}"]
    arguments += [f"--config.{override}" for override in overrides]
    config = config_lib.load_config(self.spec, overrides)
    prepared = config.data.records  # if unset, `train` says so
    sha256 = records.RecordSet(prepared).sha256 if prepared else ""
    inputs = records.sha256_of_json([config.to_dict(), sha256])
    return Job(name, tuple(arguments), folder, inputs)


def read_sweep(
  spec: str, workdir: pathlib.Path, overrides: Sequence[str] = ()
) -> Sweep:
  """Reads a file that defines `get_config(arg)` and `get_search()`.

  Args:
    spec: `FILE[:arg]`.
    workdir: Folder of the sweep.
    overrides: `section.field=value` of every run.

  Raises:
    InputError: The file, the search or a value is wrong.
  """
  module, _ = config_lib.load_module(spec)
  if not hasattr(module, "get_search"):
    raise InputError(
      f"{spec}: it does not define get_search(), which says what is varied;"
      " see configs/sweeps/lstm.py"
    )
  found = module.get_search()
  if found.criterion not in verdict.METRICS:
    raise InputError(
      f"{spec}: criterion={found.criterion}: choose one of"
      f" {', '.join(verdict.METRICS)}"
    )
  search.check(found, config_lib.load_config(spec, overrides))
  for override in overrides:
    field = override.partition("=")[0]
    if field in found.fields:
      raise InputError(f"--config.{field}: {spec} varies it; leave it out")
  points = search.name_points(found.points())
  return Sweep(spec, workdir, tuple(overrides), found.criterion, points)


def run(
  sweep: Sweep,
  place: executor.Place,
  *,
  tell: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
  """Trains every run that is not done yet, and writes what came of them.

  Args:
    sweep: What to try.
    place: Where.
    tell: Given each row of the table as it is complete.

  Returns:
    The rows of `sweep.csv`, a run each, in the order of the points.

  Raises:
    InputError: No run ended well.
    Stopped: A signal came; `sweep.csv` has what is done.
  """
  rows = {name: _row(sweep, name, None) for name in sweep.points}
  jobs = [sweep.job(name) for name in sweep.points]
  with contextlib.closing(executor.run(jobs, place)) as ends:
    for end in ends:
      name = end.job.name
      rows[name] = _row(sweep, name, end)
      _write_table(sweep, list(rows.values()))
      tell(rows[name])
  _write_best(sweep, list(rows.values()))
  return list(rows.values())


def best_row(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Returns the row of the best value; of equal ones the first.

  Raises:
    InputError: No run ended well, with a value that is defined.
  """
  sign = -1 if sweep.criterion in _LOWER_IS_BETTER else 1
  done = [row for row in rows if row["value"] is not None]
  if not done:
    reasons = [row["reason"] for row in rows if row["reason"]]
    raise InputError(
      f"{sweep.workdir}: no run has a validation {sweep.criterion}"
      + (f"; the first says: {reasons[0]}" if reasons else "")
    )
  return max(done, key=lambda row: sign * row["value"])


def not_told_apart(
  best: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> list[str]:
  """Returns the names of the other runs whose value is in the best's interval.

  They are of the same participants, so that is a rule of thumb and no test; a
  best of many is also partly luck, and its value too good for that.
  """
  if best["low"] is None or best["high"] is None:
    return []
  return [
    row["run"]
    for row in rows
    if row["run"] != best["run"]
    and row["value"] is not None
    and best["low"] <= row["value"] <= best["high"]
  ]


def _row(sweep: Sweep, name: str, end: End | None) -> dict[str, Any]:
  row = {"run": name, **sweep.points[name], "status": "not done"}
  row |= dict.fromkeys(
    ("metric", "value", "low", "high", "epochs", "parameters", "seconds")
  )
  row |= {"metric": sweep.criterion, "reason": ""}
  if end is None:
    return row
  status = {0: "done", STOPPED: "stopped"}.get(end.code, "failed")
  row |= {"status": status, "seconds": end.seconds, "reason": end.reason}
  folder = sweep.folder(name)
  if end.code != 0:
    return row
  scores = json.loads((folder / "metrics.json").read_text())["validation"]
  if sweep.criterion not in scores:
    reason = f"it has no validation {sweep.criterion}"
    return row | {"status": "failed", "reason": reason}
  row |= scores[sweep.criterion]
  row["epochs"] = logs.read_log(folder / "metrics.jsonl")[-1]["epoch"]
  model = json.loads((folder / "model.json").read_text())
  row["parameters"] = model["num_parameters"]
  return row


def _write_table(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> None:
  shown = [
    {key: "" if value is None else value for key, value in row.items()}
    for row in rows
  ]
  records.write_csv(sweep.workdir / "sweep.csv", list(shown[0]), shown)


def _write_best(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> None:
  """Writes `best.json`: the run, its config, and the commands it takes."""
  best = best_row(sweep, rows)
  name = best["run"]
  folder = sweep.folder(name)
  content = {
    **{key: best[key] for key in ("run", "metric", "value", "low", "high")},
    "split": "validation",
    "runs": len([row for row in rows if row["value"] is not None]),
    "not_told_apart": not_told_apart(best, rows),
    "fields": sweep.points[name],
    "commands": {
      "train": shlex.join(["brainjax", *sweep.job(name).arguments]),
      "evaluate": shlex.join(["brainjax", "evaluate", f"--workdir={folder}"]),
    },
    "config": json.loads((folder / "config.json").read_text()),
  }
  text = json.dumps(content, indent=2) + "\n"
  records.write_text(sweep.workdir / "best.json", text)
