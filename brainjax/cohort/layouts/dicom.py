"""A tree of DICOM files, as a scanner or an archive exports it.

A study of a patient is a row, a series the image of a column where its
description says so; `<manifest>_series.csv` lists every series, taken or not,
with the cell that would name it, so that a wrong guess is soon put right.

A participant is the PatientID hashed with a secret, `<manifest>_ids.key`: with
that file a later export of the same patients gives the same ids, and without
it nobody can tell whose they are, so it is not to be shared. Dates only order
the sessions of a participant. Paths are kept as they are: where one holds the
PatientID, the name or the day of the study, the tree is refused.
"""

import collections
import contextlib
import hmac
import itertools
import os
import pathlib
import secrets
from collections.abc import Mapping, Sequence

from pydicom.dataset import Dataset

from brainjax import InputError, records
from brainjax.cohort import demographics, dicom_privacy
from brainjax.cohort.dicom_headers import files_of, read_frames
from brainjax.cohort.dicom_series import Stack, stacks_of
from brainjax.cohort.layouts import files
from brainjax.cohort.manifest import MODALITIES

_EXPECTED = "a tree of DICOM files (DICM at byte 128), whatever their names"
_SECRET_BYTES = 32
_COLUMNS = (
  *("participant_id", "session_id", "group_id", "label"),
  *(*MODALITIES, "source", "scanner", "age", "sex", "patient_id_known"),
)
_SERIES_COLUMNS = (
  *("participant_id", "session_id", "series", "description", "plane"),
  *("images", "modality", "taken", "problem", "cell"),
)


def read_dicom_tree(
  root: str | os.PathLike[str],
  *,
  out: str | os.PathLike[str],
  keep_ids: bool = False,
) -> tuple[files.Rows, tuple[str, ...]]:
  """Reads a tree of DICOM files into manifest rows.

  Of several series that could be one modality, originals go before derived
  ones, then the one with most images.

  Args:
    root: The folder.
    out: The manifest that is to be written; the list of series and the secret
      lie beside it.
    keep_ids: Take the PatientID as it is.

  Returns:
    Rows, a study with an image each, and their columns; labels are empty.

  Raises:
    InputError: There is no DICOM image, or none that a column is clear of; or
      the ids are to be hashed, and a path gives one, a name or a day away.
  """
  top = files.folder_of(root, _EXPECTED)
  traces_of: dict[pathlib.Path, dicom_privacy.Traces] = {}

  def look(file: pathlib.Path, header: Dataset) -> None:
    traces_of[file] = dicom_privacy.traces_of(header)

  frames, left_out = read_frames(files_of(top), look)
  stacks = stacks_of(frames)
  if not stacks:
    reasons = sorted(set(left_out.values()))[:3] or [files.found(top)]
    raise InputError(
      f"{root}: no DICOM image in it ({len(left_out)} files left out), but"
      f" {', '.join(reasons)}; expected {_EXPECTED}"
    )
  series_file = beside(out, "_series.csv").absolute()
  cells = _cells(stacks)
  if not keep_ids:
    written = {stack.frames[0].file: cell for stack, cell in cells.items()}
    written |= {file: str(file.parent) for file in left_out}
    _check_paths(written, traces_of, top, series_file.parent)
  series_file.parent.mkdir(parents=True, exist_ok=True)
  name_of = _names(stacks, None if keep_ids else _secret(out))
  studies: dict[tuple[str, str], list[Stack]] = collections.defaultdict(list)
  for stack in stacks:
    frame = stack.frames[0]
    studies[name_of[frame.person, frame.study], frame.study].append(stack)
  rows, listed = [], []
  number_of: dict[str, int] = collections.Counter()
  for (person, _), members in sorted(studies.items(), key=_in_time):
    number_of[person] += 1
    ids = {"participant_id": person, "session_id": str(number_of[person])}
    taken = _taken(members)
    for stack in members:
      cell = os.path.relpath(cells[stack], series_file.parent)
      listed.append(ids | _described(stack, stack in taken.values(), cell))
    if taken:
      images = {name: cells[stack] for name, stack in taken.items()}
      rows.append(ids | _facts(members[0], person, top) | images)
  listed += _files_left_out(left_out, series_file.parent)
  records.write_csv(series_file, _SERIES_COLUMNS, listed)
  if not rows:
    raise InputError(
      f"{root}: no series says what it shows; see {series_file}, and write the"
      " manifest by hand with the cells listed there"
    )
  return files.filled(rows, _COLUMNS)


def _in_time(
  study: tuple[tuple[str, str], list[Stack]],
) -> tuple[str, str]:
  """Sorts studies by participant, then by their moment."""
  (person, _), members = study
  return person, min(stack.frames[0].moment for stack in members)


def beside(out: str | os.PathLike[str], ending: str) -> pathlib.Path:
  """Returns the path of a file that goes with a manifest."""
  manifest = pathlib.Path(out)
  return manifest.with_name(manifest.stem + ending)


