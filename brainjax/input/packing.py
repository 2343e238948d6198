"""Packing: the scans of one step as the arrays that cross to the device."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from brainjax.input.plan import PackShape
from brainjax.records import (
  BACKGROUND_CODES,
  ZERO_CODES,
  Record,
  unpack_bits,
)

ALIGNMENT = 64  # bytes; a CPU device copies what is not aligned so


@dataclasses.dataclass(frozen=True)
class StoredScan:
  """What packing needs of a scan whose slices are on the devices already.

  Attributes:
    slices: i32[S] its rows of the store; see `resident.load`.
    scale: As in its record.
    positions_mm: As in its record.
    present: As in its record.
    landmarks: f32[C,11] as of `Record.z_landmarks`; None if not asked for.
  """

  slices: np.ndarray
  scale: float
  positions_mm: np.ndarray
  present: np.ndarray
  landmarks: np.ndarray | None = None

  def z_landmarks(self) -> np.ndarray | None:
    """Returns the landmarks."""
    return self.landmarks


def aligned_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
  """Returns an array of undefined content that a CPU device takes uncopied.

  Once put on a device it must not be written to again, for it may then be
  the device's own.
  """
  num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
  memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % ALIGNMENT
  return memory[start : start + num_bytes].view(dtype).reshape(shape)


def pack_batch(
  rows: np.ndarray,
  read: Callable[[int], Record | StoredScan],
  labels: np.ndarray,
  shape: PackShape,
  *,
  slice_shape: tuple[int, int, int],
  dtype: np.dtype,
  filler_row: int | None = None,
  landmarks: bool = False,
) -> dict[str, np.ndarray]:
  """Reads the scans of a step and lays their slices end to end.

  Args:
    rows: i32[G,B] draws, see `pipeline.draws`, -1 = no scan.
    read: Returns the record of an index.
    labels: i32[R] class index of each record, -1 = unknown.
    shape: Sizes of the batch.
    slice_shape: (H, W, C).
    dtype: Of the slices: u8, i16, or f32 of features.
    filler_row: Of stored scans, the row of the store that filler takes.
    landmarks: For intensities that are standardised on the device.

  Returns:
    slices: u8|i16[G,N,H,W,C] codes, or f32[G,N,1,1,D] features; filler is
      the code of zero. Of stored scans i32[G,N], their rows of the store.
    owner: i32[G,N] row within the pack; B for filler.
    position: i32[G,N] place within the scan; filler has unique ones of S and
      more, so that a scatter to [B,S] drops them.
    positions_mm: f32[G,N] along the slice axis; 0 for filler.
    label: i32[G,B]; -1 = unknown, or no scan.
    weight: f32[G,B]; 1 = a scan, 0 = none.
    length: i32[G,B] slices.
    record_index: i32[G,B]; -1 = none.
    draw: i32[G,B] `rows`, from which all that is random of a scan derives.
    scale: f32[G,B+1] standard deviations a code step; 0 for no scan and, at
      B, for filler.
    present: u8[G,B+1,C], 1 where the modality was there; 0 for no scan and
      filler. Only if there are several channels, and not of features.
    landmarks: f32[G,B+1,C,11], see `Record.z_landmarks`; 0 for no scan and
      filler. Only if asked for; the background of `slices` is then marked by
      a code of its own, see `marked_slices`.

  Raises:
    ValueError: A scan does not fit.
  """
  num_packs, num_rows = rows.shape
  indices = np.where(rows < 0, -1, rows % max(len(labels), 1))
  slots = (num_packs, shape.slices)
  if filler_row is None:
    filler = ZERO_CODES[np.dtype(dtype)]
    store = aligned_empty((*slots, *slice_shape), dtype)
  else:
    filler = filler_row
    store = np.empty(slots, np.int32)
  batch = {
    "slices": store,
    "owner": np.full(slots, num_rows, np.int32),
    "position": np.tile(
      np.arange(shape.slices, dtype=np.int32) + shape.longest, (num_packs, 1)
    ),
    "positions_mm": np.zeros(slots, np.float32),
    "label": np.append(labels, -1)[indices].astype(np.int32),
    "weight": (rows >= 0).astype(np.float32),
    "length": np.zeros(rows.shape, np.int32),
    "record_index": indices.astype(np.int32),
    "draw": rows.astype(np.int32),
    "scale": np.zeros((num_packs, num_rows + 1), np.float32),
  }
  channels = slice_shape[-1]
  masked = channels > 1 and np.dtype(dtype) != np.float32
  if masked:
    batch["present"] = np.zeros((num_packs, num_rows + 1, channels), np.uint8)
  if landmarks:
    batch["landmarks"] = np.zeros(
      (num_packs, num_rows + 1, channels, 11), np.float32
    )
  for pack, scans in enumerate(indices.tolist()):
    end = 0
    for row, record_index in enumerate(scans):
      if record_index < 0:
        continue
      record = read(record_index)
      length = len(record.slices)
      start, end = end, end + length
      # Checked, for numpy broadcasts one slice into no slot without a word,
      # and a scatter to [B,S] drops what is beyond S.
      if end > shape.slices or length > shape.longest:
        raise ValueError(
          f"record {record_index} of {length} slices does not fit: a scan has"
          f" at most {shape.longest}, and {start} of the pack's {shape.slices}"
          " are taken"
        )
      slices = record.slices
      if landmarks and isinstance(record, Record):
        slices = marked_slices(record)  # those of a store are marked already
      batch["slices"][pack, start:end] = slices
      batch["positions_mm"][pack, start:end] = record.positions_mm
      batch["length"][pack, row] = length
      batch["scale"][pack, row] = record.scale
      if masked:
        batch["present"][pack, row] = record.present
      if landmarks:
        batch["landmarks"][pack, row] = record.z_landmarks()
    batch["slices"][pack, end:] = filler
    lengths = batch["length"][pack]
    batch["owner"][pack, :end] = np.repeat(np.arange(num_rows), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    batch["position"][pack, :end] = np.arange(end) - starts
  return batch


def marked_slices(record: Record) -> np.ndarray:
  """Returns u8|i16[S,H,W,C] slices, the background of `BACKGROUND_CODES`."""
  brain = unpack_bits(record.brain_mask, record.slices.shape[2])
  code = record.slices.dtype.type(BACKGROUND_CODES[record.slices.dtype])
  return np.where(brain[..., None], record.slices, code)
