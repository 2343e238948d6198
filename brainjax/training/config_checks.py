"""What a config may say, as far as no records are needed to tell."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from brainjax import InputError
from brainjax import config as config_lib
from brainjax.input import resident
from brainjax.models import build, classifier, dense_block, heads
from brainjax.training import (
  balance,
  intensity,
  losses,
  optimizer,
  rates,
  schedule,
  sharding,
)
from brainjax.training.step import OBJECTIVES

# What only the encoder of images takes, and what it is without.
_OF_ENCODER = {
  "model.init_from": "",
  "model.attention.in_plane": "none",
  "train.objective": "classify",
  "data.intensity": "zscore",
}
ABLATION_METRICS = (  # of these, more is better
  "roc_auc",
  "balanced_accuracy",
  "accuracy",
  "average_precision",
)


def check_config(config: ml_collections.ConfigDict) -> None:
  """Checks the fields of a config that need no records to be judged.

  Raises:
    InputError: A value is not possible, or two do not go together.
  """
  choices = {
    "model.encoder.preset": build.PRESETS,
    "model.encoder.statistics": classifier.STATISTICS,
    "model.head.name": tuple(heads.HEADS),
    "model.dtype": ("float32", "bfloat16"),
    "optimizer.name": optimizer.OPTIMIZERS,
    "optimizer.clip": tuple(optimizer.CLIPS),
    "optimizer.schedule": schedule.SCHEDULES,
    "data.mode": resident.MODES,
    "data.intensity": tuple(intensity.PERCENTILES),
    "train.class_weights": losses.CLASS_WEIGHTS,
    "train.loss": ("cross_entropy", "focal"),
    "data.sampling": tuple(balance.SAMPLING),
    "model.output": ("flat", "hierarchical"),
    "train.objective": tuple(OBJECTIVES),
    "model.encoder.residuals": dense_block.RESIDUALS,
    "mesh.parallelism": sharding.PARALLELISM,
    "train.non_finite": ("stop", "skip"),
  }
  at_least = {
    "train.epochs": 1,
    "train.log_every_steps": 1,
    "train.patience_epochs": 0,
    "train.most_skipped": 1,
    "train.anneal_epochs": 0,
    "optimizer.l2": 0,
    "optimizer.weight_decay": 0,
    "optimizer.warmup_epochs": 0,
    "optimizer.final_rate": 0,
    "train.accumulation": 1,
    "model.encoder.chunk_slices": 0,
    "mesh.slice_devices": 1,
    "train.focal_gamma": 0,
    "train.label_smoothing": 0,
    "train.logit_adjustment": 0,
    "train.hard_negatives": 0,
    "train.mixup": 0,
    "model.decoder.code_channels": 1,
    "checkpoint.every_epochs": 1,
    "checkpoint.keep": 1,
    "data.scans_per_step": 1,
    "data.read_threads": 1,
    "data.prefetch_steps": 1,
    "eval.resamples": 1,
    "eval.least_sensitivity": 0,
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
  if config.data.resident_gb is not None and config.data.resident_gb <= 0:
    raise InputError(
      f"config.data.resident_gb={config.data.resident_gb}: give more than 0"
    )
  if config.eval.least_sensitivity > 1:
    raise InputError(
      f"config.eval.least_sensitivity={config.eval.least_sensitivity}: at most"
      " 1"
    )
  _check_ablation(config.ablation)
  _check_optimizer(config)
  _check_augment(config.augment)
  _check_profile_steps(config.train.profile_steps)


def _check_ablation(section: ml_collections.ConfigDict) -> None:
  primary, rates = section.primary, section.learning_rates
  known = {*heads.HEADS, *config_lib.NETWORKS}
  if len(set(primary)) != 2 or not set(primary) <= known:
    raise InputError(
      f"config.ablation.primary={primary}: name two heads, of {sorted(known)}"
    )
  if section.metric not in ABLATION_METRICS:
    raise InputError(
      f"config.ablation.metric={section.metric!r}: choose one of"
      f" {list(ABLATION_METRICS)}"
    )
  if not 0 < section.margin < 1 or section.budget < 1:
    raise InputError(
      f"config.ablation.margin={section.margin} and"
      f" config.ablation.budget={section.budget}: give a margin between 0 and"
      " 1, and at least one parameter"
    )
  if not all(0 < rate < math.inf for rate in rates):
    raise InputError(
      f"config.ablation.learning_rates={rates}: more than 0 each, or ()"
    )


def _check_profile_steps(steps: Sequence[int]) -> None:
  if steps and not (
    len(steps) == 2
    and all(isinstance(step, int) for step in steps)
    and 1 <= steps[0] <= steps[1]
  ):
    raise InputError(
      f"config.train.profile_steps={steps}: give the first and the last step to"
      " trace, such as (5,9), or ()"
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


def check_division(config: ml_collections.ConfigDict, num_devices: int) -> None:
  """Checks that packs divide among parts and devices.

  Args:
    config: With `data.packs` set.
    num_devices: Among how many packs are dealt.

  Raises:
    InputError: They do not, or something does not go with it.
  """
  packs, parts = config.data.packs, config.train.accumulation
  if packs % (num_devices * parts):
    among = f"{num_devices} devices"
    if parts > 1:
      among = f"{parts} parts (config.train.accumulation) of {among} each"
    raise InputError(
      f"config.data.packs={packs}: does not divide among {among}; set it to a"
      f" multiple of {num_devices * parts}, or config.mesh.devices to one of"
      " its divisors"
    )
  # With more, XLA would gather the images and encode them on each device.
  if config.mesh.slice_devices > 1 and packs != num_devices * parts:
    raise InputError(
      f"config.mesh.slice_devices={config.mesh.slice_devices}: each group of"
      f" devices that share slices works on one pack at a time; set"
      f" config.data.packs to {num_devices * parts}, or"
      " config.train.accumulation to more parts"
    )
  chunk = config.model.encoder.chunk_slices
  for name, value, asked in (
    ("train.accumulation", parts, parts > 1),
    ("model.encoder.chunk_slices", chunk, chunk > 0),
  ):
    if asked and config.model.encoder.statistics == "batch":
      raise InputError(
        f"config.{name}={value}: a part knows no statistics of the whole batch;"
        " set config.model.encoder.statistics to 'pack' or 'frozen'"
      )
  if chunk and config.train.objective != "classify":
    raise InputError(
      f"config.model.encoder.chunk_slices={chunk}: only for"
      " config.train.objective='classify'; set it to 0, and"
      " config.data.pack_slices or config.train.accumulation instead"
    )
  dropout = config.model.head.get("dropout", 0)
  if dropout and (parts > 1 or config.mesh.parallelism == "pmap"):
    raise InputError(
      f"config.model.head.dropout={dropout}: is drawn for a batch, and would"
      " repeat itself in every part (config.train.accumulation) and on every"
      " device (config.mesh.parallelism='pmap'); set it to 0, or leave those"
    )
  if config.mesh.parallelism == "pmap" and (
    config.mesh.slice_devices > 1 or jax.process_count() > 1
  ):
    raise InputError(
      "config.mesh.parallelism='pmap': only for one process, and whole packs"
      " (config.mesh.slice_devices=1); 'jit' does it all"
    )


def check_chunks(config: ml_collections.ConfigDict, pack_slices: int) -> None:
  """Checks that the slices of a pack divide into chunks and among devices.

  Raises:
    InputError: They do not.
  """
  for name in ("model.encoder.chunk_slices", "mesh.slice_devices"):
    value = config_lib.leaf_fields(config)[name]
    if value and pack_slices % value:
      raise InputError(
        f"config.{name}={value}: does not divide the {pack_slices} slices of a"
        " pack; choose one that does, or set config.data.pack_slices"
      )


def leave_encoder(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns the config without what only the encoder of images takes."""
  config = config.copy_and_resolve_references()
  for name, value in _OF_ENCODER.items():
    config_lib.set_field(config, f"{name}={value}")
  config.optimizer.rates = ()
  return config


