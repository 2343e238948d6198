"""What the layouts of public sets have in common: file names and tables."""

import csv
import io
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

import xlrd

from brainjax import InputError

Rows = list[dict[str, str]]
_UNKNOWN = ("", "n/a", "na", "nan", "none", "unknown", "not available")


def visible(folder: pathlib.Path, prefix: str = "") -> list[pathlib.Path]:
  """Returns what is in a folder, sorted, without hidden and system entries.

  Args:
    folder: The folder.
    prefix: Of the names wanted.
  """
  return [
    path
    for path in sorted(folder.iterdir())
    if path.name.startswith(prefix)
    and not path.name.startswith((".", "__MACOSX"))
  ]


def found(folder: pathlib.Path) -> str:
  """Says in a few words what is in a folder."""
  names = [path.name for path in visible(folder)]
  if len(names) > 3:
    names[3:] = [f"... ({len(names)} in all)"]
  return ", ".join(names) or "nothing"


def folder_of(root: str | os.PathLike[str], expected: str) -> pathlib.Path:
  """Returns the root as an absolute path; refuses what is no folder."""
  top = pathlib.Path(os.path.abspath(root))
  if not top.is_dir():
    raise InputError(f"{root}: no such folder; expected {expected}")
  return top


def walk(top: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the files under a folder, sorted, at any depth.

  Links to folders are not followed, so a circle of them does no harm; hidden
  and system entries are left out.
  """
  for path in visible(top):
    if path.is_dir():
      if not path.is_symlink():
        yield from walk(path)
    elif path.is_file():
      yield path


def images_by_case(
  top: pathlib.Path,
  name: re.Pattern[str],
  columns: Mapping[str, str],
  expected: str,
) -> dict[str, dict[str, pathlib.Path]]:
  """Collects files whose names say the case and what they show.

  Args:
    top: The folder, searched at any depth.
    name: Of a whole file name, with the groups `case` and `kind`.
    columns: The column of each kind, in lower case; other kinds are passed
      over.
    expected: What the layout looks like, for the error.

  Returns:
    {case: {column: file}}, sorted by case.

  Raises:
    InputError: No file is named so, two are the same image of a case, or a
      case has a mask alone.
  """
  cases: dict[str, dict[str, pathlib.Path]] = {}
  for path in walk(top):
    match = name.fullmatch(path.name)
    column = match and columns.get(match["kind"].lower())
    if not match or not column:
      continue
    images = cases.setdefault(match["case"], {})
    other = images.setdefault(column, path)
    if other != path:
      raise InputError(
        f"{path}: the {column} of {match['case']} is {other} already; remove"
        " one of them"
      )
  if not cases:
    raise InputError(
      f"{top}: it holds {found(top)}, but no file of this layout at any depth;"
      f" expected {expected}"
    )
  for case, images in cases.items():
    if images.keys() == {"mask"}:
      raise InputError(
        f"{images['mask']}: a mask, but there is no image of {case}; expected"
        f" {expected}"
      )
  return dict(sorted(cases.items()))


def filled(
  rows: Rows, columns: tuple[str, ...]
) -> tuple[Rows, tuple[str, ...]]:
  """Returns the rows and columns without those columns that no row fills."""
  always = ("participant_id", "session_id", "group_id", "label", "source")
  kept = tuple(
    name
    for name in columns
    if name in always or any(row.get(name) for row in rows)
  )
  return [{name: row.get(name, "") for name in kept} for row in rows], kept


def read_table(file: pathlib.Path, key: str) -> dict[str, dict[str, str]]:
  """Reads a table of cases.

  Args:
    file: CSV in UTF-8, or the first sheet of an Excel 97 workbook (`.xls`).
    key: The column of the ids; columns are told apart without their case.

  Returns:
    {id: {column in lower case: cell}}; a cell that says `unknown` in one of
    the usual ways is empty, and so is one that two lines of an id contradict.

  Raises:
    InputError: It is no such table.
  """
  lines = _workbook(file) if file.suffix.lower() == ".xls" else _csv(file)
  columns = [name.strip().casefold() for name in lines[0]] if lines else []
  if key.casefold() not in columns:
    raise InputError(
      f"{file}: no column {key}, but {', '.join(columns) or 'nothing'}; get the"
      " table of the release"
    )
  table: dict[str, dict[str, str]] = {}
  for line in lines[1:]:
    cells = [
      "" if (cell := text.strip()).casefold() in _UNKNOWN else cell
      for text in line
    ]
    facts = dict(zip(columns, cells, strict=False))
    case = facts.get(key.casefold(), "")
    if not case:
      continue
    before = table.setdefault(case, facts)
    table[case] = {
      name: text if before.get(name, "") == text else ""
      for name, text in facts.items()
    }
  return table


def _csv(file: pathlib.Path) -> list[list[str]]:
  try:
    text = file.read_text("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))
  except (csv.Error, UnicodeDecodeError, OSError) as error:
    raise InputError(
      f"{file}: no CSV in UTF-8 ({error}); save it as such"
    ) from None


def _workbook(file: pathlib.Path) -> list[list[str]]:
  try:
    sheet = xlrd.open_workbook(str(file), logfile=io.StringIO()).sheet_by_index(
      0
    )
    return [
      [str(cell) for cell in sheet.row_values(row)]
      for row in range(sheet.nrows)
    ]
  except Exception as error:  # xlrd raises all kinds on what is damaged
    raise InputError(
      f"{file}: no Excel 97 workbook ({error}); save it as CSV"
    ) from error


def newest_table(top: pathlib.Path, pattern: str) -> pathlib.Path | None:
  """Returns the table whose name sorts last, numbers as numbers; or None."""

  def order(path: pathlib.Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]

  tables = [
    path for path in walk(top) if re.fullmatch(pattern, path.name, re.I)
  ]
  return max(tables, key=order) if tables else None