def _secret(out: str | os.PathLike[str]) -> bytes:
  """Returns the secret beside the manifest, drawn where there is none."""
  file = beside(out, "_ids.key")
  with contextlib.suppress(FileExistsError):
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as stream:
      stream.write(secrets.token_hex(_SECRET_BYTES) + "\n")
  with contextlib.suppress(ValueError):
    secret = bytes.fromhex(file.read_text("ascii"))
    if len(secret) == _SECRET_BYTES:
      return secret
  raise InputError(
    f"{file}: not the secret of an earlier manifest; restore it, or remove it"
    " to give new ids"
  )


def _check_paths(
  written: Mapping[pathlib.Path, str],
  traces_of: Mapping[pathlib.Path, dicom_privacy.Traces],
  top: pathlib.Path,
  start: pathlib.Path,
) -> None:
  """Refuses a path that would carry a patient's id, name or day into a table.

  Args:
    written: The path that is written of each file.
    traces_of: What each file says of its patient, if it can be read.
    top: The tree; its name is written as well.
    start: What paths are written relative to.
  """
  everyone = tuple(dict.fromkeys(itertools.chain(*traces_of.values())))
  pairs = ((cell, traces_of.get(file, ())) for file, cell in written.items())
  for cell, own in dict.fromkeys(pairs):
    traces = own or everyone  # nobody knows whose a damaged file is
    for path in (os.path.relpath(cell, start), top.name):
      found, shown = dicom_privacy.masked(path, traces)
      if found:
        raise InputError(
          f"{shown}: the {found} is in the path, which the manifest keeps;"
          " rename the folder, or take ids and paths as they are with"
          " --keep-ids"
        )


def _names(
  stacks: Sequence[Stack], secret: bytes | None
) -> dict[tuple[str, str], str]:
  """Returns the participant_id of each (PatientID and issuer, study)."""
  names = {}
  for stack in stacks:
    person, study = stack.frames[0].person, stack.frames[0].study
    known = _is_known(stack)
    if secret is None and known:
      name = person.partition("\n")[0]
    else:
      text = (person if known else study).encode()
      digest = hmac.new(secret or b"study", text, "sha256").hexdigest()
      name = f"P{digest[:10]}"
    names[person, study] = name
  return names


def _is_known(stack: Stack) -> bool:
  person = stack.frames[0].person.partition("\n")[0]
  return person.casefold() not in dicom_privacy.NOBODY


def _taken(stacks: Sequence[Stack]) -> dict[str, Stack]:
  """Returns the stack of each modality of a study."""
  best: dict[str, Stack] = {}

  def rank(stack: Stack) -> tuple[bool, int]:
    original = "DERIVED" not in stack.facts["type"].upper()
    return (original, len(stack.frames))

  for stack in stacks:
    name = stack.modality
    if name and not stack.problem:
      if name not in best or rank(stack) > rank(best[name]):
        best[name] = stack
  return best


def _cells(stacks: Sequence[Stack]) -> dict[Stack, str]:
  """Returns the image cell of each stack: the folder, or FOLDER#key."""
  places: dict[Stack, pathlib.Path] = {}
  for stack in stacks:
    paths = {frame.file for frame in stack.frames}
    folders = {path.parent for path in paths}
    places[stack] = min(paths)
    if len(paths) > 1:
      places[stack] = pathlib.Path(os.path.commonpath(list(folders)))
  stacks_in = collections.Counter(
    folder
    for stack in stacks
    if not stack.problem
    for folder in {
      place
      for frame in stack.frames
      for place in (frame.file, *frame.file.parents)
    }
  )
  return {
    stack: str(place) + (f"#{stack.key}" if stacks_in[place] > 1 else "")
    for stack, place in places.items()
  }


def _facts(stack: Stack, person: str, top: pathlib.Path) -> dict[str, str]:
  facts = stack.facts

  def checked(form, text: str) -> str:
    try:
      return form(text)
    except ValueError:  # a scanner's typing error is nobody's to mend here
      return ""

  return {
    "group_id": person,
    "label": "",
    "source": top.name,
    "scanner": facts["scanner"],
    "age": checked(demographics.age_of, facts["age"]),
    "sex": checked(demographics.sex_of, facts["sex"]),
    "patient_id_known": "" if _is_known(stack) else "false",
  }


def _described(stack: Stack, taken: bool, cell: str) -> dict[str, str]:
  return {
    "series": stack.facts["number"],
    "description": stack.facts["description"],
    "plane": stack.plane,
    "images": str(len(stack.frames)),
    "modality": stack.modality,
    "taken": "yes" if taken else "no",
    "problem": stack.problem,
    "cell": cell,
  }


def _files_left_out(
  left_out: dict[pathlib.Path, str], start: pathlib.Path
) -> files.Rows:
  """Returns a row for each folder and reason."""
  counts = collections.Counter(
    (os.path.relpath(file.parent, start), reason)
    for file, reason in left_out.items()
  )
  return [
    dict.fromkeys(_SERIES_COLUMNS, "")
    | {"cell": folder, "problem": reason, "images": str(count), "taken": "no"}
    for (folder, reason), count in sorted(counts.items())
  ]
