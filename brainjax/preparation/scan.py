"""One scan -> one record: what preparation does, in its order."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from brainjax import InputError, records
from brainjax.cohort.manifest import Manifest, image_files, spacing_mm
from brainjax.config import leaf_fields
from brainjax.preparation import (
  bias_field,
  brain_mask,
  intensity,
  region,
  registration,
  search,
  slices,
  template,
)
from brainjax.preparation.reading import read_mask, read_volume
from brainjax.preparation.volume import ScanError, Volume, aligned

# What a brain measures along each axis; an acquired part of it, or a child's,
# may be less, which is why this is a warning.
BRAIN_MM = (60.0, 260.0)
# Of a brain mask that is given: a true one holds some dark fluid besides.
LEAST_TISSUE = 0.6
_AXES = ("left to right", "back to front", "bottom to top")
_CHOICES = {
  "bias_field.method": ("jax", "n3", "sitk", "none"),
  "registration": ("none", "rigid"),
  "plane": ("axial", "coronal", "sagittal"),
  "crop": ("brain", "region", "none"),
  "slices": ("all", "uniform", "every"),
  "dtype": ("u8", "i16"),
}
_AT_LEAST_ONE = ("height", "width", "num_slices", "shard_scans")
_POSITIVE = (
  "bias_field.grid_mm",
  "bias_field.tolerance",
  "every_mm",
  "intensity_limit",
)
_NOT_NEGATIVE = (
  "margin_mm",
  "pixel_mm",
  "region.margin",
  "region.area_mm2",
  "region.length_mm",
  "region.overlap_mm2",
)
FitField = Callable[[pathlib.Path, Volume], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A scan, prepared.

  Attributes:
    record: The record.
    warnings: What is suspicious in its files, a sentence each.
  """

  record: records.Record
  warnings: tuple[str, ...]


