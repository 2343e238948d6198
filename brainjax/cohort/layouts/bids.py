"""A BIDS dataset: `sub-<id>/[ses-<id>/]anat/sub-<id>[_...]_<suffix>.nii[.gz]`.

The Brain Imaging Data Structure, doi:10.1038/sdata.2016.44; a row is a session
of a participant. The suffix says the modality: T1w is `t1`, or `t1c` with a
`ce-` entity, T2w is `t2`, FLAIR is `flair`, PDw is `pd`; others are passed
over, and so is everything outside `anat`. `participants.tsv` may give the
label, the age, the sex and the site, and `sub-<id>/sub-<id>_sessions.tsv` what
differs in a session.

A tree of derivatives, `DATASET/derivatives/<pipeline>`, is read in the same
way; where it has no `participants.tsv` of its own, the dataset's is taken.
"""

import csv
import io
import json
import os
import pathlib
import re
from collections.abc import Iterator

from brainjax import InputError
from brainjax.cohort.layouts.files import filled, found, visible

_MODALITIES = {"T1w": "t1", "T2w": "t2", "FLAIR": "flair", "PDw": "pd"}
_NAME = re.compile(r"(?P<stem>.*?)_?(?P<suffix>[A-Za-z0-9]+)\.nii(\.gz)?")
_NOT_MAGNITUDE = ("phase", "real", "imag")
_COLUMNS = (
  *("participant_id", "session_id", "group_id", "label"),
  *("t1", "t1c", "t2", "flair", "pd"),
  *("source", "site", "age", "sex"),
)
_EXPECTED = (
  "sub-<id>/[ses-<id>/]anat/sub-<id>[_ses-<id>][_<key>-<value>...]_T1w.nii.gz"
  " (or T2w, FLAIR, PDw)"
)
_Table = dict[str, dict[str, str]]


def read_bids(
  root: str | os.PathLike[str], *, label_column: str = "", choose: str = ""
) -> tuple[list[dict[str, str]], tuple[str, ...]]:
  """Reads a BIDS dataset, raw or derived, into manifest rows.

  Ids keep their prefix, as in `sub-01` and `ses-pre`. Of several runs of one
  modality in one session the lowest is taken, and of a complex image the
  magnitude; any other choice (`acq-`, `rec-`, `desc-`, ...) is the user's.

  Args:
    root: The folder of the `sub-*` folders; no other folder is entered.
    label_column: Column of `participants.tsv`, or of the tables of sessions,
      whose cells win where they are filled; "" leaves every label empty.
    choose: Entities joined by commas, as in "acq-highres,rec-norm": of several
      images of one modality in one session, those that have them are taken.

  Returns:
    Rows, a session each, and their columns. `source` is the Name in
    `dataset_description.json`, or else the folder's.

  Raises:
    InputError: It is no dataset, a name or a table is malformed, or two files
      could be the image of one modality.
  """
  wanted = _entities(choose)
  top = pathlib.Path(os.path.abspath(root))
  if not top.is_dir():
    raise InputError(f"{root}: no such folder; expected {_EXPECTED}")
  source = _source(top)
  folders = [path for path in visible(top, "sub-") if path.is_dir()]
  if not folders:
    raise InputError(
      f"{root}: holds {found(top)} and no sub-* folder; expected {_EXPECTED}"
    )
  table = top / "participants.tsv"
  if top.parent.name == "derivatives" and not table.is_file():
    table = top.parent.parent / "participants.tsv"
  participants, columns = _read_table(table, "participant_id", "sub-")
  rows = []
  for folder in folders:
    of_sessions = folder / f"{folder.name}_sessions.tsv"
    sessions, more = _read_table(of_sessions, "session_id", "ses-")
    columns += [name for name in more if name not in columns]
    for session_id, images in _sessions(folder, wanted):
      ids = {
        "participant_id": folder.name,
        "session_id": session_id,
        "group_id": folder.name,
        "source": source,
      }
      facts = _facts(
        participants.get(folder.name, {}),
        sessions.get(session_id, {}),
        label_column,
      )
      rows.append(ids | facts | images)
  if not rows:
    raise InputError(
      f"{root}: {len(folders)} sub-* folders, but no image in an anat folder;"
      f" expected {_EXPECTED}"
    )
  if label_column:
    _check_label_column(table, label_column, columns, participants, folders)
  return filled(rows, _COLUMNS)


def _facts(
  participant: dict[str, str], session: dict[str, str], label_column: str
) -> dict[str, str]:
  """Returns what the tables say of a session, in the manifest's columns."""
  said = participant | {name: text for name, text in session.items() if text}
  folded = {name.casefold(): text for name, text in said.items()}
  return {
    "label": said.get(label_column, "") if label_column else "",
    "site": folded.get("site", ""),
    "age": folded.get("age", ""),
    "sex": folded.get("sex") or folded.get("gender", ""),
  }


def _source(top: pathlib.Path) -> str:
  """Returns the name of the dataset."""
  file = top / "dataset_description.json"
  description = {}
  if file.is_file():
    try:
      description = json.loads(file.read_text("utf-8-sig"))
    except ValueError as error:
      raise InputError(f"{file}: not JSON ({error}); mend it") from None
    if not isinstance(description, dict):
      raise InputError(f"{file}: not a JSON object; mend it")
  return " ".join(str(description.get("Name") or "").split()) or top.name


