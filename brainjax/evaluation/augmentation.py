"""What training makes of a few scans: draws kept for the report.

augmentation.npz  f32[1+D,H,W,C] by record index: the middle slice of a scan
                  as prepared, then under D draws; `ranges`, as JSON text
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np

from brainjax import records
from brainjax.evaluation import montage
from brainjax.input import packing, plan
from brainjax.training import augment, processes, step
from brainjax.training.experiment import Experiment

_SCANS = 4  # evenly spread over the training split
_DRAWS = 6


def write_draws(experiment: Experiment) -> None:
  """Writes draws of the training step's own code, if it varies anything."""
  _, _, settings = experiment.build()
  ranges = settings.augment
  if ranges is None or not ranges.changes_anything:
    return
  train = experiment.subset("train")
  chosen = [int(train[i]) for i in montage.spread(len(train), _SCANS)]
  longest = int(experiment.record_set.lengths[chosen].max())
  shape = plan.PackShape(1, longest, 1, longest, 1)

  @functools.partial(jax.jit, static_argnums=1)
  def vary(batch, varied, key, middle):
    slices = step.dequantise(batch, settings.zero_code, settings.standard)
    if varied:
      slices = augment.vary_batch(slices, batch, key, ranges)
    return slices[0, middle]

  root = jax.random.key(settings.seed)
  kept: dict[str, Any] = {
    "ranges": np.array(json.dumps(dataclasses.asdict(ranges)))
  }
  for index in chosen:
    batch = packing.pack_batch(
      np.array([[index]], np.int32),
      experiment.record_set.__getitem__,
      experiment.targets,
      shape,
      slice_shape=experiment.record_set.slice_shape,
      dtype=experiment.record_set.dtype,
      landmarks=settings.standard is not None,
    )
    middle = experiment.record_set.lengths[index] // 2
    shown = [vary(batch, False, root, middle)]
    for draw in range(_DRAWS):
      key = jax.random.fold_in(root, draw)
      shown.append(vary(batch, True, key, middle))
    kept[f"{index}"] = np.stack(jax.device_get(shown))
  if not processes.is_first():
    return
  path = draws_file(experiment.workdir)
  with records.replacing(path) as partial, open(partial, "wb") as file:
    np.savez_compressed(file, **kept)


def draws_file(workdir: pathlib.Path) -> pathlib.Path:
  """Returns where the draws of a run are."""
  return workdir / "augmentation.npz"
