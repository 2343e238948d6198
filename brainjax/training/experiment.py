"""From a config to an experiment: everything derived is derived here, once.

`resolve` checks the config against the records and writes what a run is made
of into its workdir; `open_run` reads it back for all that comes after.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.input import plan
from brainjax.input.sampling import Sampling
from brainjax.models.classifier import Classifier
from brainjax.training import (
  balance,
  config_checks,
  intensity,
  losses,
  optimizer,
  processes,
  sharding,
  standardise,
  starting_point,
  trained,
)
from brainjax.training import rates as rates_lib
from brainjax.training import scans as scans_lib
from brainjax.training import schedule as schedule_lib
from brainjax.training import workdir as workdir_lib
from brainjax.training.augment import AugmentRanges
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
    sampling: How an epoch draws training scans; None: each once.
    intensity: The standard scale, see `intensity.fit_scale`; None for z-scores.
  """

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  record_set: records.RecordSet
  classes: tuple[str, ...]
  scans: tuple[Mapping[str, str], ...]
  targets: np.ndarray
  shape: plan.PackShape
  sampling: Sampling | None
  intensity: Mapping[str, Any] | None = None

  @property
  def positive(self) -> int | None:
    """Index of the positive class of a binary task."""
    return config_checks.positive_index(self.config, self.classes)

  @property
  def negative(self) -> int | None:
    """Index of the class without a tumour, if one is named."""
    name = self.config.task.negative
    return self.classes.index(name) if name else None

  @functools.cached_property
  def class_weights(self) -> tuple[float, ...]:
    """Weights of the loss, from the training participants."""
    if self.objective == "reconstruct":
      return (1.0,) * len(self.classes)
    counts = balance.count_participants(self._training_scans, self.classes)
    return losses.class_weights(counts, self.config.train.class_weights)

  @functools.cached_property
  def validation_weights(self) -> tuple[float, ...]:
    """Weights of the validation loss; see `balance.validation_weights`."""
    config = self.config
    kind, strength = config.data.sampling, config.train.logit_adjustment
    if kind == "natural" and not strength:
      return self.class_weights
    return balance.validation_weights(
      kind, self._training_scans, self.classes, strength
    )

  @property
  def _training_scans(self) -> list[Mapping[str, str]]:
    return [scan for scan in self.scans if scan["split"] == "train"]

  @property
  def rates(self) -> rates_lib.Rates:
    """Parts of the learning rate, by patterns of parameters."""
    return rates_lib.parse_rates(self.config.optimizer.rates)

  @property
  def schedule(self) -> schedule_lib.Schedule:
    """The learning rate of every step."""
    return schedule_lib.from_config(
      self.config.optimizer,
      epochs=self.config.train.epochs,
      steps_per_epoch=self.shape.steps_per_epoch,
    )

  @functools.cached_property
  def variable_shapes(self) -> dict[str, Any]:
    """Shapes and types of the model's `{"params", "batch_stats"}`."""
    record_set = self.record_set
    model = trained.build_model(
      self.config.model,
      self.classes,
      record_set.num_features,
      negative=self.config.task.negative,
    )
    return trained.variable_shapes(
      model, self.objective, record_set.slice_shape
    )

  @property
  def objective(self) -> str:
    """What is learned, one of `step.OBJECTIVES`."""
    return self.config.train.objective

  def subset(self, split: str) -> np.ndarray:
    """Returns i64[T], the record indices of a split, in manifest order."""
    return np.array(
      [int(s["record_index"]) for s in self.scans if s["split"] == split],
      np.int64,
    )

  def scored(self, split: str) -> np.ndarray:
    """Returns i64[T], those of the split that the objective can score."""
    subset = self.subset(split)
    if self.objective == "reconstruct":
      return subset
    return subset[self.targets[subset] >= 0]

  def build(
    self,
  ) -> tuple[Classifier, optax.GradientTransformation, StepSettings]:
    """Returns the model, the optimizer and the facts of the step."""
    config, features = self.config, self.record_set.num_features
    mapped = config.mesh.parallelism == "pmap"
    axis_name = sharding.DATA_AXIS if mapped else None
    model = trained.build_model(
      config.model,
      self.classes,
      features,
      axis_name,
      negative=config.task.negative,
    )
    settings = StepSettings(
      zero_code=records.ZERO_CODES[self.record_set.dtype],
      num_rows=self.shape.rows,
      max_length=self.shape.longest,
      scans_per_step=len(self.subset("train")) / self.shape.steps_per_epoch,
      loss=self.loss_settings,
      augment=None if features else AugmentRanges(**config.augment),
      seed=config.train.seed,
      objective=self.objective,
      reconstruction_weights=tuple(config.train.reconstruction_weights),
      anneal_steps=config.train.anneal_epochs * self.shape.steps_per_epoch,
      rates=self.rates,
      ema_decay=config.optimizer.ema_decay,
      accumulation=config.train.accumulation,
      chunk_slices=config.model.encoder.chunk_slices,
      unroll=jax.default_backend() == "cpu",
      axis_name=axis_name,
      standard=self._standard(),
    )
    rule = optimizer.from_config(config.optimizer, self.schedule)
    return model, rule, settings

  def _standard(self) -> standardise.Standard | None:
    if self.intensity is None:
      return None
    modalities = self.record_set.index["modalities"]
    return intensity.standard_of(
      self.intensity, modalities, self.record_set.dtype
    )

  @property
  def loss_settings(self) -> losses.LossSettings:
    """What the classification loss is made of."""
    train = self.config.train
    if self.objective == "reconstruct":
      return losses.LossSettings(self.class_weights)
    counts = balance.count_participants(self._training_scans, self.classes)
    return losses.LossSettings(
      class_weights=self.class_weights,
      focal_gamma=train.focal_gamma if train.loss == "focal" else 0.0,
      label_smoothing=train.label_smoothing,
      adjustment=losses.logit_adjustment(counts, train.logit_adjustment),
      hard_negatives=train.hard_negatives,
      frequent=int(np.argmax(counts)),
      mixup=train.mixup,
    )

  @property
  def encoder_is_frozen(self) -> bool:
    """Whether this run leaves what describes a slice as it started."""
    model = self.config.model
    if model.encoder.statistics != "frozen" or (
      model.attention.in_plane != "none"
    ):
      return False
    found = rates_lib.factors(self.variable_shapes["params"], self.rates)
    return not any(jax.tree.leaves(found["encoder"]))

  def read_starting_point(self) -> starting_point.StartingPoint:
    """Reads what the model starts from, `model.init_from`.

    Raises:
      InputError: It cannot be read or does not fit, or its encoder was fitted
        on groups that this run is to be evaluated on.
    """
    path = pathlib.Path(self.config.model.init_from)
    model = trained.build_model(
      self.config.model, self.classes, negative=self.config.task.negative
    )
    slice_shape = self.record_set.slice_shape
    point = starting_point.read_starting_point(path, model.encoder, slice_shape)
    shapes = self.variable_shapes
    taken, _ = starting_point.start_from(point, shapes, self.classes)
    drawn = shapes["params"].keys() - taken["params"].keys()
    rates_lib.check_drawn(shapes["params"], self.rates, drawn)
    if taken["params"].keys() <= {"encoder"}:
      # The rest of that run is left behind, with whom it was fitted on.
      point = dataclasses.replace(
        point, model_group_ids=point.encoder_group_ids
      )
    scans_lib.refuse_seen_groups(
      self.scans,
      point.model_group_ids,
      point.selection_group_ids,
      f"config.model.init_from={path}",
    )
    return point


