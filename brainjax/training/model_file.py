"""Writes `model.json`: what a use of the model must know of it."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.training import reference, trained
from brainjax.training.experiment import Experiment


def write_model_file(
  experiment: Experiment,
  num_parameters: int,
  start: Mapping[str, Any] | None = None,
) -> None:
  """Writes `model.json`: what a use of the model must know of it.

  Args:
    experiment: The run's facts.
    num_parameters: Trained numbers of the model.
    start: What it started from: `{"path", "sha256"}` and `GROUP_FIELDS`; None
      if from scratch.
  """
  record_set, config = experiment.record_set, experiment.config
  content: dict[str, Any] = {
    "schema_version": trained.SCHEMA_VERSION,
    "classes": list(experiment.classes),
    "class_labels": config_lib.parse_classes(config.task.classes),
    "positive": config.task.positive,
    "negative": config.task.negative,
    "model": config.model.to_dict(),
    "modalities": record_set.index["modalities"],
    "preparation": record_set.index["preparation"],
    "intensity": experiment.intensity,
    "slice_shape": list(record_set.slice_shape),
    "dtype": str(record_set.dtype),
    "pack_shape": dataclasses.asdict(experiment.shape),
    "num_parameters": num_parameters,
    "class_weights": list(experiment.class_weights),
    "records_sha256": record_set.sha256,
    "splits_sha256": records.sha256_of(experiment.workdir / "splits.csv"),
    "objective": experiment.objective,
    # The field of a checkpoint that answers.
    "weights": "averages" if config.optimizer.ema_decay else "params",
    **_groups(experiment, start),
    "start": start,
    "reference": _fit_reference(experiment),
  }
  if record_set.encoder is not None:  # of another run, and not fitted here
    content["encoder"] = record_set.encoder
  records.write_text(
    experiment.workdir / "model.json", json.dumps(content, indent=2) + "\n"
  )


def _groups(
  experiment: Experiment, start: Mapping[str, Any] | None
) -> dict[str, list[str]]:
  """Returns who was seen in this run, and in those that it builds on."""
  here = {
    split: {s["group_id"] for s in experiment.scans if s["split"] == split}
    for split in ("train", "validation")
  }
  below = experiment.record_set.encoder or start or {}
  encoder = set(below.get("encoder_group_ids", ()))
  model = set(below.get("model_group_ids", ())) | encoder | here["train"]
  selection = set(below.get("selection_group_ids", ())) | here["validation"]
  features = experiment.record_set.encoder is not None
  if not features and not experiment.encoder_is_frozen:
    encoder |= here["train"]
  return {
    "encoder_group_ids": sorted(encoder),
    "model_group_ids": sorted(model),
    "selection_group_ids": sorted(selection),
  }


def _fit_reference(experiment: Experiment) -> dict[str, Any] | None:
  """Describes the training scans; None where the images are gone."""
  try:
    images = experiment.record_set.images()
  except InputError:
    return None  # which a use of the model says of every scan
  return reference.fit_reference(
    (images[int(i)] for i in experiment.subset("train")),
    images.index["modalities"],
  )
