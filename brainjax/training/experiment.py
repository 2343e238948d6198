"""From a config to an experiment: everything derived is derived here, once.

`resolve` checks the config against the records and writes what a run is made
of into its workdir; `open_run` reads it back for all that comes after.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import optax

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.cohort import splits as splits_lib
from brainjax.input import plan
from brainjax.models import densenet, heads, pretrained
from brainjax.models.classifier import Classifier
from brainjax.training import losses, reference, trained
from brainjax.training import workdir as workdir_lib
from brainjax.training.augment import AugmentRanges
from brainjax.training.optimizer import make_optimizer
from brainjax.training.step import StepSettings


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run's facts, all derived.

  Attributes:
    config: The resolved configuration.
    workdir: Folder of the run.
    record_set: The prepared scans.
    classes: Class names in index order.
    scans: Rows of `splits.csv`: the scans that take part.
    targets: i64[R] class index of each record; -1 for those left out.
    shape: Of a packed batch.
  """

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  record_set: records.RecordSet
  classes: tuple[str, ...]
  scans: tuple[Mapping[str, str], ...]
  targets: np.ndarray
  shape: plan.PackShape

  @property
  def positive(self) -> int | None:
    """Index of the positive class of a binary task."""
    return positive_index(self.config, self.classes)

  @functools.cached_property
  def class_weights(self) -> tuple[float, ...]:
    """Weights of the loss, from the training participants."""
    class_of = {}
    for scan in self.scans:
      if scan["split"] == "train":
        target = self.targets[int(scan["record_index"])]
        class_of[scan["participant_id"]] = target
    return losses.class_weights(
      np.array(list(class_of.values())),
      len(self.classes),
      self.config.train.class_weights,
    )

  def subset(self, split: str) -> np.ndarray:
    """Returns i64[T], the record indices of a split, in manifest order."""
    return np.array(
      [int(s["record_index"]) for s in self.scans if s["split"] == split],
      np.int64,
    )

  def build(
    self,
  ) -> tuple[Classifier, optax.GradientTransformation, StepSettings]:
    """Returns the model, the optimizer and the facts of the step."""
    config = self.config
    model = trained.build_model(config.model, len(self.classes))
    settings = StepSettings(
      zero_code=records.ZERO_CODES[self.record_set.dtype],
      num_rows=self.shape.rows,
      max_length=self.shape.longest,
      scans_per_step=len(self.subset("train")) / self.shape.steps_per_epoch,
      class_weights=self.class_weights,
      augment=AugmentRanges(**config.augment),
      seed=config.train.seed,
    )
    return model, make_optimizer(**config.optimizer), settings

  def import_encoder(self) -> tuple[dict[str, Any], str]:
    """Reads what the encoder starts from, `model.encoder.weights`.

    Returns:
      Its `{"params", "batch_stats"}` and the sha256 of the file.

    Raises:
      InputError: The file cannot be read, or does not fit the encoder.
    """
    path = pathlib.Path(self.config.model.encoder.weights)
    encoder = trained.build_model(self.config.model, len(self.classes)).encoder
    try:
      variables = pretrained.load_encoder(
        path, encoder, self.record_set.slice_shape
      )
    except (OSError, ValueError) as error:
      raise InputError(
        f"config.model.encoder.weights={path}: {error}"
      ) from error
    return variables, records.sha256_of(path)


