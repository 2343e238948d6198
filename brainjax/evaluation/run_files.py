"""What a finished run left behind: the files of its workdir, read for a page.

Nothing here needs jax, so a report is written wherever the files are.
"""

import csv
import dataclasses
import json
import pathlib
from typing import Any

from brainjax import InputError
from brainjax.records import RecordSet
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
RECORD_FILES = ("index.json", "manifest.csv", "rejected.csv", "warnings.csv")


@dataclasses.dataclass(frozen=True)
class Run:
  """A run; its rows are those of the CSV files, its log the lines."""

  path: pathlib.Path
  config: dict[str, Any]
  environment: dict[str, Any]
  model: dict[str, Any]
  metrics: dict[str, Any]
  log: list[dict[str, Any]]
  scans: list[dict[str, str]]
  predictions: list[dict[str, str]]
  participants: list[dict[str, str]]

  @property
  def name(self) -> str:
    """Head and encoder, and the folder that tells equal ones apart."""
    model = self.config["model"]
    head, encoder = model["head"]["name"], model["encoder"]["preset"]
    return f"{head} on {encoder} ({self.path.resolve().name})"

  @property
  def files(self) -> list[pathlib.Path]:
    """All that `read_run` has read."""
    return [self.path / name for name in TRAIN_FILES + EVALUATE_FILES]


def read_run(path: pathlib.Path) -> Run:
  """Reads a run that was trained and evaluated.

  Raises:
    InputError: The workdir lacks a file, or one is of another version; the
      command to run is named.
  """
  for name in TRAIN_FILES + EVALUATE_FILES:
    if not (path / name).is_file():
      command = f"brainjax evaluate --workdir={path}"
      if name in TRAIN_FILES:
        command = f"brainjax train --config=FILE --workdir={path}"
      raise InputError(f"{path / name}: missing; run `{command}` first")

  def read_json(name):
    return json.loads((path / name).read_text())

  metrics = read_json("metrics.json")
  if metrics["schema_version"] != METRICS_VERSION:
    raise InputError(
      f"{path / 'metrics.json'}: schema version {metrics['schema_version']},"
      f" this brainjax reads {METRICS_VERSION}; run `brainjax evaluate"
      f" --workdir={path}` again"
    )
  return Run(
    path=path,
    config=read_json("config.json"),
    environment=read_json("environment.json"),
    model=read_json("model.json"),
    metrics=metrics,
    log=logs.read_log(path / "metrics.jsonl"),
    scans=read_csv(path / "splits.csv"),
    predictions=read_csv(path / "predictions.csv"),
    participants=read_csv(path / "predictions_participant.csv"),
  )


def open_records(run: Run) -> tuple[RecordSet | None, str]:
  """Opens the records that the run was trained on.

  Returns:
    The records, or None and what is wrong with them: a page can be written
    without.
  """
  try:
    record_set = RecordSet(run.config["data"]["records"])
  except (InputError, OSError) as error:
    return None, str(error)
  if record_set.sha256 != run.model["records_sha256"]:
    return None, f"{record_set.path}: not the records of this run (sha256)"
  for shard in record_set.index["shards"]:
    if not (record_set.path / shard["file"]).is_file():
      return None, f"{record_set.path / shard['file']}: missing"
  return record_set, ""


def record_files(record_set: RecordSet) -> list[pathlib.Path]:
  """Returns the tables beside the records, those that are there."""
  files = [record_set.path / name for name in RECORD_FILES]
  return [file for file in files if file.is_file()]


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
  """Reads the rows of a CSV file."""
  with open(path, newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))
