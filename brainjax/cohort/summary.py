"""What a cohort holds: scans, participants and groups, counted by column."""

import collections
import gzip
import io
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import nibabel as nib
from nibabel import affines
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from brainjax.cohort.manifest import Manifest, image_files, spacing_mm
from brainjax.cohort.selectors import split_selector

MAX_SPACINGS = 6  # more are rounded coarsely, then the rare ones summed up
UNKNOWN = "(unknown)"
_COLUMNS = {"class": "label", "source": "source", "site": "site"}
# What nibabel raises when a file is not what its name says.
_DAMAGED = (
  WrapStructError,
  ImageFileError,
  HeaderDataError,
  EOFError,
  OSError,
  zlib.error,
  ValueError,
)
_HEADER_2 = nib.Nifti2Header.template_dtype
_Row = Mapping[str, str]


class Count(NamedTuple):
  """A line of the summary.

  Attributes:
    what: "class", "source", "site", "modality" or "spacing"; "" for all scans.
    value: Of it.
    scans: How many have it; of a modality, how many have that image.
    participants: Whose scans these are.
    groups: Of these participants.
  """

  what: str
  value: str
  scans: int
  participants: int
  groups: int


def summarise(manifest: Manifest) -> list[Count]:
  """Counts the scans by class, source, site, modality and spacing.

  What says nothing is left out: a source or a site that no row has, and the
  modality if there is one alone. The spacing is that of the row's first image
  along the file's axes, from `spacing_mm` or else the header; its digits say
  how it was rounded.

  Returns:
    All scans, then the blocks, in each the most frequent value first.
  """
  rows = manifest.rows
  counts = [_count("", "all", rows)]
  for what, column in _COLUMNS.items():
    if what == "class" or any(row.get(column) for row in rows):
      counts += _block(
        what, [(row.get(column) or UNKNOWN, row) for row in rows]
      )
  images = [
    (name, row)
    for row in rows
    for name in manifest.modalities
    if image_files(manifest, row, name)
  ]
  if len(manifest.modalities) > 1:
    counts += _block("modality", images)
  return counts + _spacings([(_spacing(manifest, row), row) for row in rows])


def _count(what: str, value: str, rows: Sequence[_Row]) -> Count:
  people = {row["participant_id"] for row in rows}
  groups = {row["group_id"] for row in rows}
  return Count(what, value, len(rows), len(people), len(groups))


def _block(what: str, values: Iterable[tuple[str, _Row]]) -> list[Count]:
  """Counts the rows of each value."""
  rows_of = collections.defaultdict(list)
  for value, row in values:
    rows_of[value].append(row)
  counts = [_count(what, value, rows) for value, rows in rows_of.items()]
  return sorted(counts, key=lambda count: (-count.scans, count.value))


def _spacings(
  spacings: Sequence[tuple[tuple[float, ...] | str, _Row]],
) -> list[Count]:
  """Counts spacings, few enough to look at, and then the reasons for none."""
  texts, counts = [], []
  for decimals in (2, 1):
    texts = [
      (" x ".join(f"{mm:.{decimals}f}" for mm in spacing) + " mm", row)
      for spacing, row in spacings
      if not isinstance(spacing, str)
    ]
    counts = _block("spacing", texts)
    if len(counts) <= MAX_SPACINGS:
      break
  else:
    rare = {count.value for count in counts[MAX_SPACINGS - 1 :]}
    rows = [row for text, row in texts if text in rare]
    counts = counts[: MAX_SPACINGS - 1]
    counts.append(_count("spacing", f"{len(rare)} others", rows))
  absent = [(text, row) for text, row in spacings if isinstance(text, str)]
  return counts + _block("spacing", absent)


def _spacing(manifest: Manifest, row: _Row) -> tuple[float, ...] | str:
  """Returns the spacing of a row's first image in mm, or why there is none."""
  given = spacing_mm(row)
  if given:
    return given
  cells = (image_files(manifest, row, name) for name in manifest.modalities)
  file, _ = split_selector(next(filter(None, cells))[0])
  if file.is_dir():
    return "DICOM series"
  if file.name.lower().endswith((".nrrd", ".mha", ".mhd")):
    return "NRRD or MetaImage"
  if not file.name.lower().endswith((".nii", ".nii.gz")):
    return "2-D images"
  try:
    affine = _read_header(file).get_best_affine()
  except _DAMAGED:
    return "unreadable"  # `prepare` says which file, and why
  return tuple(affines.voxel_sizes(affine).tolist())


def _read_header(file: pathlib.Path) -> nib.Nifti1Header:
  """Reads the first bytes alone, for what follows may be without an end."""
  zipped = file.name.lower().endswith(".gz")
  with (gzip.open if zipped else open)(file, "rb") as stream:
    start = stream.read(_HEADER_2.itemsize)
  kind = nib.Nifti1Header
  if _HEADER_2.itemsize in (
    int.from_bytes(start[:4], order) for order in ("little", "big")
  ):
    kind = nib.Nifti2Header
  no_extension = bytes(4)
  header = start[: kind.template_dtype.itemsize] + no_extension
  return kind.from_fileobj(io.BytesIO(header))
