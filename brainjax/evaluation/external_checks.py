"""Whether another cohort can be scored by a run, and is new to it."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.training import trained
from brainjax.training.experiment import Experiment

_ELSEWHERE = ("shard_scans", "modalities")  # of the config, not of the images


def check_images(workdir: pathlib.Path, other: records.RecordSet) -> None:
  """Refuses records that were prepared otherwise than the run's."""
  facts = json.loads((workdir / "model.json").read_text())
  wanted = {"modalities": facts["modalities"], **_fields(facts["preparation"])}
  found = {
    "modalities": other.index["modalities"],
    **_fields(other.index["preparation"]),
  }
  for field in sorted(wanted.keys() | found.keys()):
    if wanted.get(field) != found.get(field):
      raise InputError(
        f"{other.path}: prepared with preparation.{field}="
        f"{found.get(field)!r}, the run's records with"
        f" {wanted.get(field)!r}; prepare them with the run's config"
      )


def check_name(
  workdir: pathlib.Path, name: str, other: records.RecordSet
) -> None:
  """Refuses other records under the name of a cohort that has scores."""
  path = workdir / "metrics.json"
  metrics = json.loads(path.read_text()) if path.is_file() else {}
  earlier = metrics.get("external", {}).get(name)
  if earlier and earlier["records_sha256"] != other.sha256:
    raise InputError(
      f"{other.path}: {workdir} has scores of other records of the name"
      f" {name!r}, {earlier['records']}; rename the folder"
    )


def check_unseen(run: Experiment, other: records.RecordSet) -> None:
  """Refuses people and images that the run was fitted on, or chosen by."""
  facts = trained.read_model_file(run.workdir)
  seen = {
    group
    for kind in ("model", "encoder", "selection")
    for group in facts[f"{kind}_group_ids"]
  }
  # A participant may have one group here and another there.
  seen |= {
    scan["participant_id"] for scan in run.scans if scan["split"] != "test"
  }
  same_ids = [
    row["participant_id"]
    for row in other.rows
    if not seen.isdisjoint((row["group_id"], row["participant_id"]))
  ]
  if same_ids:
    raise InputError(
      f"{other.path}: {len(same_ids)} of its {len(other)} scans are of people"
      f" that the run was fitted on, or chosen by, e.g. {same_ids[0]}; leave"
      " them out, or give them other ids where they are other people"
    )
  entries = run.record_set.index["records"]
  images = {
    entries[int(scan["record_index"])]["input_sha256"]
    for scan in run.scans
    if scan["split"] != "test"
  }
  same_images = [
    row["participant_id"]
    for row, entry in zip(other.rows, other.index["records"], strict=True)
    if entry["input_sha256"] and entry["input_sha256"] in images
  ]
  if same_images:
    raise InputError(
      f"{other.path}: {len(same_images)} of its {len(other)} scans have the"
      " image of a scan that the run was fitted on, or chosen by, e.g."
      f" participant {same_images[0]}; leave them out"
    )


def targets_by_name(run: Experiment, other: records.RecordSet) -> np.ndarray:
  """Returns i64[R] classes by the names of labels, -1 without one."""
  class_of = {
    label: name
    for name, labels in config_lib.parse_classes(
      run.config.task.classes
    ).items()
    for label in labels
  }
  targets = np.full(len(other), -1, np.int64)
  for i, row in enumerate(other.rows):
    label = row["label"]
    if not label or label in run.config.task.ignore:
      continue
    if label not in class_of:
      raise InputError(
        f"{other.path / 'manifest.csv'}: label {label!r} of"
        f" {row['participant_id']} is in no class of the run, whose labels are"
        f" {', '.join(class_of)}; rename it, or leave it empty"
      )
    targets[i] = run.classes.index(class_of[label])
  return targets


def _fields(preparation: Mapping[str, Any]) -> dict[str, Any]:
  section = trained.preparation_of({"preparation": preparation})
  fields = config_lib.leaf_fields(section)
  # Tuples and lists alike, as they come from JSON.
  return {
    name: json.loads(json.dumps(value))
    for name, value in fields.items()
    if name not in _ELSEWHERE
  }