def take_features(
  config: ml_collections.ConfigDict, encoder: Mapping[str, Any]
) -> None:
  """Makes the config name the encoder of features, which has had its part.

  Args:
    config: Of a run on features.
    encoder: Whose features they are; see `records.write_index`.

  Raises:
    InputError: A field asks for the encoder, or for images.
  """
  fields = config_lib.leaf_fields(config)
  for name, value in _OF_ENCODER.items():
    if fields[name] != value:
      raise InputError(
        f"config.{name}={fields[name]!r}: the records are features, and the"
        f" encoder takes no part; leave it at {value!r}"
      )
  config.model.encoder.preset = encoder["preset"]


def check_regime(config: ml_collections.ConfigDict) -> None:
  """Checks that objective, start, decoder and attention go together.

  Raises:
    InputError: They do not.
  """
  if min(config.model.decoder.widths, default=0) < 1:
    raise InputError(
      f"config.model.decoder.widths={config.model.decoder.widths}: give"
      " channels, each at least 1"
    )
  if config.data.intensity != "zscore" and (
    config.train.objective != "classify"
  ):
    raise InputError(
      f"config.data.intensity={config.data.intensity!r}: only to classify, as"
      " reconstructions are scored as z-scores; leave it at 'zscore'"
    )
  weights = config.train.reconstruction_weights
  if len(weights) != 2 or not all(
    isinstance(weight, int | float) and 0 <= weight < math.inf
    for weight in weights
  ):
    raise InputError(
      f"config.train.reconstruction_weights={weights}: give two numbers, 0 or"
      " more: the first and the last weight"
    )
  _check_comparator(config)
  attention = config.model.attention
  if config.train.objective == "reconstruct" and (
    {attention.in_plane, attention.slice_axis} != {"none"}
  ):
    raise InputError(
      "config.model.attention: weighs what is classified, and"
      " config.train.objective='reconstruct' classifies nothing; leave both of"
      " its fields at 'none'"
    )
  for pattern, factor in rates.parse_rates(config.optimizer.rates):
    if factor < 1 and not config.model.init_from:
      raise InputError(
        f"config.optimizer.rates: '{pattern}: {factor}' would leave it as it"
        " was drawn at random, or nearly; set config.model.init_from to a"
        " workdir or a file of weights"
      )


