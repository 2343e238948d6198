"""The training slices kept on the devices: batches without the bus.

A set of integers that fits is read once. A batch is then a gather on the
device, and what crosses to it is the plan: a few kilobytes of row numbers. The
order and every array of a batch are those of `pipeline.training_batches`.
"""

import concurrent.futures
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from brainjax import InputError
from brainjax.input import packing, pipeline
from brainjax.input import plan as plan_lib
from brainjax.records import ZERO_CODES, RecordSet

MODES = ("auto", "resident", "streaming")
MEMORY_SHARE = 0.3  # of a device; the rest is for the step


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where the training slices are.

  Attributes:
    resident: On the devices; otherwise each batch is read when it is due.
    dealt: Each device holds its share; otherwise each holds all of them.
    num_bytes: Of all training slices.
  """

  resident: bool
  dealt: bool
  num_bytes: int


def choose_placement(
  mode: str,
  num_bytes: int,
  *,
  limit_bytes: float,
  num_devices: int,
  num_processes: int,
) -> Placement:
  """Decides where the training slices go.

  Every device gets all of them if that fits, for then devices need not speak
  to each other; else each gets its share, if that fits.

  Args:
    mode: One of `MODES`. "auto" streams what does not fit.
    num_bytes: Of all training slices.
    limit_bytes: What a device may hold of them.
    num_devices: Of the data axis.
    num_processes: Several always stream.

  Raises:
    InputError: "resident" is asked for and not possible.
  """
  if mode == "resident" and num_processes > 1:
    raise InputError(
      f"config.data.mode='resident': works in one process, this run has"
      f" {num_processes}; set it to 'streaming'"
    )
  if mode == "streaming" or num_processes > 1:
    return Placement(False, False, num_bytes)
  if num_bytes <= limit_bytes:
    return Placement(True, False, num_bytes)
  share = num_bytes / num_devices
  if share <= limit_bytes:
    return Placement(True, True, num_bytes)
  if mode == "resident":
    raise InputError(
      f"config.data.mode='resident': a device would hold {share / 1e9:.2f} GB"
      f" of the training slices and may hold {limit_bytes / 1e9:.2f}; raise"
      " config.data.resident_gb, or set the mode to 'streaming'"
    )
  return Placement(False, False, num_bytes)


def default_limit(mode: str, memory_stats: Mapping[str, int] | None) -> float:
  """Returns the bytes of slices that a device may hold unless told otherwise.

  `MEMORY_SHARE` of an accelerator. A CPU's memory is the records' page cache
  as well: "auto" leaves it alone, and "resident" may have what it needs.

  Args:
    mode: One of `MODES`.
    memory_stats: Of a device, as jax gives them; None, or without a limit, of
      a CPU.
  """
  if memory_stats is not None and "bytes_limit" in memory_stats:
    return MEMORY_SHARE * memory_stats["bytes_limit"]
  return math.inf if mode == "resident" else 0


def slices_bytes(record_set: RecordSet, subset: np.ndarray) -> int:
  """Returns the bytes of all slices of a subset, i64[T] record indices."""
  one = math.prod(record_set.slice_shape) * record_set.dtype.itemsize
  return int(record_set.lengths[subset].sum()) * one


def load(
  record_set: RecordSet,
  subset: np.ndarray,
  *,
  multiple_of: int,
  read_threads: int,
  landmarks: bool = False,
) -> tuple[np.ndarray, dict[int, packing.StoredScan]]:
  """Reads all slices of a subset; host memory holds them once, for a while.

  A CPU device takes the rows uncopied: they must not be written to.

  Args:
    record_set: The scans.
    subset: i64[T] record indices.
    multiple_of: What the number of rows is rounded up to.
    read_threads: Scans read at a time.
    landmarks: As of `packing.pack_batch`.

  Returns:
    u8|i16|f32[R,H,W,C] slices, scan after scan, then at least one of zeros,
    for filler; and by record index where each scan lies.
  """
  lengths = record_set.lengths[subset]
  ends = np.cumsum(lengths, dtype=np.int64)
  num_rows = -(-(int(ends[-1]) + 1) // multiple_of) * multiple_of
  rows = packing.aligned_empty(
    (num_rows, *record_set.slice_shape), record_set.dtype
  )
  rows[ends[-1] :] = ZERO_CODES[record_set.dtype]

  def read(place: int) -> packing.StoredScan:
    record = record_set[int(subset[place])]
    start, end = int(ends[place] - lengths[place]), int(ends[place])
    rows[start:end] = (
      packing.marked_slices(record) if landmarks else record.slices
    )
    return packing.StoredScan(
      slices=np.arange(start, end, dtype=np.int32),
      scale=record.scale,
      positions_mm=record.positions_mm,
      present=record.present,
      landmarks=record.z_landmarks() if landmarks else None,
    )

  with concurrent.futures.ThreadPoolExecutor(read_threads) as pool:
    scans = list(pool.map(read, range(len(subset))))
  return rows, dict(zip(subset.tolist(), scans, strict=True))


def training_batches(
  store: jax.Array,
  scans: Mapping[int, packing.StoredScan],
  take: Callable[[jax.Array, jax.Array], jax.Array],
  record_set: RecordSet,
  rows_of: pipeline.RowsOf,
  labels: np.ndarray,
  shape: plan_lib.PackShape,
  *,
  first_step: int,
  num_steps: int,
  prefetch_steps: int,
  put: pipeline.Put,
  landmarks: bool = False,
) -> Iterator[Any]:
  """Yields the batches of steps `first_step` to `num_steps - 1`.

  Args:
    store: The rows of `load`, on the devices.
    scans: Where each scan lies; see `load`.
    take: (store, i32[G,N] rows) to [G,N,H,W,C] slices, on the devices.
    record_set: The scans.
    rows_of: The order; see `pipeline.training_rows`.
    labels: i32[R] class index of each record, -1 = unknown.
    shape: Of a batch.
    first_step: The first step to take.
    num_steps: Steps of the whole run.
    prefetch_steps: Batches kept ready; without their slices, if there are
      several devices.
    put: The one crossing: host batch to device batch. A thread calls it.
    landmarks: As of `load`.
  """
  filler_row = sum(len(scan.slices) for scan in scans.values())
  # In the thread with one device only: two threads that start collectives can
  # start them in another order on another device, and wait for ever.
  ahead = len(store.sharding.device_set) == 1

  def with_slices(batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"slices": take(store, batch["slices"])}

  def load_rows(step: int) -> Any:
    batch = packing.pack_batch(
      rows_of(step),
      scans.__getitem__,
      labels,
      shape,
      slice_shape=record_set.slice_shape,
      dtype=record_set.dtype,
      filler_row=filler_row,
      landmarks=landmarks,
    )
    return with_slices(put(batch)) if ahead else put(batch)

  steps = range(first_step, num_steps)
  with contextlib.closing(
    pipeline.read_ahead(steps, load_rows, 1, prefetch_steps)
  ) as batches:
    for batch in batches:
      yield batch if ahead else with_slices(batch)