def _read_table(
  file: pathlib.Path, key: str, prefix: str
) -> tuple[_Table, list[str]]:
  """Returns the rows by their prefixed id, and the columns; none if absent."""
  if not file.is_file():
    return {}, []
  try:
    text = io.StringIO(file.read_text("utf-8-sig"))
    lines = list(csv.reader(text, delimiter="\t", strict=True))
  except (csv.Error, UnicodeDecodeError) as error:
    raise InputError(
      f"{file}: no tab-separated values in UTF-8 ({error}); save it as such"
    ) from None
  columns = [name.strip() for name in lines[0]] if lines else []
  if key not in columns:
    raise InputError(
      f"{file}: no column {key}, but {', '.join(columns) or 'nothing'}; columns"
      " are separated by tabs"
    )
  table: _Table = {}
  for i, line in enumerate(lines[1:], 2):
    cells = [cell.strip() for cell in line]
    if not any(cells):
      continue
    if len(cells) != len(columns):
      raise InputError(
        f"{file}, line {i}: {len(cells)} cells, but the header names"
        f" {len(columns)} columns; separate them by tabs, n/a is unknown"
      )
    cells = ["" if cell.casefold() == "n/a" else cell for cell in cells]
    row = dict(zip(columns, cells, strict=True))
    row_id = prefix + row[key].removeprefix(prefix)
    if row_id == prefix or row_id in table:
      raise InputError(
        f"{file}, line {i}: {key} {row[key]!r} is empty or stands in an earlier"
        " line; each has one line"
      )
    table[row_id] = row
  return table, columns


def _check_label_column(
  file: pathlib.Path,
  label_column: str,
  columns: list[str],
  participants: _Table,
  folders: list[pathlib.Path],
) -> None:
  """Refuses a column that is nowhere, and a table of other participants."""
  if label_column not in columns:
    there = f"the columns are {', '.join(columns)}" if columns else "no table"
    raise InputError(
      f"{file}: no column {label_column!r} for the labels, nor in a table of"
      f" sessions; {there}"
    )
  if participants and not any(path.name in participants for path in folders):
    raise InputError(
      f"{file}: none of its participants ({', '.join(list(participants)[:3])},"
      f" ...) has a folder here ({folders[0].name}, ...); make the ids equal"
    )


def _entities(choose: str) -> dict[str, str]:
  """Returns the entities of "acq-highres,rec-norm"."""
  parts = [part.strip() for part in choose.split(",") if part.strip()]
  entities = dict(part.split("-", 1) for part in parts if "-" in part)
  if len(entities) < len(parts):
    raise InputError(
      f"--choose={choose}: write entities as in acq-highres,rec-norm"
    )
  return entities


def _sessions(
  folder: pathlib.Path, wanted: dict[str, str]
) -> Iterator[tuple[str, dict[str, str]]]:
  """Yields (session_id, file by image column) of a participant."""
  for place in (folder, *visible(folder, "ses-")):
    session_id = "" if place == folder else place.name
    ids = f"{folder.name}_{session_id}".rstrip("_")
    if (place / "anat").is_dir():
      images = _images(place / "anat", ids, wanted)
      if images:
        yield session_id, images


def _images(
  anat: pathlib.Path, ids: str, wanted: dict[str, str]
) -> dict[str, str]:
  """Returns the file of each image column."""
  candidates: dict[str, list[tuple[dict[str, str], pathlib.Path]]] = {}
  for path in visible(anat):
    name = _NAME.fullmatch(path.name)
    if name is None or name["suffix"] not in _MODALITIES:
      continue
    parts = name["stem"].removeprefix(ids).split("_")[1:]
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    if (
      "_".join((ids, *parts)) != name["stem"]
      or len(entities) < len(parts)
      or entities.keys() & {"sub", "ses"}
      or not entities.get("run", "0").isdecimal()
    ):
      raise InputError(
        f"{path}: no name of BIDS for this folder; expected"
        f" {ids}[_<key>-<value>...]_{name['suffix']}.nii.gz"
      )
    if entities.pop("part", "mag") in _NOT_MAGNITUDE:
      continue
    column = _MODALITIES[name["suffix"]]
    if column == "t1" and "ce" in entities:
      column = "t1c"
    candidates.setdefault(column, []).append((entities, path))
  return {
    column: str(_lowest_run(column, _chosen(files, wanted)))
    for column, files in candidates.items()
  }


def _chosen(
  files: list[tuple[dict[str, str], pathlib.Path]], wanted: dict[str, str]
) -> list[tuple[dict[str, str], pathlib.Path]]:
  """Returns the files with each of the entities, where some have it."""
  for name, value in wanted.items():
    files = [file for file in files if file[0].get(name) == value] or files
  return files


def _lowest_run(
  column: str, files: list[tuple[dict[str, str], pathlib.Path]]
) -> pathlib.Path:
  """Returns the lowest run; refuses files that differ in more than the run."""
  runs = [int(entities.pop("run", "0")) for entities, _ in files]
  first = runs.index(min(runs))
  entities, path = files[first]
  for i, (others, other) in enumerate(files):
    if others != entities or (runs[i] == runs[first] and i != first):
      offers = sorted(
        {
          f"{name}-{value}"
          for several, _ in files
          for name, value in several.items()
          if any(found.get(name) != value for found, _ in files)
        }
      )
      choice = f"choose with --choose={' or '.join(offers)}, " * bool(offers)
      raise InputError(
        f"{path}: {other.name} could be the {column} of this session as well;"
        f" {choice}take one of them out, or write a manifest by hand"
      )
  if not path.is_file():
    raise InputError(
      f"{path}: a link to nothing, or a folder; fetch the file (`datalad get`"
      " in a DataLad dataset)"
    )
  return path
