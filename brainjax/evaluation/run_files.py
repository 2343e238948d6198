"""What a finished run left behind: the files of its workdir, read for a page.

Nothing here needs jax, so a report is written wherever the files are.
"""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainjax import InputError
from brainjax import config as config_lib
from brainjax.records import RecordSet
from brainjax.training import logs
from brainjax.training import workdir as workdir_lib

METRICS_VERSION = 1  # that of evaluate.py, whose import would need jax
MODEL_VERSION = 3  # that of trained.py, likewise
TRAIN_FILES = (
  "config.json",
  "environment.json",
  "model.json",
  "splits.csv",
  "metrics.jsonl",
)
PREDICTION_FILES = ("predictions.csv", "predictions_participant.csv")
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
    """Head and encoder, and the folder that tells equal ones apart.

    An encoder of volumes leaves a head nothing to do.
    """
    model = self.config["model"]
    head, encoder = model["head"]["name"], model["encoder"]["preset"]
    if not self.classifies:
      head = "decoder"
    if self.features:
      encoder = f"features of {encoder}"
    if self.reads_volumes:
      return f"{encoder} ({self.path.resolve().name})"
    return f"{head} on {encoder} ({self.path.resolve().name})"

  @property
  def features(self) -> dict[str, Any] | None:
    """Whose features the run was trained on; see `records.write_index`."""
    return self.model.get("encoder")

  @property
  def reads_volumes(self) -> bool:
    """Whether scans were encoded as a whole."""
    return config_lib.reads_volumes(self.config["model"]["encoder"]["preset"])

  @property
  def slice_shape(self) -> list[int]:
    """H, W and C of the images, also of those behind features."""
    return (self.features or self.model)["slice_shape"]

  @property
  def shown(self) -> list[int]:
    """Indices of the classes whose curves stand for the run."""
    names = self.model["classes"]
    if len(names) == 2:
      return [names.index(self.model["positive"])]
    return list(range(len(names)))

  @property
  def files(self) -> list[pathlib.Path]:
    """All that `read_run` has read."""
    names = [*TRAIN_FILES, "metrics.json"]
    if self.classifies:
      names += PREDICTION_FILES
    return [self.path / name for name in names]

  @property
  def classifies(self) -> bool:
    """Whether it has classes to predict, or only slices to reconstruct."""
    return self.model["objective"] != "reconstruct"


def read_run(path: pathlib.Path) -> Run:
  """Reads a run that was trained and evaluated.

  Raises:
    InputError: The workdir lacks a file, or one is of another version; the
      command to run is named.
  """
  train = f"brainjax train --config=FILE --workdir={path}"
  evaluate = f"brainjax evaluate --workdir={path}"

  def require(names, command):
    for name in names:
      if not (path / name).is_file():
        raise InputError(f"{path / name}: missing; run `{command}` first")

  def read_json(name):
    return json.loads((path / name).read_text())

  def read_versioned(name, version, command):
    content = read_json(name)
    if content["schema_version"] != version:
      raise InputError(
        f"{path / name}: schema version {content['schema_version']}, this"
        f" brainjax reads {version}; run `{command}` again"
      )
    return content

  require(TRAIN_FILES, train)
  model = read_versioned("model.json", MODEL_VERSION, train)
  classifies = model["objective"] != "reconstruct"
  require(["metrics.json", *(PREDICTION_FILES if classifies else ())], evaluate)
  return Run(
    path=path,
    config=workdir_lib.read_config(path / "config.json").to_dict(),
    environment=read_json("environment.json"),
    model=model,
    metrics=read_versioned("metrics.json", METRICS_VERSION, evaluate),
    log=logs.read_log(path / "metrics.jsonl"),
    scans=read_csv(path / "splits.csv"),
    predictions=read_csv(path / "predictions.csv") if classifies else [],
    participants=read_csv(path / "predictions_participant.csv")
    if classifies
    else [],
  )


def answers(
  rows: Sequence[Mapping[str, str]], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns f64[n,K] probabilities and i64[n] true classes of predictions."""
  probabilities = [[float(row[f"proba_{k}"]) for k in classes] for row in rows]
  targets = [classes.index(row["true_label"]) for row in rows]
  return np.array(probabilities), np.array(targets, np.int64)


def open_records(run: Run) -> tuple[RecordSet | None, str]:
  """Opens the images that the run was trained on, itself or its encoder.

  Returns:
    The records, or None and what is wrong with them: a page can be written
    without.
  """
  try:
    record_set = RecordSet(run.config["data"]["records"])
    if record_set.sha256 != run.model["records_sha256"]:
      return None, f"{record_set.path}: not the records of this run (sha256)"
    record_set = record_set.images()
  except (InputError, OSError) as error:
    return None, str(error)
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