def _check_comparator(config: ml_collections.ConfigDict) -> None:
  """Checks that an encoder other than the DenseNet has what goes with it."""
  preset = config.model.encoder.preset
  of_volumes = config_lib.reads_volumes(preset)
  if preset != build.CNN_PRESET and not of_volumes:
    return
  needed = {"model.attention.in_plane": "none", "train.objective": "classify"}
  if of_volumes:
    needed |= {
      "model.head.name": "mean",
      "model.attention.slice_axis": "none",
      "model.encoder.chunk_slices": 0,
      "mesh.slice_devices": 1,
    }
  fields = config_lib.leaf_fields(config)
  for name, value in needed.items():
    if fields[name] != value:
      raise InputError(
        f"config.{name}={fields[name]!r}: does not go with"
        f" config.model.encoder.preset={preset!r}; set it to {value!r}"
      )


def _check_optimizer(config: ml_collections.ConfigDict) -> None:
  section = config.optimizer
  for name in ("learning_rate", "clip_norm", "decay_epochs", "decay_factor"):
    if not 0 < section[name] < math.inf:
      raise InputError(
        f"config.optimizer.{name}={section[name]}: give more than 0"
      )
  for name in ("b1", "b2", "momentum", "ema_decay"):
    if not 0 <= section[name] < 1:
      raise InputError(
        f"config.optimizer.{name}={section[name]}: at least 0, and below 1"
      )
  if section.schedule == "cosine" and (
    section.warmup_epochs >= config.train.epochs
  ):
    raise InputError(
      f"config.optimizer.warmup_epochs={section.warmup_epochs}: give fewer than"
      f" config.train.epochs={config.train.epochs}"
    )


def _check_augment(augment: ml_collections.ConfigDict) -> None:
  """Checks that every range is one that a scan survives."""
  between = {
    "rotation_degrees": (0, 180),
    "scale": (0, 0.9),
    "translation": (0, 1),
    "stretch": (0, 0.9),
    "shear_degrees": (0, 40),  # at 45 of both, all would fall on a line
    "perspective": (0, 0.45),  # at 0.5 a corner would be infinitely far
    "crop": (0, 0.9),
    "elastic_alpha": (0, 0.5),
    "elastic_sigma": (0.005, 0.5),
    "fill_value": (-10, 10),
    "bias_field": (0, 2),
    "noise": (0, 5),
  }
  for name, (least, most) in between.items():
    if not least <= augment[name] <= most:
      raise InputError(
        f"config.augment.{name}={augment[name]}: give a number from {least} to"
        f" {most}"
      )
  gamma = augment.gamma
  if len(gamma) != 2 or not all(
    isinstance(value, int | float) and 0.1 <= value <= 10 for value in gamma
  ):
    raise InputError(
      f"config.augment.gamma={gamma}: give two exponents from 0.1 to 10; 1"
      " changes nothing"
    )
  if gamma[0] > gamma[1]:
    raise InputError(
      f"config.augment.gamma={gamma}: give the lower exponent first"
    )
