"""What the audit asks of each scan, read once: a page of numbers a scan.

A scan is described from the scanner's file, before preparation, or from its
record, after it.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
import skimage.transform
from nibabel import affines, orientations

from brainjax import InputError, records
from brainjax.audit import appearance, fingerprint
from brainjax.cohort.manifest import Manifest, image_files, spacing_mm
from brainjax.cohort.selectors import split_selector
from brainjax.preparation import brain_mask, reading
from brainjax.preparation.scan import BRAIN_MM
from brainjax.preparation.volume import Volume

COARSE_MM = 3.0
_LEAST_CELLS = 48  # no axis is made coarser than this
_DISAGREE = 0.02  # of a spacing, which two places of a header state
_AXES = ("left to right", "back to front", "bottom to top")


@dataclasses.dataclass(frozen=True)
class Scan:
  """What the audit knows of a scan.

  Attributes:
    row: Of the manifest.
    error: Why it could not be read; then all below is empty.
    digest: sha256 of the voxels in RAS+ order, or of the record's slices.
    image_digests: The same of each 2-D image.
    fingerprint: f32[F], see `fingerprint.fingerprint`.
    is_volume: Whether it is a volume; else a stack of 2-D images.
    numbers: f64[...] by what they describe; NaN where nothing is known.
    layout: Orientation, type and kind of the file, in one word.
    impossible: What of its header cannot be true, a sentence each.
    doubts: What else its reader found odd, a sentence each.
    preview: u8[H,W], the middle slice as it is looked at, small.
    lesion_outside: Share of the tumour mask outside the brain mask; None
      without a tumour.
  """

  row: Mapping[str, str]
  error: str = ""
  digest: str = ""
  image_digests: tuple[str, ...] = ()
  fingerprint: np.ndarray | None = None
  is_volume: bool = True
  numbers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  layout: str = ""
  impossible: tuple[str, ...] = ()
  doubts: tuple[str, ...] = ()
  preview: np.ndarray | None = None
  lesion_outside: float | None = None

  @property
  def name(self) -> str:
    """Participant and session."""
    return f"{self.row['participant_id']} {self.row['session_id']}".rstrip()


def describe_file(manifest: Manifest, row: Mapping[str, str]) -> Scan:
  """Describes the first image of a row of a manifest."""
  cells = ((n, image_files(manifest, row, n)) for n in manifest.modalities)
  modality, files = next((n, found) for n, found in cells if found)
  given = spacing_mm(row)

  def mask(column: str) -> np.ndarray | None:
    found = image_files(manifest, row, column)
    return reading.read_mask(found, volume, given) if found else None

  try:
    volume = reading.read_volume(files, given, modality=modality)
    tumour, brain = mask("mask"), mask("brain_mask")
  except InputError as error:
    return Scan(row, error=str(error))
  is_volume = volume.affine is not None
  small, factors = _coarse(volume)
  if brain is not None:
    brain = skimage.transform.downscale_local_mean(brain, factors) >= 0.5
  if brain is None or not brain.any():  # of a few voxels nothing is left
    brain = brain_mask.brain_mask(small)
  outside = None
  if tumour is not None and tumour.any():
    share = skimage.transform.downscale_local_mean(tumour, factors)
    outside = float(share[~brain].sum() / share.sum())
  images = ()
  if not is_volume:
    # All black images are equal.
    images = tuple(
      _digest(image)
      for image in np.moveaxis(volume.array, -1, 0)
      if image.min() < image.max()
    )
  impossible, layout = _header(files[0], volume)
  if is_volume and given is None:
    impossible += _impossible_extent(small, brain)
  numbers = _acquisition(
    volume.array.shape, volume.spacing_mm if is_volume else None
  )
  numbers |= appearance.appearance(small.array, brain)
  tissue = fingerprint.tissue(small.array)
  return Scan(
    row,
    digest=_digest(volume.array),
    image_digests=images,
    fingerprint=fingerprint.fingerprint(
      small.array, tissue, is_volume=is_volume
    ),
    is_volume=is_volume,
    numbers=numbers,
    layout=layout,
    impossible=impossible,
    doubts=volume.doubts,
    preview=appearance.preview(small.array),
    lesion_outside=outside,
  )


def describe_record(record: records.Record, row: Mapping[str, str]) -> Scan:
  """Describes a record by the first modality that it has."""
  channel = int(np.argmax(record.present))
  # As a volume: columns, rows and slices are X, -Y and Z.
  array = record.intensities()[..., channel].transpose(2, 1, 0)[:, ::-1]
  width = record.slices.shape[2]

  def unpacked(bits: np.ndarray) -> np.ndarray:
    return records.unpack_bits(bits, width).transpose(2, 1, 0)[:, ::-1]

  brain = unpacked(record.brain_mask)
  outside = None
  if record.mask is not None and record.mask.any():
    tumour = unpacked(record.mask)
    outside = float(np.mean(~brain[tumour]))
  geometry = record.geometry
  is_volume = geometry.get("source", "volume") == "volume"
  shape = tuple(geometry.get("file_shape") or ())
  spacing = geometry.get("file_spacing_mm")
  numbers = _acquisition(shape, np.array(spacing) if spacing else None)
  numbers["slices"] = np.array([float(len(record.slices))])
  shown = np.where(brain, array - array.min(), 0)
  return Scan(
    row,
    digest=_digest(record.slices),
    fingerprint=fingerprint.fingerprint(shown, brain, is_volume=is_volume),
    is_volume=is_volume,
    numbers=numbers | appearance.appearance(array, brain),
    layout=_orientation(geometry.get("ras_from_file")),
    preview=appearance.preview(array),
    lesion_outside=outside,
  )


def _acquisition(
  shape: tuple[int, ...], spacing: np.ndarray | None
) -> dict[str, np.ndarray]:
  """What the header alone says: slices, matrix and spacing."""
  matrix = np.full(3, np.nan)
  matrix[: len(shape[:3])] = shape[:3]
  if spacing is None:
    spacing = np.full(3, np.nan)
    across = 2
  else:
    # Slices are stacked along the coarsest axis; of equal ones, the shortest.
    across = int(np.lexsort((matrix, -np.round(spacing, 3)))[0])
  in_plane = [i for i in range(3) if i != across]
  return {
    "slices": matrix[[across]],
    "matrix": matrix[in_plane],
    "spacing": np.round(spacing, 3),
  }


def _coarse(volume: Volume) -> tuple[Volume, tuple[int, ...]]:
  """Averages a volume to cells of about 3 mm; the brain needs no more."""
  if volume.affine is None:
    return volume, (1, 1, 1)
  factors = tuple(
    int(max(1, min(round(COARSE_MM / s), n // _LEAST_CELLS)))
    for n, s in zip(volume.array.shape, volume.spacing_mm, strict=True)
  )
  array = skimage.transform.downscale_local_mean(volume.array, factors)
  small = dataclasses.replace(
    volume,
    array=array.astype(np.float32),
    affine=volume.affine @ np.diag([*factors, 1]),
    spacing_mm=volume.spacing_mm * factors,
  )
  return small, factors


def _header(file: pathlib.Path, volume: Volume) -> tuple[tuple[str, ...], str]:
  """Returns what of a header contradicts itself, and the file's layout."""
  file, _ = split_selector(file)  # of a volume in a file of several
  if not file.name.lower().endswith((".nii", ".nii.gz")):
    kind = "folder" if file.is_dir() else file.suffix.lower()
    return (), f"{_orientation(volume.ras_from_file)} {kind}"
  header: Any = nib.load(file).header  # it was read before
  layout = f"{_orientation(volume.ras_from_file)} {header.get_data_dtype()}"
  found = []
  if header["sform_code"] > 0:
    stated = np.abs(header["pixdim"][1:4])
    used = affines.voxel_sizes(header.get_sform())
    if (np.abs(stated - used) > _DISAGREE * used).any():
      found.append(f"pixdim says {_by(stated)} mm, the affine {_by(used)} mm")
  units = header.get_xyzt_units()[0]
  if units not in ("mm", "unknown"):
    found.append(f"its unit of length is the {units}")
  return tuple(found), layout


def _impossible_extent(volume: Volume, brain: np.ndarray) -> tuple[str, ...]:
  """Says where the brain has an impossible size, as preparation does."""
  low, high = BRAIN_MM
  extents_mm = [
    (side.stop - side.start) * float(spacing)
    for side, spacing in zip(
      brain_mask.bounds(brain), volume.spacing_mm, strict=True
    )
  ]
  header = _by(affines.voxel_sizes(volume.file_affine))
  return tuple(
    f"with voxels of {header} mm its brain spans {extent_mm:.0f} mm from"
    f" {axis}, not {low:.0f} to {high:.0f}"
    for axis, extent_mm in zip(_AXES, extents_mm, strict=True)
    if not low <= extent_mm <= high
  )


def _orientation(ras_from_file) -> str:
  if ras_from_file is None:
    return ""
  return "".join(orientations.ornt2axcodes(np.asarray(ras_from_file)))


def _digest(array: np.ndarray) -> str:
  data = np.ascontiguousarray(array)
  return hashlib.sha256(repr(data.shape).encode() + data.tobytes()).hexdigest()


def _by(spacing: np.ndarray) -> str:
  return " x ".join(f"{value:.3g}" for value in spacing)
