"""Reading ahead: threads read and pack batches and put them on the device.

The order of batches is a pure function of (seed, step). The step is thus the
whole state of an iterator, and a restart needs nothing else.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from brainjax.input import packing
from brainjax.input import plan as plan_lib
from brainjax.input.sampling import Sampling
from brainjax.records import RecordSet

Put = Callable[[dict[str, np.ndarray]], Any]
RowsOf = Callable[[int], np.ndarray]


def training_rows(
  lengths: np.ndarray,
  subset: np.ndarray,
  shape: plan_lib.PackShape,
  *,
  seed: int,
  packs: np.ndarray,
  sampling: Sampling | None = None,
) -> RowsOf:
  """Returns the order: a function from a step to i32[g,B] draws, see `draws`.

  Args:
    lengths: i32[R] slices of each record.
    subset: i64[T] record indices of the training split.
    shape: What `plan_shape` returned for the lengths of `subset`.
    seed: Of the order.
    packs: i64[g], which of the G packs of a step this process reads.
    sampling: Of `subset`; None to see every scan once an epoch.
  """

  # Two: while one epoch ends, batches of the next are already being read.
  @functools.lru_cache(maxsize=2)
  def plan_of(epoch: int) -> np.ndarray:
    plan = plan_lib.epoch_plan(lengths[subset], seed, epoch, shape, sampling)
    return _record_indices(plan, subset)

  def rows_of(step: int) -> np.ndarray:
    epoch, place = divmod(step, shape.steps_per_epoch)
    # Of all packs, so that it does not matter who reads which.
    return draws(plan_of(epoch)[place], len(lengths))[packs]

  return rows_of


def draws(rows: np.ndarray, num_records: int) -> np.ndarray:
  """Tells the draws of a scan apart that a step has more than once.

  The first is its record index, the second that plus `num_records`, and so on.

  >>> draws(np.array([[4, 2, 4], [4, -1, 0]], np.int32), 10)
  array([[ 4,  2, 14],
         [24, -1,  0]], dtype=int32)

  Args:
    rows: i32[G,B] record indices of a step, -1 = no scan.
    num_records: R.

  Returns:
    i32[G,B]; -1 stays.
  """
  flat = rows.ravel()
  order = np.argsort(flat, kind="stable")
  ranked = flat[order]
  earlier = np.empty_like(flat)
  earlier[order] = np.arange(len(flat)) - np.searchsorted(ranked, ranked)
  return np.where(
    rows < 0, -1, rows + num_records * earlier.reshape(rows.shape)
  )


def training_batches(
  record_set: RecordSet,
  rows_of: RowsOf,
  labels: np.ndarray,
  shape: plan_lib.PackShape,
  *,
  first_step: int,
  num_steps: int,
  read_threads: int,
  prefetch_steps: int,
  put: Put,
  landmarks: bool = False,
) -> grain.DatasetIterator[Any]:
  """Yields the batches of steps `first_step` to `num_steps - 1`.

  Reading starts at once. `close()` ends it; so does losing the iterator.
  Memory does not grow with the steps: at most `batches_in_flight` batches of
  `batch_bytes` are alive, whatever the size of the set.

  Args:
    record_set: The scans.
    rows_of: The order; see `training_rows`.
    labels: i32[R] class index of each record, -1 = unknown.
    shape: Of a batch.
    first_step: The first step to take.
    num_steps: Steps of the whole run.
    read_threads: Batches being read at a time, a thread each.
    prefetch_steps: Batches kept ready besides.
    put: The one crossing: host batch to device batch. Threads call it.
    landmarks: As of `packing.pack_batch`.
  """
  load = _loader(rows_of, record_set, labels, shape, put, landmarks)
  steps = range(first_step, num_steps)
  return read_ahead(steps, load, read_threads, prefetch_steps)


def batches_in_flight(read_threads: int, prefetch_steps: int) -> int:
  """Returns how many batches are alive at most, the step's own among them."""
  return read_threads + prefetch_steps + 1


def batch_bytes(record_set: RecordSet, shape: plan_lib.PackShape) -> int:
  """Returns the size of the slices of a batch; the rest of it is small."""
  slots = shape.packs * shape.slices
  return slots * math.prod(record_set.slice_shape) * record_set.dtype.itemsize


def evaluation_batches(
  record_set: RecordSet,
  subset: np.ndarray,
  labels: np.ndarray,
  shape: plan_lib.PackShape,
  *,
  packs: np.ndarray,
  read_threads: int,
  prefetch_steps: int,
  put: Put,
  landmarks: bool = False,
) -> grain.DatasetIterator[Any]:
  """Yields every scan of `subset` once; none, if it is empty.

  Args:
    record_set: The scans.
    subset: i64[T] record indices.
    labels: i32[R] class index of each record, -1 = unknown.
    shape: Of a batch, as in training.
    packs: i64[g], which packs of a batch this process reads.
    read_threads: Batches being read at a time, a thread each.
    prefetch_steps: Batches kept ready besides.
    put: The one crossing: host batch to device batch. Threads call it.
    landmarks: As of `packing.pack_batch`.
  """
  plan = plan_lib.evaluation_plan(record_set.lengths[subset], shape)
  rows = _record_indices(plan, subset)[:, packs]
  load = _loader(rows.__getitem__, record_set, labels, shape, put, landmarks)
  return read_ahead(range(len(rows)), load, read_threads, prefetch_steps)


def _record_indices(plan: np.ndarray, subset: np.ndarray) -> np.ndarray:
  """Turns indices into the subset into record indices; -1 stays."""
  return np.append(subset, -1)[plan]


def _loader(
  rows_of: RowsOf,
  record_set: RecordSet,
  labels: np.ndarray,
  shape: plan_lib.PackShape,
  put: Put,
  landmarks: bool,
) -> Callable[[int], Any]:
  def load(step: int) -> Any:
    batch = packing.pack_batch(
      rows_of(step),
      record_set.__getitem__,
      labels,
      shape,
      slice_shape=record_set.slice_shape,
      dtype=record_set.dtype,
      landmarks=landmarks,
    )
    return put(batch)

  return load


def read_ahead(
  steps: range,
  load: Callable[[int], Any],
  read_threads: int,
  prefetch_steps: int,
) -> grain.DatasetIterator[Any]:
  """Yields `load(step)` in the order of `steps`, from threads that run ahead.

  Args:
    steps: What to load.
    load: Makes one batch; called from threads.
    read_threads: Batches being made at a time.
    prefetch_steps: Batches kept ready besides.
  """
  # An element is a whole batch: grain's defaults would read 500 of them.
  options = grain.ReadOptions(
    num_threads=read_threads,
    prefetch_buffer_size=read_threads + prefetch_steps,
  )
  dataset = grain.MapDataset.source(steps).map(load).to_iter_dataset(options)
  iterator = iter(dataset)
  iterator.start_prefetch()
  return iterator