def prepare_scan(
  manifest: Manifest,
  row: Mapping[str, str],
  config: Any,
  *,
  fit_field: FitField | None = None,
) -> Prepared:
  """Prepares the scan of one row; it writes nothing.

  The first modality that is there gives the grid, the brain and the region;
  the others are brought onto its grid by their scanner coordinates, or by the
  motion that registration finds besides; with a template, all onto its grid.

  Args:
    manifest: The manifest.
    row: One of its rows.
    config: The section `preparation` of the config.
    fit_field: `(file, volume) -> lattice` of the bias field, in place of
      `fit_field_of(config)`; for who keeps them.

  Raises:
    InputError: The scan cannot be prepared; names the file.
  """
  modalities = modalities_of(manifest, config)
  files = {name: image_files(manifest, row, name) for name in modalities}
  present = [name for name in modalities if files[name]]
  if not present:
    scan = f"{row['participant_id']} {row['session_id']}".strip()
    columns = " or ".join(modalities)
    raise ScanError(manifest.path, f"{scan} has no image in column {columns}")
  spacing = spacing_mm(row)
  fit = fit_field or fit_field_of(config)
  volumes: dict[str, Volume] = {}
  for name in present:
    volume = read_volume(files[name], spacing, modality=name)
    volumes[name] = _corrected(files[name][0], volume, config, fit)
  first = present[0]
  volume = volumes[first]
  for name in present[1:]:
    _check_kind(files[name][0], volumes[name], files[first][0], volume)
  motions = _motions(volumes, config)
  to_volume: Mapping[str, np.ndarray | None] = motions
  mask_files = image_files(manifest, row, "mask")
  tumour = read_mask(mask_files, volume, spacing) if mask_files else None
  brain = _brain(image_files(manifest, row, "brain_mask"), volume, spacing)

  impossible = _warnings(volume, brain)
  known = volume.affine is not None
  if known and config.template:
    placed, motion = template.place(volume, brain, config, files[first][0])
    to_volume = template.through(motions, present[1:], motion)
    brain = template.moved_mask(brain, volume, placed, motion)
    if tumour is not None:
      tumour = template.moved_mask(tumour, volume, placed, motion)
    volume = volumes[first] = placed
  if not known and config.slices == "every":
    raise ScanError(
      files[first][0],
      "2-D images have no spacing; set config.preparation.slices=uniform",
    )
  found = None
  if known and config.crop == "region":
    found = _search(volumes, volume, to_volume, brain, config)
  box = region.find_region(
    brain,
    volume.spacing_mm,
    plane=config.plane if known else None,
    crop=config.crop,
    margin_mm=config.margin_mm,
    height=config.height,
    width=config.width,
    pixel_mm=config.pixel_mm,
    found=found,
    share=config.region.margin,
    least_mm=config.region.length_mm,
  )
  slice_mm = float(volume.spacing_mm[box.axes.slice])
  index = slices.choose_slices(
    box.slices,
    slice_mm,
    how=config.slices,
    num_slices=config.num_slices,
    every_mm=config.every_mm,
  )

  def taken(array: np.ndarray) -> np.ndarray:
    stack = slices.take_slices(array, box.axes, index)
    return stack.astype(np.float32, copy=False)

  share = slices.resample(taken(brain), box)
  in_brain = share >= 0.5
  channels, landmarks, moments = [], [], []
  for name in modalities:
    if name not in present:
      channels.append(np.zeros_like(share))
      landmarks.append(np.zeros(len(intensity.LANDMARK_PERCENTILES)))
      moments.append((0.0, 0.0))
      continue
    array, reached = aligned(volumes[name], volume, to_volume.get(name))
    inside = brain if reached is None else brain & reached
    # NIfTI's first axis runs fastest; this way round it is read in order.
    values = array.T[inside.T]
    if 2 * len(values) < np.count_nonzero(brain):
      raise ScanError(
        files[name][0], f"it misses most of the brain of {files[first][0]}"
      )
    if values.min() == values.max():
      raise ScanError(
        files[name][0], f"every voxel of the brain is {values[0]:g}"
      )
    mean, deviation = intensity.brain_statistics(values)
    limit = config.intensity_limit
    z = intensity.standardise(taken(array), mean, deviation, limit)
    # The mean over the brain's part of a pixel: air does not darken its edge.
    total = slices.resample(z * taken(inside), box)
    channels.append(
      np.divide(total, share, out=np.zeros_like(share), where=in_brain)
    )
    landmarks.append(intensity.landmarks(values))
    moments.append((mean, deviation))
  codes, step = intensity.quantise(
    np.stack(channels, -1), config.dtype, config.intensity_limit
  )
  mask = None
  if tumour is not None:
    mask = records.pack_bits(slices.resample(taken(tumour), box) >= 0.5)
  record = records.Record(
    slices=codes,
    scale=step,
    positions_mm=((index - box.centre) * slice_mm).astype(np.float32),
    positions_known=known,
    present=np.array([name in present for name in modalities], np.uint8),
    brain_mask=records.pack_bits(in_brain),
    landmarks=np.stack(landmarks).astype(np.float32),
    participant_id=row["participant_id"],
    session_id=row["session_id"],
    group_id=row["group_id"],
    label=row["label"],
    geometry=slices.geometry_of(volume, box, index, found, motions),
    mask=mask,
    moments=np.array(moments, np.float32),
  )
  doubts = [doubt for name in present for doubt in volumes[name].doubts]
  unmoved = (
    f"{name} could not be registered to {first}, and is taken by its scanner"
    " coordinates"
    for name, motion in motions.items()
    if motion is None
  )
  return Prepared(record, (*doubts, *unmoved, *impossible))


def check_config(config: Any) -> None:
  """Raises `InputError` if a field of the section has no meaning."""
  fields = leaf_fields(config)
  for name, legal in _CHOICES.items():
    if fields[name] not in legal:
      raise InputError(
        f"config.preparation.{name}={fields[name]}: choose one of"
        f" {', '.join(legal)}"
      )
  for name in _AT_LEAST_ONE:
    if fields[name] < 1:
      raise InputError(f"config.preparation.{name}: must be at least 1")
  for name in _POSITIVE:
    if not fields[name] > 0:
      raise InputError(f"config.preparation.{name}: must be above 0")
  for name in _NOT_NEGATIVE:
    if not fields[name] >= 0:
      raise InputError(f"config.preparation.{name}: must not be negative")
  iterations = config.bias_field.iterations
  if not iterations or not all(
    isinstance(n, int) and n > 0 for n in iterations
  ):
    raise InputError(
      "config.preparation.bias_field.iterations: must be whole numbers above 0,"
      " one a level, e.g. (50,50,50,50)"
    )