def resolve(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, num_devices: int
) -> Experiment:
  """Derives and checks everything; writes `config.json` and `splits.csv`.

  Nothing is written unless all is well.

  Args:
    config: As the user gave it.
    workdir: Folder of the run; made if absent.
    num_devices: Devices of the data axis.

  Raises:
    InputError: A field is wrong, does not fit the records, or differs from
      the run that is already in the workdir.
  """
  config = ml_collections.ConfigDict(config)
  config_file = workdir / "config.json"
  if not config_file.is_file() and (workdir / "checkpoints").exists():
    raise InputError(
      f"{workdir}: it holds checkpoints but no config.json, so nobody knows"
      " what they are of; choose another --workdir"
    )
  if config_file.is_file():
    workdir_lib.adopt_unset(config, workdir_lib.read_config(config_file))
  _check_choices(config)
  if not config.data.records:
    raise InputError(
      "config.data.records: unset; give the folder that `brainjax prepare`"
      " wrote, as --config.data.records=RECORDS"
    )
  config.data.records = str(pathlib.Path(config.data.records).resolve())
  if config.model.encoder.weights:
    weights = pathlib.Path(config.model.encoder.weights).resolve()
    config.model.encoder.weights = str(weights)
  if config.data.packs is None:
    config.data.packs = num_devices
  if config.data.packs % num_devices:
    raise InputError(
      f"config.data.packs={config.data.packs}: does not divide among"
      f" {num_devices} devices; set it to a multiple of {num_devices}, or"
      " config.mesh.devices to one of its divisors"
    )
  if config_file.is_file():
    workdir_lib.refuse_changes(config, workdir)

  record_set = records.RecordSet(config.data.records)
  scans = assign_scans(config, record_set)
  classes = tuple(config_lib.parse_classes(config.task.classes))
  experiment = _derive(config, workdir, record_set, classes, scans)
  _check_splits(experiment)
  try:
    trained.build_model(config.model, len(classes))
  except ValueError as error:
    raise InputError(f"config.model: {error}") from error
  if config.model.encoder.weights and not config_file.is_file():
    experiment.import_encoder()  # which refuses a file that does not fit

  workdir.mkdir(parents=True, exist_ok=True)
  splits_file = workdir / "splits.csv"
  if splits_file.is_file():
    if workdir_lib.read_scans(splits_file) != scans:
      raise InputError(
        f"{splits_file}: the records now give other splits than this run"
        " began with; choose another --workdir"
      )
  else:
    records.write_csv(splits_file, workdir_lib.SPLIT_COLUMNS, scans)
  records.write_text(config_file, config_lib.to_json(config))
  return experiment


def open_run(workdir: pathlib.Path) -> Experiment:
  """Reads a run's facts back from its workdir.

  Raises:
    InputError: A file is missing, or the records are no longer the run's.
  """
  for name in ("config.json", "model.json", "splits.csv"):
    if not (workdir / name).is_file():
      raise InputError(
        f"{workdir / name}: missing; run `brainjax train --config=FILE"
        f" --workdir={workdir}` first"
      )
  config = workdir_lib.read_config(workdir / "config.json")
  model = trained.read_model_file(workdir)
  record_set = records.RecordSet(config.data.records)
  if record_set.sha256 != model["records_sha256"]:
    raise InputError(
      f"{record_set.path}: not the records this run was trained on"
      " (sha256); prepare them again with the same config"
    )
  return _derive(
    config,
    workdir,
    record_set,
    model["classes"],
    workdir_lib.read_scans(workdir / "splits.csv"),
  )


def assign_scans(
  config: ml_collections.ConfigDict, record_set: records.RecordSet
) -> tuple[dict[str, str], ...]:
  """Returns the rows of `splits.csv`: every scan whose label has a class.

  Raises:
    InputError: A label is named neither by a class nor by `task.ignore`.
  """
  classes = config_lib.parse_classes(config.task.classes)
  class_of = {
    label: name for name, labels in classes.items() for label in labels
  }
  rows = []
  for record_index, row in enumerate(record_set.rows):
    label = row["label"]
    if label in config.task.ignore or not label:
      continue
    if label not in class_of:
      raise InputError(
        f"config.task.classes: label {label!r} of"
        f" {row['participant_id']} is in no class; name it in a class or in"
        " config.task.ignore"
      )
    rows.append({**row, "record_index": str(record_index)})
  assigned = splits_lib.assign_splits(rows, **config.split)
  return tuple(
    {
      **{name: row.get(name, "") for name in workdir_lib.SPLIT_COLUMNS},
      "class": class_of[row["label"]],
      "split": split,
      "fold": str(fold),
    }
    for row, (split, fold) in zip(rows, assigned, strict=True)
  )


