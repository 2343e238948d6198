"""The manifest: a CSV file, a row a scan, that says who is in the study.

Required columns are `participant_id`, `label` (empty = unknown) and at least
one image column named after its modality. An image cell is a NIfTI file, a
folder with a DICOM series, or several 2-D files joined by `;` in slice order,
relative to the manifest; `#` names one volume of several, see `selectors.py`.
Optional are `session_id`, `group_id` (the unit that never straddles a split),
`mask` (of the tumour), `brain_mask` (from a tool such as SynthStrip or HD-BET,
on the grid of the first image), `source`, `site`, `scanner`, `age`, `sex`,
`spacing_mm`, `split` and `fold`; any other column is kept.

`spacing_mm` is for NIfTI files whose header lies about the voxels: three
millimetres joined by `;`, as in "0.86;0.86;5.5", along the axes of the file's
array. They replace the header's in all images of the row and in its mask.
"""

import csv
import dataclasses
import io
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from brainjax import InputError, records
from brainjax.cohort import splits
from brainjax.cohort.selectors import split_selector

MODALITIES = ("t1", "t1c", "t2", "flair", "pd", "swi", "dwi", "adc")
MASKS = ("mask", "brain_mask")
_FILES = (*MODALITIES, *MASKS)
# (of, column, how to mend): within one `of`, `column` holds one value.
_CONSTANT = (
  ("participant_id", "label", "a participant has one label"),
  ("participant_id", "group_id", "give all their scans one group_id"),
  ("group_id", "split", "a group must lie in one split"),
  ("group_id", "fold", "a group must lie in one fold"),
)


@dataclasses.dataclass(frozen=True)
class Manifest:
  """A manifest that was read and found valid.

  Attributes:
    path: The file; image paths are relative to its folder.
    columns: In file order, plus `session_id` and `group_id` if absent.
    rows: A dict a scan, by column; `session_id` defaults to "", `group_id`
      to the `participant_id`.
    modalities: The image columns present, in file order.
  """

  path: pathlib.Path
  columns: tuple[str, ...]
  rows: tuple[dict[str, str], ...]
  modalities: tuple[str, ...]


def read_manifest(
  path: str | os.PathLike[str], *, consistent: bool = True
) -> Manifest:
  """Reads a manifest and checks all of it, the existence of images included.

  Args:
    path: The file.
    consistent: Also refuse a participant of two labels or groups and a group
      in two splits; the audit reads them, and reports them all.

  Raises:
    InputError: Something is wrong; names the file, line and column.
  """
  file = pathlib.Path(path)
  columns, lines = _parse(file)
  modalities = tuple(name for name in columns if name in MODALITIES)
  found = f"the columns are {', '.join(columns)}"
  for name in ("participant_id", "label"):
    if name not in columns:
      raise InputError(f"{file}, line 1: no column {name}; {found}")
  if not modalities:
    raise InputError(
      f"{file}, line 1: no image column; name one {', '.join(MODALITIES[:-1])}"
      f" or {MODALITIES[-1]}; {found}"
    )
  for row in lines.values():
    row.setdefault("session_id", "")
    row["group_id"] = row.get("group_id") or row["participant_id"]
  added = [name for name in ("session_id", "group_id") if name not in columns]
  manifest = Manifest(
    path=file.absolute(),
    columns=(*columns, *added),
    rows=tuple(lines.values()),
    modalities=modalities,
  )
  for line, row in lines.items():
    _check_row(manifest, row, f"{file}, line {line}")
  _check_scans_differ(manifest, lines, file)
  for of, column, mend in _CONSTANT if consistent else ():
    _check_constant(lines, file, of, column, mend)
  return manifest


def write_manifest(
  path: str | os.PathLike[str],
  rows: Iterable[Mapping[str, str]],
  columns: Sequence[str],
  *,
  relative_to: pathlib.Path | None = None,
) -> None:
  """Writes a manifest, whole or not at all, and makes its folder.

  Args:
    path: The file.
    rows: A dict a scan. Absolute paths in the columns of images and masks
      become relative to the manifest's folder; relative ones stay.
    columns: The columns, in order; a row may lack some, and has no others.
    relative_to: The manifest's folder, if it is written elsewhere first.
  """
  file = pathlib.Path(path)
  file.parent.mkdir(parents=True, exist_ok=True)
  folder = (relative_to or file.parent).resolve()
  written = [dict(row) for row in rows]
  for row in written:
    for name in row.keys() & set(_FILES):
      row[name] = ";".join(
        _relative(part, folder) for part in row[name].split(";")
      )
  records.write_csv(file, columns, written)


def image_files(
  manifest: Manifest, row: Mapping[str, str], modality: str
) -> tuple[pathlib.Path, ...]:
  """Returns the files of one image cell, or of a mask, in slice order.

  Nothing is returned for an empty cell or a column the manifest lacks.
  """
  parts = (part.strip() for part in row.get(modality, "").split(";"))
  return tuple(manifest.path.parent / part for part in parts if part)


def spacing_mm(row: Mapping[str, str]) -> tuple[float, float, float] | None:
  """Returns the voxels' true spacing along the file's axes, if the row has one.

  Raises:
    InputError: The cell holds anything but three positive numbers.
  """
  cell = row.get("spacing_mm", "")
  if not cell:
    return None
  try:
    x, y, z = (float(part) for part in cell.split(";"))
  except ValueError:
    x = y = z = math.nan
  if not all(0 < value < math.inf for value in (x, y, z)):
    raise InputError(
      f"column spacing_mm: {cell!r} is not three positive numbers of"
      " millimetres joined by ; as in 0.86;0.86;5.5; leave it empty to trust"
      " the file's header"
    )
  return x, y, z