def resolve(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, num_devices: int
) -> Experiment:
  """Derives and checks everything; writes `config.json` and `splits.csv`.

  Nothing is written unless all is well.

  Args:
    config: As the user gave it.
    workdir: Folder of the run; made if absent.
    num_devices: Among how many packs are dealt.

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
  config_checks.check_config(config)
  if not config.data.records:
    raise InputError(
      "config.data.records: unset; give the folder that `brainjax prepare`"
      " wrote, as --config.data.records=RECORDS"
    )
  config.data.records = str(pathlib.Path(config.data.records).resolve())
  if config.model.init_from:
    init_from = pathlib.Path(config.model.init_from).resolve()
    config.model.init_from = str(init_from)
  if config.data.packs is None:
    config.data.packs = num_devices
  config_checks.check_division(config, num_devices)
  record_set = records.RecordSet(config.data.records)
  encoder = record_set.encoder
  if encoder is not None:
    config_checks.take_features(config, encoder)
  config_checks.check_regime(config)
  balance.check_balance(config)
  if config_file.is_file():
    workdir_lib.refuse_changes(config, workdir)
  if (workdir / "model.json").is_file():
    _refuse_other_records(record_set, trained.read_model_file(workdir))

  scans = scans_lib.assign_scans(config, record_set)
  if encoder is not None:
    what = f"config.data.records={record_set.path}"
    scans_lib.refuse_seen_groups(
      scans, encoder["encoder_group_ids"], encoder["selection_group_ids"], what
    )
  classes = tuple(config_lib.parse_classes(config.task.classes))
  experiment = _derive(config, workdir, record_set, classes, scans)
  if config.data.pack_slices is None and config.data.steps_per_epoch is None:
    config.data.steps_per_epoch = experiment.shape.steps_per_epoch
  experiment = dataclasses.replace(
    experiment, intensity=_fit_or_read_scale(experiment)
  )
  config_checks.check_chunks(config, experiment.shape.slices)
  _ = experiment.positive  # which refuses a binary task without one
  balance.check_output(config, classes)
  scans_lib.check_splits(scans, classes, experiment.objective)
  try:
    shapes = experiment.variable_shapes
  except ValueError as error:
    raise InputError(f"config.model: {error}") from error
  rates_lib.check_rates(shapes["params"], experiment.rates)
  if config.model.init_from and not config_file.is_file():
    experiment.read_starting_point()  # which refuses one that does not fit

  splits_file = workdir / "splits.csv"
  if splits_file.is_file() and workdir_lib.read_scans(splits_file) != scans:
    raise InputError(
      f"{splits_file}: the records now give other splits than this run"
      " began with; choose another --workdir"
    )
  processes.wait_for_all("config read")  # before it changes
  if processes.is_first():
    workdir.mkdir(parents=True, exist_ok=True)
    if not splits_file.is_file():
      records.write_csv(splits_file, workdir_lib.SPLIT_COLUMNS, scans)
    records.write_text(config_file, config_lib.to_json(config))
  processes.wait_for_all("config written")
  return experiment


def open_run(workdir: pathlib.Path) -> Experiment:
  """Reads a run's facts back from its workdir.

  Raises:
    InputError: A file is missing, or the records or the splits are no longer
      the run's.
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
  _refuse_other_records(record_set, model)
  splits_file = workdir / "splits.csv"
  if records.sha256_of(splits_file) != model["splits_sha256"]:
    raise InputError(
      f"{splits_file}: not the splits this run was trained with (sha256), so"
      " its test split may hold what it was trained on; put the file back as it"
      " was, or train again with another --workdir"
    )
  return _derive(
    config,
    workdir,
    record_set,
    model["classes"],
    workdir_lib.read_scans(workdir / "splits.csv"),
    model["intensity"],
  )


