"""Scans on their way to a trained model, whose records they need not be."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from brainjax import records
from brainjax.input import pipeline, plan
from brainjax.training import intensity, sharding, standardise, trained


class Supply(NamedTuple):
  """What a model is applied to.

  Attributes:
    variables: Those of the run, on every device.
    batches: On the devices; every scan once.
    shape: Of a batch.
    zero_code: As of `step.dequantise`.
    standard: Likewise, the scale that was fitted on the run's training scans.
  """

  variables: dict[str, Any]
  batches: Iterator[Any]
  shape: plan.PackShape
  zero_code: int
  standard: standardise.Standard | None


def supply(
  run: trained.Trained,
  record_set: records.RecordSet,
  subset: np.ndarray,
  data: ml_collections.ConfigDict,
  *,
  lengths: np.ndarray,
) -> Supply:
  """Reads scans ahead, on all devices.

  Args:
    run: The model.
    record_set: Images.
    subset: i64[T] record indices.
    data: The section of the config; how many are read at a time.
    lengths: i64[L], of the scans that a batch has to suit: those of all subsets
      that are to share one compilation.
  """
  packs = min(jax.device_count(), len(lengths))
  shape = plan.plan_shape(
    lengths,
    packs=packs,
    scans_per_step=max(packs, data.scans_per_step),
    pack_slices=None,
    longest=int(lengths.max()),
  )
  mesh = sharding.make_mesh(packs)
  batches = pipeline.evaluation_batches(
    record_set,
    subset,
    np.full(len(record_set), -1, np.int32),
    shape,
    packs=np.arange(packs),
    read_threads=data.read_threads,
    prefetch_steps=data.prefetch_steps,
    put=sharding.batch_putter(mesh),
    landmarks=run.facts["intensity"] is not None,
  )
  return Supply(
    jax.device_put(run.variables, sharding.replicated(mesh)),
    batches,
    shape,
    records.ZERO_CODES[record_set.dtype],
    intensity.standard_of(
      run.facts["intensity"], record_set.index["modalities"], record_set.dtype
    ),
  )
