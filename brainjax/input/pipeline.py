"""Reading ahead: threads read and pack batches and put them on the device.

The order of batches is a pure function of (seed, step). The step is thus the
whole state of an iterator, and a restart needs nothing else.
"""

import functools
from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from brainjax.input import packing
from brainjax.input import plan as plan_lib
from brainjax.records import RecordSet

Put = Callable[[dict[str, np.ndarray]], Any]


def training_batches(
  record_set: RecordSet,
  subset: np.ndarray,
  labels: np.ndarray,
  shape: plan_lib.PackShape,
  *,
  seed: int,
  first_step: int,
  num_steps: int,
  read_threads: int,
  prefetch_steps: int,
  put: Put,
) -> grain.DatasetIterator[Any]:
  """Yields the batches of steps `first_step` to `num_steps - 1`.

  Reading starts at once. `close()` ends it; so does losing the iterator.

  Args:
    record_set: The scans.
    subset: i64[T] record indices of the training split.
    labels: i32[R] class index of each record, -1 = unknown.
    shape: What `plan_shape` returned for the lengths of `subset`.
    seed: Of the order.
    first_step: The first step to take.
    num_steps: Steps of the whole run.
    read_threads: Batches being read at a time, a thread each.
    prefetch_steps: Batches kept ready besides.
    put: The one crossing: host batch to device batch. Threads call it.
  """
  lengths = record_set.lengths[subset]

  # Two: while one epoch ends, batches of the next are already being read.
  @functools.lru_cache(maxsize=2)
  def plan_of(epoch: int) -> np.ndarray:
    plan = plan_lib.epoch_plan(lengths, seed, epoch, shape)
    return _record_indices(plan, subset)

  def rows_of(step: int) -> np.ndarray:
    epoch, place = divmod(step, shape.steps_per_epoch)
    return plan_of(epoch)[place]

  return _read_ahead(
    range(first_step, num_steps),
    rows_of,
    record_set,
    labels,
    shape,
    read_threads,
    prefetch_steps,
    put,
  )


def evaluation_batches(
  record_set: RecordSet,
  subset: np.ndarray,
  labels: np.ndarray,
  shape: plan_lib.PackShape,
  *,
  read_threads: int,
  prefetch_steps: int,
  put: Put,
) -> grain.DatasetIterator[Any]:
  """Yields every scan of `subset` once; none, if it is empty.

  Args:
    record_set: The scans.
    subset: i64[T] record indices.
    labels: i32[R] class index of each record, -1 = unknown.
    shape: Of a batch, as in training.
    read_threads: Batches being read at a time, a thread each.
    prefetch_steps: Batches kept ready besides.
    put: The one crossing: host batch to device batch. Threads call it.
  """
  plan = plan_lib.evaluation_plan(record_set.lengths[subset], shape)
  rows = _record_indices(plan, subset)
  return _read_ahead(
    range(len(rows)),
    rows.__getitem__,
    record_set,
    labels,
    shape,
    read_threads,
    prefetch_steps,
    put,
  )


def _record_indices(plan: np.ndarray, subset: np.ndarray) -> np.ndarray:
  """Turns indices into the subset into record indices; -1 stays."""
  return np.append(subset, -1)[plan]


def _read_ahead(
  steps: range,
  rows_of: Callable[[int], np.ndarray],
  record_set: RecordSet,
  labels: np.ndarray,
  shape: plan_lib.PackShape,
  read_threads: int,
  prefetch_steps: int,
  put: Put,
) -> grain.DatasetIterator[Any]:
  def load(step: int) -> Any:
    batch = packing.pack_batch(
      rows_of(step),
      record_set.__getitem__,
      labels,
      shape,
      slice_shape=record_set.slice_shape,
      dtype=record_set.dtype,
    )
    return put(batch)

  # An element is a whole batch: grain's defaults would read 500 of them.
  options = grain.ReadOptions(
    num_threads=read_threads,
    prefetch_buffer_size=read_threads + prefetch_steps,
  )
  dataset = grain.MapDataset.source(steps).map(load).to_iter_dataset(options)
  iterator = iter(dataset)
  iterator.start_prefetch()
  return iterator