def write_model_file(
  experiment: Experiment,
  num_parameters: int,
  encoder_weights_sha256: str = "",
) -> None:
  """Writes `model.json`: what a use of the model must know of it.

  Args:
    experiment: The run's facts.
    num_parameters: Trained numbers of the model.
    encoder_weights_sha256: Of the file that the encoder started from; "" if
      it started from scratch.
  """
  record_set, config = experiment.record_set, experiment.config
  train_groups = {
    s["group_id"] for s in experiment.scans if s["split"] == "train"
  }
  content = {
    "schema_version": trained.SCHEMA_VERSION,
    "classes": list(experiment.classes),
    "class_labels": config_lib.parse_classes(config.task.classes),
    "positive": config.task.positive,
    "model": config.model.to_dict(),
    "modalities": record_set.index["modalities"],
    "preparation": record_set.index["preparation"],
    "slice_shape": list(record_set.slice_shape),
    "dtype": str(record_set.dtype),
    "pack_shape": dataclasses.asdict(experiment.shape),
    "num_parameters": num_parameters,
    "class_weights": list(experiment.class_weights),
    "records_sha256": record_set.sha256,
    "splits_sha256": records.sha256_of(experiment.workdir / "splits.csv"),
    "encoder_group_ids": sorted(train_groups),
    "encoder_weights_sha256": encoder_weights_sha256,
    "reference": reference.fit_reference(
      (record_set[int(i)] for i in experiment.subset("train")),
      record_set.index["modalities"],
    ),
  }
  records.write_text(
    experiment.workdir / "model.json", json.dumps(content, indent=2) + "\n"
  )


def positive_index(
  config: ml_collections.ConfigDict, classes: Sequence[str]
) -> int | None:
  """Index of the positive class of a binary task; None for more classes.

  Raises:
    InputError: A binary task names no positive class, or an unknown one.
  """
  if len(classes) > 2:
    return None
  if config.task.positive not in classes:
    raise InputError(
      f"config.task.positive={config.task.positive!r}: name one of the two"
      f" classes {list(classes)}"
    )
  return classes.index(config.task.positive)


def _derive(config, workdir, record_set, classes, scans) -> Experiment:
  targets = np.full(len(record_set), -1, np.int64)
  for scan in scans:
    targets[int(scan["record_index"])] = classes.index(scan["class"])
  lengths = {"train": [], "validation": [], "test": []}
  for scan in scans:
    length = record_set.lengths[int(scan["record_index"])]
    lengths[scan["split"]].append(length)
  if not lengths["train"]:
    raise InputError(
      f"{record_set.path}: no scan is left for training; see"
      " config.task.classes and config.split"
    )
  shape = plan.plan_shape(
    np.array(lengths["train"], np.int32),
    packs=config.data.packs,
    scans_per_step=config.data.scans_per_step,
    pack_slices=config.data.pack_slices,
    longest=int(max(sum(lengths.values(), []))),
  )
  return Experiment(config, workdir, record_set, classes, scans, targets, shape)


def _check_splits(experiment: Experiment) -> None:
  positive_index(experiment.config, experiment.classes)
  groups = {
    (name, split): set()
    for name in experiment.classes
    for split in splits_lib.SPLITS
  }
  for scan in experiment.scans:
    groups[scan["class"], scan["split"]].add(scan["group_id"])
  for (name, split), members in groups.items():
    if not members:
      total = sum(len(groups[name, other]) for other in splits_lib.SPLITS)
      raise InputError(
        f"config.split: class {name!r} has no group in the {split} split"
        f" ({total} in all); every class needs one in each of train,"
        " validation and test: add scans, or change config.split or"
        " config.task"
      )


def _check_choices(config: ml_collections.ConfigDict) -> None:
  choices = {
    "model.encoder.preset": tuple(densenet.PRESETS),
    "model.encoder.statistics": ("batch", "pack"),
    "model.head.name": tuple(heads.HEADS),
    "model.dtype": ("float32", "bfloat16"),
    "train.class_weights": ("inverse", "none"),
  }
  at_least = {
    "train.epochs": 1,
    "train.log_every_steps": 1,
    "train.patience_epochs": 0,
    "checkpoint.every_epochs": 1,
    "checkpoint.keep": 1,
    "data.scans_per_step": 1,
    "data.read_threads": 1,
    "data.prefetch_steps": 1,
    "eval.resamples": 1,
  }
  fields = config_lib.leaf_fields(config)
  for name, allowed in choices.items():
    if fields[name] not in allowed:
      raise InputError(
        f"config.{name}={fields[name]!r}: choose one of {list(allowed)}"
      )
  for name, least in at_least.items():
    if fields[name] < least:
      raise InputError(f"config.{name}={fields[name]}: at least {least}")
