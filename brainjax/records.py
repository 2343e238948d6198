"""The record: one prepared scan as bytes, and the folder that holds many.

A record is what preparation hands to training: integer slices and all that is
needed to undo the preparation. Its bytes are safetensors with JSON metadata,
so reading one never runs code. A folder of records is

    shard-00000.zip ...   records, uncompressed
    index.json            schema, config, lengths, hashes
    manifest.csv          the manifest's rows plus `record_index`
    rejected.csv          scans that could not be prepared, and why
    warnings.csv          scans of which something is suspicious

The features of an encoder are kept in the same way (`brainjax encode`): each
slice is then one pixel of D float32 channels, and `index.json` says in
"encoder" whose they are and what records they were made from.
"""

import contextlib
import csv
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from brainjax import InputError, shards

SCHEMA_VERSION = 3
ZERO_CODES = {
  np.dtype(np.uint8): 127,
  np.dtype(np.int16): 0,
  np.dtype(np.float32): 0,  # features, which have no codes
}
# Codes that no intensity has: a batch may mark the background with them, as
# the brain has pixels of `zero_code` too.
BACKGROUND_CODES = {np.dtype(np.uint8): 255, np.dtype(np.int16): -(2**15)}
_ARRAYS = {
  "slices": None,
  "positions_mm": np.float32,
  "present": np.uint8,
  "brain_mask": np.uint8,
  "landmarks": np.float32,
}
_OPTIONAL_ARRAYS = {"mask": np.uint8, "moments": np.float32}
_SAFETENSORS_DTYPES = {"U8": np.uint8, "I16": np.int16, "F32": np.float32}
_OPEN_SHARDS = 512  # at a time: half of the files a process may usually open
_TEXT = ("participant_id", "session_id", "group_id", "label")