def _relative(path: str, folder: pathlib.Path) -> str:
  given = pathlib.Path(path)
  if not given.is_absolute():
    return path
  # The folders are resolved since `..` behind a symbolic link leads elsewhere;
  # the file is not, since the target of its link may be named otherwise.
  return os.path.relpath(given.parent.resolve() / given.name, folder)


def _parse(
  file: pathlib.Path,
) -> tuple[list[str], dict[int, dict[str, str]]]:
  """Returns the columns, and the rows by the number of their first line."""
  if not file.is_file():
    raise InputError(
      f"{file}: no such manifest; `brainjax cohort LAYOUT ROOT --out {file}`"
      " writes one"
    )
  data = file.read_bytes()
  try:
    text = data.decode("utf-8-sig")  # spreadsheets put a byte order mark first
  except UnicodeDecodeError as error:
    line = data[: error.start].count(b"\n") + 1
    raise InputError(
      f"{file}, line {line}: not UTF-8; save it as CSV in UTF-8"
    ) from None
  reader = csv.reader(io.StringIO(text, newline=""), strict=True)
  columns: list[str] = []
  lines: dict[int, dict[str, str]] = {}
  first = 1
  try:
    for values in reader:
      line, first = first, reader.line_num + 1
      cells = [value.strip() for value in values]
      if not any(cells):
        continue
      if not columns:
        columns = cells
        continue
      if len(cells) != len(columns):
        raise InputError(
          f"{file}, line {line}: {len(cells)} cells, but the header names"
          f" {len(columns)} columns; quote a cell that holds a comma"
        )
      lines[line] = dict(zip(columns, cells, strict=True))
  except csv.Error as error:
    raise InputError(
      f"{file}, line {first}: {error}; check the quotes from here on"
    ) from None
  for name in columns:
    if columns.count(name) > 1:
      raise InputError(f"{file}, line 1: column {name!r} stands twice")
  if not lines:
    raise InputError(
      f"{file}: no scans; it must hold a header and a row a scan"
    )
  return columns, lines


def _check_row(manifest: Manifest, row: dict[str, str], where: str) -> None:
  """Checks what can be said of one row alone."""
  if not row["participant_id"]:
    raise InputError(f"{where}, column participant_id: empty; name the person")
  for name in ("participant_id", "session_id", "group_id"):
    # Files are named after them.
    if re.search(r"[/\\\x00-\x1f]|^\.\.?$", row[name]):
      raise InputError(
        f"{where}, column {name}: {row[name]!r} is a path or has control"
        " characters; an id is a plain name"
      )
  legal = ("", *splits.SPLITS)
  if row.get("split", "") not in legal:
    raise InputError(
      f"{where}, column split: {row['split']!r} is not one of"
      f" {', '.join(splits.SPLITS)}"
    )
  if row.get("fold") and not row["fold"].isdecimal():
    raise InputError(
      f"{where}, column fold: {row['fold']!r} is not a whole number from 0"
    )
  try:
    spacing_mm(row)
  except InputError as error:
    raise InputError(f"{where}, {error}") from None
  if not any(image_files(manifest, row, name) for name in manifest.modalities):
    raise InputError(
      f"{where}, column {manifest.modalities[0]}: no image; fill it"
      + "".join(f" or {name}" for name in manifest.modalities[1:])
    )
  for name in _FILES:
    for image in image_files(manifest, row, name):
      if not os.path.exists(split_selector(image)[0]):
        raise InputError(
          f"{where}, column {name}: {image} does not exist; paths are relative"
          " to the manifest's folder, several are joined by ;"
        )


def _check_scans_differ(
  manifest: Manifest, lines: dict[int, dict[str, str]], file: pathlib.Path
) -> None:
  """Refuses a scan, or an image file, that stands in the manifest twice."""
  line_of_scan: dict[tuple[str, str], int] = {}
  line_of_image: dict[str, int] = {}
  for line, row in lines.items():
    scan = (row["participant_id"], row["session_id"])
    earlier = line_of_scan.setdefault(scan, line)
    if earlier != line:
      raise InputError(
        f"{file}, line {line}, column session_id: participant {scan[0]},"
        f" session {scan[1]!r} is in line {earlier} already; give each scan"
        " its own session_id"
      )
    for name in manifest.modalities:
      for image in image_files(manifest, row, name):
        key = os.path.normpath(image)
        if key in line_of_image:
          raise InputError(
            f"{file}, line {line}, column {name}: {image} is in line"
            f" {line_of_image[key]} already; an image belongs to one scan and"
            " one modality"
          )
        line_of_image[key] = line


def _check_constant(
  lines: dict[int, dict[str, str]],
  file: pathlib.Path,
  of: str,
  column: str,
  mend: str,
) -> None:
  """Refuses two values of `column` in rows that share `of`."""
  seen: dict[str, tuple[int, str]] = {}
  for line, row in lines.items():
    value = row.get(column, "")
    if not value:
      continue
    earlier, expected = seen.setdefault(row[of], (line, value))
    if value != expected:
      raise InputError(
        f"{file}, line {line}, column {column}: {value!r}, but line {earlier}"
        f" with the same {of} {row[of]!r} has {expected!r}; {mend}"
      )