def modalities_of(manifest: Manifest, config: Any) -> tuple[str, ...]:
  """Returns the image columns to prepare, in channel order."""
  columns = manifest.modalities
  wanted = tuple(config.modalities) or columns
  if isinstance(config.modalities, str):
    wanted = (config.modalities,)
  for name in wanted:
    if name not in columns or wanted.count(name) > 1:
      wrong = "no" if name not in columns else "twice"
      raise InputError(
        f"{manifest.path}: its image columns are {', '.join(columns)};"
        f" {wrong} {name!r}; choose among them with"
        " --config.preparation.modalities"
      )
  return wanted


def fit_field_of(config: Any) -> FitField:
  """Returns the estimator of the bias field that the config asks for."""
  settings = config.bias_field.to_dict()
  return lambda file, volume: bias_field.fit_bias_field(volume, **settings)


def _corrected(
  file: pathlib.Path, volume: Volume, config: Any, fit: FitField
) -> Volume:
  """Removes the bias field; 2-D images are left as they are."""
  if config.bias_field.method == "none" or volume.affine is None:
    return volume
  grid_mm = config.bias_field.grid_mm
  field = bias_field.bias_field(fit(file, volume), volume, grid_mm=grid_mm)
  return dataclasses.replace(volume, array=volume.array / field)


def _brain(
  files: Sequence[pathlib.Path],
  volume: Volume,
  spacing_mm: Sequence[float] | None,
) -> np.ndarray:
  """Reads the mask of the brain, if one is given, or finds one."""
  if not files:
    return brain_mask.brain_mask(volume)
  given = read_mask(files, volume, spacing_mm)
  voxels = np.count_nonzero(given)
  if not voxels:
    raise ScanError(files[0], "the brain mask is empty")
  tissue = brain_mask.tissue_mask(volume.array)
  share = np.count_nonzero(tissue & given) / voxels
  if share < LEAST_TISSUE:
    raise ScanError(
      files[0],
      f"{1 - share:.0%} of the brain mask lie on air or bone: it is turned, or"
      " of another scan",
    )
  return given


def _motions(
  volumes: Mapping[str, Volume], config: Any
) -> dict[str, np.ndarray | None]:
  """Returns how the first modality lies in each other, where it is asked for.

  It is None where no motion was found that somebody can have made.
  """
  fixed, *_ = volumes.values()
  if config.registration == "none" or fixed.affine is None:
    return {}
  return {
    name: registration.register(volume, fixed)
    for name, volume in volumes.items()
    if volume is not fixed
  }


def _search(
  volumes: Mapping[str, Volume],
  reference: Volume,
  to_volume: Mapping[str, np.ndarray | None],
  brain: np.ndarray,
  config: Any,
) -> np.ndarray:
  """Returns bool[X,Y,Z], what may be a tumour."""
  fields = config.region.to_dict()
  del fields["margin"]
  return search.search(
    {
      name: aligned(volume, reference, to_volume.get(name))[0]
      for name, volume in volumes.items()
    },
    brain,
    reference.spacing_mm,
    region.AXES[config.plane],
    search.Rules(**fields),
  )


def _check_kind(
  file: pathlib.Path, volume: Volume, first_file: pathlib.Path, first: Volume
) -> None:
  """Refuses 2-D images beside a volume, or beside images of other sizes."""
  if volume.image_shapes != first.image_shapes:
    raise ScanError(
      file,
      f"it does not match {first_file}: 2-D images of several modalities must"
      " be as many and of the same size",
    )


def _warnings(volume: Volume, brain: np.ndarray) -> tuple[str, ...]:
  """Says where the brain has an impossible size."""
  if volume.affine is None:
    return ()
  low, high = BRAIN_MM
  box = brain_mask.bounds(brain)
  header = " x ".join(f"{s:.3g}" for s in volume.spacing_mm)
  return tuple(
    f"the brain spans {extent_mm:.0f} mm from {axis}, not {low:.0f} to"
    f" {high:.0f}: the voxels, {header} mm, may be false; give true ones in the"
    " manifest's column spacing_mm"
    for axis, side, spacing in zip(_AXES, box, volume.spacing_mm, strict=True)
    if not low
    <= (extent_mm := (side.stop - side.start) * float(spacing))
    <= high
  )
