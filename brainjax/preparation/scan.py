"""One scan -> one record: what preparation does, in its order."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from brainjax import InputError, records
from brainjax.cohort.manifest import Manifest, image_files
from brainjax.preparation import brain_mask, intensity, region, slices
from brainjax.preparation.reading import read_mask, read_volume
from brainjax.preparation.volume import ScanError

_CHOICES = {
  "plane": ("axial", "coronal", "sagittal"),
  "crop": ("brain", "none"),
  "slices": ("all", "uniform", "every"),
  "dtype": ("u8", "i16"),
}
_AT_LEAST_ONE = ("height", "width", "num_slices", "shard_scans")
_POSITIVE = ("every_mm", "intensity_limit")


def prepare_scan(
  manifest: Manifest,
  row: Mapping[str, str],
  config: Any,
) -> records.Record:
  """Prepares the scan of one row; it writes nothing.

  Args:
    manifest: The manifest.
    row: One of its rows.
    config: The section `preparation` of the config.

  Raises:
    InputError: The scan cannot be prepared; names the file.
  """
  modality = modality_of(manifest, config)
  files = image_files(manifest, row, modality)
  if not files:
    scan = f"{row['participant_id']} {row['session_id']}".strip()
    raise ScanError(manifest.path, f"{scan} has no image in column {modality}")
  volume = read_volume(files)
  mask_files = image_files(manifest, row, "mask")
  tumour = read_mask(mask_files, volume) if mask_files else None
  brain = brain_mask.brain_mask(volume)
  values = volume.array[brain]
  if values.min() == values.max():
    raise ScanError(files[0], f"every voxel of the brain is {values[0]:g}")
  mean, deviation = intensity.brain_statistics(values)

  known = volume.affine is not None
  if not known and config.slices == "every":
    raise ScanError(
      files[0],
      "2-D images have no spacing; set config.preparation.slices=uniform",
    )
  box = region.find_region(
    brain,
    volume.spacing_mm,
    plane=config.plane if known else None,
    crop=config.crop,
    margin_mm=config.margin_mm,
    height=config.height,
    width=config.width,
  )
  spacing_mm = float(volume.spacing_mm[box.axes.slice])
  index = slices.choose_slices(
    box.slices,
    spacing_mm,
    how=config.slices,
    num_slices=config.num_slices,
    every_mm=config.every_mm,
  )

  def taken(array: np.ndarray) -> np.ndarray:
    stack = slices.take_slices(array, box.axes, index)
    return stack.astype(np.float32, copy=False)

  limit = config.intensity_limit
  inside = taken(brain)
  z = intensity.standardise(taken(volume.array), mean, deviation, limit)
  share = slices.resample(inside, box)
  in_brain = share >= 0.5
  # The mean over the brain's part of a pixel: air does not darken its edge.
  total = slices.resample(z * inside, box)
  z = np.divide(total, share, out=np.zeros_like(share), where=in_brain)
  codes, step = intensity.quantise(z, config.dtype, limit)
  mask = None
  if tumour is not None:
    mask = records.pack_bits(slices.resample(taken(tumour), box) >= 0.5)
  return records.Record(
    slices=codes[..., None],
    scale=step,
    positions_mm=((index - box.centre) * spacing_mm).astype(np.float32),
    positions_known=known,
    present=np.ones(1, np.uint8),
    brain_mask=records.pack_bits(in_brain),
    landmarks=intensity.landmarks(values)[None],
    participant_id=row["participant_id"],
    session_id=row["session_id"],
    group_id=row["group_id"],
    label=row["label"],
    geometry=slices.geometry_of(volume, box, index),
    mask=mask,
  )


def check_config(config: Any) -> None:
  """Raises `InputError` if a field of the section has no meaning."""
  for name, legal in _CHOICES.items():
    if config[name] not in legal:
      raise InputError(
        f"config.preparation.{name}={config[name]}: choose one of"
        f" {', '.join(legal)}"
      )
  for name in _AT_LEAST_ONE:
    if config[name] < 1:
      raise InputError(f"config.preparation.{name}: must be at least 1")
  for name in _POSITIVE:
    if not config[name] > 0:
      raise InputError(f"config.preparation.{name}: must be above 0")
  if not config.margin_mm >= 0:
    raise InputError("config.preparation.margin_mm: must not be negative")


def modality_of(manifest: Manifest, config: Any) -> str:
  """Returns the image column to prepare."""
  columns = manifest.modalities
  if config.modality in columns:
    return config.modality
  if not config.modality and len(columns) == 1:
    return columns[0]
  wrong = "choose" if not config.modality else f"no {config.modality!r}; choose"
  raise InputError(
    f"{manifest.path}: its image columns are {', '.join(columns)}; {wrong} one"
    " with --config.preparation.modality"
  )