@dataclasses.dataclass(frozen=True)
class Record:
  """One scan, ready for training.

  Attributes:
    slices: u8|i16[S,H,W,C] codes; value = (code - zero_code) * scale, in
      standard deviations of the brain's intensity. Background is zero_code.
      Or f32[S,1,1,D] features of the slices, of scale 1.
    scale: Standard deviations a code step.
    positions_mm: f32[S] along the slice axis, 0 = brain centre.
    positions_known: False where the source says nothing of millimetres, as
      for 2-D images; positions_mm is then nominal.
    present: u8[C], 1 where the modality was there. Of features, too, C
      counts the modalities that they were made from.
    brain_mask: u8[S,H,ceil(W/8)] bits (`numpy.packbits`).
    landmarks: f32[C,11] intensity percentiles 1, 10, 20, ..., 90, 99 in the
      brain, before standardisation, in the scanner file's units.
    participant_id: Person, as in the manifest.
    session_id: Visit, "" if there is only one.
    group_id: The unit that may never straddle a split.
    label: As in the manifest; "" = unknown.
    geometry: How a pixel maps back to the scanner file; see
      `preparation/slices.py`. Not to be changed: records read from a file
      share it.
    mask: u8[S,H,ceil(W/8)] bits of the tumour, or None.
    moments: f32[C,2] mean and standard deviation of the brain's intensity, in
      the scanner file's units; what z-scores were made with. None in records
      of before they were kept.
  """

  slices: np.ndarray
  scale: float
  positions_mm: np.ndarray
  positions_known: bool
  present: np.ndarray
  brain_mask: np.ndarray
  landmarks: np.ndarray
  participant_id: str
  session_id: str
  group_id: str
  label: str
  geometry: dict[str, Any]
  mask: np.ndarray | None = None
  moments: np.ndarray | None = None

  def __post_init__(self):
    num_slices, height, width, num_channels = self.slices.shape
    if self.slices.dtype == np.float32:
      num_channels = len(self.present)
    bits = (num_slices, height, -(-width // 8))
    expected = {
      "positions_mm": (num_slices,),
      "present": (num_channels,),
      "brain_mask": bits,
      "landmarks": (num_channels, 11),
    }
    if self.mask is not None:
      expected["mask"] = bits
    if self.moments is not None:
      expected["moments"] = (num_channels, 2)
    for name, shape in expected.items():
      if getattr(self, name).shape != shape:
        raise ValueError(
          f"record of {self.participant_id}: {name} has shape"
          f" {getattr(self, name).shape}, expected {shape}"
        )
    if self.slices.dtype not in ZERO_CODES:
      raise ValueError(
        f"record of {self.participant_id}: slices are {self.slices.dtype},"
        f" expected one of {[str(d) for d in ZERO_CODES]}"
      )

  @property
  def zero_code(self) -> int:
    """The code whose value is exactly 0."""
    return ZERO_CODES[self.slices.dtype]

  def intensities(self) -> np.ndarray:
    """Returns f32[S,H,W,C] z-scores."""
    codes = self.slices.astype(np.float32) - self.zero_code
    return codes * np.float32(self.scale)

  def z_landmarks(self) -> np.ndarray:
    """Returns f32[C,11] landmarks as z-scores, 0 for an absent modality.

    Raises:
      InputError: The record is of before its moments were kept.
    """
    if self.moments is None:
      raise InputError(
        f"record of {self.participant_id}: it keeps no mean and deviation of"
        " its intensities; run `brainjax prepare` again, into another folder"
      )
    mean, deviation = self.moments.astype(np.float64).T
    there = self.present.astype(bool) & (deviation > 0)
    z = (self.landmarks - mean[:, None]) / np.where(there, deviation, 1)[
      :, None
    ]
    return np.where(there[:, None], z, 0).astype(np.float32)


def encode(record: Record) -> bytes:
  """Returns the record as safetensors bytes."""
  arrays = {
    name: np.ascontiguousarray(getattr(record, name), dtype)
    for name, dtype in _ARRAYS.items()
  }
  for name, dtype in _OPTIONAL_ARRAYS.items():
    if getattr(record, name) is not None:
      arrays[name] = np.ascontiguousarray(getattr(record, name), dtype)
  facts = {name: getattr(record, name) for name in _TEXT}
  facts |= {
    "schema_version": SCHEMA_VERSION,
    "scale": record.scale,
    "positions_known": record.positions_known,
    "geometry": record.geometry,
  }
  # One key: the library does not keep the order of several.
  metadata = {"record": json.dumps(facts, sort_keys=True)}
  return safetensors.numpy.save(arrays, metadata=metadata)


def decode(data: bytes) -> Record:
  """Reads what `encode` wrote; slices and masks are read-only views of `data`.

  The library would copy them, and hold up all other threads that read.

  Raises:
    ValueError: The bytes are not a record.
    InputError: They are one of another schema version.
  """
  start = 8 + int.from_bytes(data[:8], "little")
  try:
    entries, facts = _header(data[8:start])
    arrays = {
      name: _array(memoryview(data)[start:], **entry)
      for name, entry in entries.items()
    }
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(f"not a brainjax record: {error}") from error
  return Record(**arrays, **facts)


# What an epoch parses, later ones find: some 10 kB a record. Its key is the
# text itself, so a record that was replaced is parsed anew.
@functools.lru_cache(maxsize=8192)
def _header(text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns what is said of the arrays, by name, and of the scan."""
  entries = json.loads(text)
  facts = json.loads(entries.pop("__metadata__")["record"])
  _check_schema(facts.pop("schema_version"), "a record")
  return entries, facts


def _array(
  data: memoryview, dtype: str, shape: Sequence[int], data_offsets: list[int]
) -> np.ndarray:
  """Returns one array of a safetensors file; fields are as in its header."""
  first, last = data_offsets
  array = np.frombuffer(data[first:last], _SAFETENSORS_DTYPES[dtype])
  array = array.reshape(shape)
  # Who keeps positions or landmarks must not keep the slices with them.
  return array if array.ndim > 2 else array.copy()


def pack_bits(mask: np.ndarray) -> np.ndarray:
  """Packs bool[...,W] into u8[...,ceil(W/8)]."""
  return np.packbits(mask, axis=-1)


def unpack_bits(bits: np.ndarray, width: int) -> np.ndarray:
  """Unpacks u8[...,ceil(W/8)] into bool[...,W]."""
  return np.unpackbits(bits, axis=-1, count=width).astype(bool)


class RecordSet:
  """A folder of records, read lazily and from any thread.

  Attributes:
    path: The folder.
    index: Content of `index.json`.
    rows: The manifest's rows, one a record, in record order.
    lengths: i32[R] slices of each record.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Opens the folder; `InputError` names the command to run if it is bad."""
    self.path = pathlib.Path(path)
    self._shard = functools.lru_cache(_OPEN_SHARDS)(self._open)
    index_file = self.path / "index.json"
    if not index_file.is_file():
      raise InputError(
        f"{self.path}: no index.json; run `brainjax prepare MANIFEST --out"
        f" {self.path}` (again) to finish it"
      )
    self.index = json.loads(index_file.read_text())
    _check_schema(self.index["schema_version"], str(self.path))
    with open(self.path / "manifest.csv", newline="", encoding="utf-8") as file:
      self.rows: list[dict[str, str]] = list(csv.DictReader(file))
    self.lengths = np.array(
      [entry["length"] for entry in self.index["records"]], np.int32
    )
    if len(self.rows) != len(self.lengths):
      raise InputError(
        f"{self.path}: manifest.csv has {len(self.rows)} rows, index.json"
        f" {len(self.lengths)} records; run `brainjax prepare` again"
      )

  @property
  def slice_shape(self) -> tuple[int, int, int]:
    """(H, W, C), the same for every record."""
    return tuple(self.index["slice_shape"])

  @property
  def dtype(self) -> np.dtype:
    """Type of the slices: an integer, or float32 of features."""
    return np.dtype(self.index["dtype"])

  @property
  def encoder(self) -> dict[str, Any] | None:
    """Whose features these are, see `write_index`; None for images."""
    return self.index.get("encoder")

  @property
  def num_features(self) -> int | None:
    """D of features; None for images."""
    return None if self.encoder is None else self.slice_shape[-1]

  @property
  def sha256(self) -> str:
    """Identifies the content: a hash over the shards' hashes."""
    text = "".join(shard["sha256"] for shard in self.index["shards"])
    return hashlib.sha256(text.encode()).hexdigest()

  def images(self) -> "RecordSet":
    """Opens the records that features were made from; images are their own.

    Raises:
      InputError: They are gone, incomplete, or others by now.
    """
    if self.encoder is None:
      return self
    record_set = RecordSet(self.encoder["records"])
    if record_set.sha256 != self.encoder["records_sha256"]:
      raise InputError(
        f"{record_set.path}: not the records that the features in {self.path}"
        " were made from (sha256); prepare them again with the same config"
      )
    for shard in record_set.index["shards"]:
      if not (record_set.path / shard["file"]).is_file():
        raise InputError(
          f"{record_set.path / shard['file']}: missing; run `brainjax prepare`"
          " again"
        )
    return record_set

  def __len__(self) -> int:
    return len(self.lengths)

  def __getitem__(self, record_index):
    entry = self.index["records"][record_index]
    return decode(self._shard(entry["shard"]).read(entry["offset"]))

  def _open(self, shard: int) -> shards.Shard:
    return shards.Shard(self.path / self.index["shards"][shard]["file"])


def shard_name(number: int) -> str:
  """Returns the name of a file of records in its folder."""
  return f"shard-{number:05d}.zip"


def write_shard(path: pathlib.Path, records: Iterable[bytes]) -> str:
  """Writes records into one file, whole or not at all.

  Args:
    path: The file; it appears only when complete.
    records: What `encode` returned, in order.

  Returns:
    The file's sha256, in hexadecimal.

  Raises:
    OSError: The file cannot be written.
  """
  with replacing(path) as partial:
    shards.write(partial, records)
  return sha256_of(path)


def write_index(
  folder: pathlib.Path,
  *,
  slice_shape: tuple[int, int, int],
  dtype: str,
  modalities: Sequence[str],
  preparation: dict[str, Any],
  shards: Sequence[dict[str, Any]],
  records: Sequence[dict[str, Any]],
  rejected: Sequence[dict[str, Any]] = (),
  encoder: dict[str, Any] | None = None,
) -> None:
  """Writes `index.json`, the last file of a folder of records.

  Args:
    folder: The folder.
    slice_shape: (H, W, C) of every record.
    dtype: Of the slices: "uint8", "int16" or, of features, "float32".
    modalities: Names of the channels, in order.
    preparation: The preparation config.
    shards: `{"file", "sha256"}` of each shard.
    records: `{"shard", "offset", "length"}` and more facts of each record.
    rejected: Facts of each scan that could not be prepared.
    encoder: Of features, what made them: "workdir", "preset", "step" and
      "checkpoint_sha256" of the run, "encoder_group_ids" it was fitted on and
      "selection_group_ids" it was chosen by; and from what: "records",
      "records_sha256", "slice_shape" and "dtype".
  """
  index: dict[str, Any] = {
    "schema_version": SCHEMA_VERSION,
    "slice_shape": list(slice_shape),
    "dtype": dtype,
    "modalities": list(modalities),
    "preparation": preparation,
    "preparation_sha256": sha256_of_json(preparation),
    "shards": list(shards),
    "records": list(records),
    "rejected": list(rejected),
  }
  if encoder is not None:
    index["encoder"] = encoder
  write_text(folder / "index.json", json.dumps(index, indent=1) + "\n")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Gives a temporary path and renames it to `path` at the end.

  The file at `path` is thus always whole. If the body raises, `path` is
  untouched and the temporary file is gone.
  """
  final = pathlib.Path(path)
  # Another process may be writing the same file.
  partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}.partial")
  try:
    yield partial
    with open(partial, "rb") as file:
      os.fsync(file.fileno())
    os.replace(partial, final)
  finally:
    partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file, whole or not at all."""
  with replacing(path) as partial:
    partial.write_text(text, encoding="utf-8")


def write_csv(
  path: str | os.PathLike[str],
  columns: Sequence[str],
  rows: Iterable[dict[str, Any]],
) -> None:
  """Writes rows as CSV, whole or not at all; missing cells are empty."""
  with (
    replacing(path) as partial,
    open(partial, "w", newline="", encoding="utf-8") as file,
  ):
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def sha256_of(path: str | os.PathLike[str]) -> str:
  """Returns the sha256 of a file, in hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
  """Returns the sha256 of a JSON-compatible value, whatever its key order."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _check_schema(version: int, name: str) -> None:
  if version != SCHEMA_VERSION:
    raise InputError(
      f"{name}: schema version {version}, this brainjax reads"
      f" {SCHEMA_VERSION}; run `brainjax prepare` again"
    )