def _refuse_other_records(
  record_set: records.RecordSet, model: Mapping[str, Any]
) -> None:
  if record_set.sha256 != model["records_sha256"]:
    raise InputError(
      f"{record_set.path}: not the records this run was trained on"
      " (sha256); prepare, or encode, them again as they were"
    )


def _fit_or_read_scale(experiment: Experiment) -> Mapping[str, Any] | None:
  """Returns the standard scale, of the first start if there was one."""
  if (experiment.workdir / "model.json").is_file():
    return trained.read_model_file(experiment.workdir)["intensity"]
  record_set = experiment.record_set
  return intensity.fit_scale(
    experiment.config.data.intensity,
    (record_set[int(i)] for i in experiment.subset("train")),
    record_set.index["modalities"],
  )


def _derive(
  config, workdir, record_set, classes, scans, scale=None
) -> Experiment:
  targets = np.full(len(record_set), -1, np.int64)
  for scan in scans:
    if scan["class"]:
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
  trained_on = np.array(lengths["train"], np.int32)
  sampling = balance.make_sampling(
    config.data.sampling,
    [scan for scan in scans if scan["split"] == "train"],
    trained_on,
  )
  shape = plan.plan_shape(
    trained_on if sampling is None else sampling.envelope,
    packs=config.data.packs,
    scans_per_step=config.data.scans_per_step,
    pack_slices=config.data.pack_slices,
    longest=int(max(sum(lengths.values(), []))),
    steps_per_epoch=config.data.steps_per_epoch,
  )
  return Experiment(
    config, workdir, record_set, classes, scans, targets, shape, sampling, scale
  )
