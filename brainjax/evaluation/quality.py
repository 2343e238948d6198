"""A picture of every prepared scan, and a page of them to look through.

    RECORDS/quality/NAME.png   a scan: slices, outlines of brain and tumour
    RECORDS/quality.html       all of them, those with a warning first

The page needs no network, and loads a picture when it comes into view.
"""

import csv
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from brainjax import records
from brainjax.evaluation import figures, montage, report

_NAME_LENGTH = 80


def write_quality(
  folder: pathlib.Path,
  *,
  progress: Callable[..., Iterable[Any]] | None = None,
) -> pathlib.Path:
  """Draws every scan of a folder of records that is not drawn yet.

  Args:
    folder: The records.
    progress: `(iterable, total) -> iterable`, to show how far a loop is.

  Returns:
    Path of the page.
  """
  record_set = records.RecordSet(folder)
  pictures = folder / "quality"
  pictures.mkdir(exist_ok=True)
  names = [
    _name(row, entry["key"])
    for row, entry in zip(
      record_set.rows, record_set.index["records"], strict=True
    )
  ]
  missing = [
    i for i, name in enumerate(names) if not (pictures / name).exists()
  ]
  for i in progress(missing, len(missing)) if progress else missing:
    sheet = montage.contact_sheet(
      [record_set[i]],
      [""],
      modalities=record_set.index["modalities"],
      title=_caption(record_set.rows[i]),
    )
    figures.save_png(sheet, pictures / names[i])
  for file in pictures.glob("*.png"):
    if file.name not in names:
      file.unlink()
  warnings = _warnings(folder)
  scans = [
    {
      "file": f"quality/{name}",
      "caption": _caption(row),
      "warnings": warnings.get((row["participant_id"], row["session_id"]), ()),
    }
    for name, row in zip(names, record_set.rows, strict=True)
  ]
  scans.sort(key=lambda scan: not scan["warnings"])
  page = report.template("quality").render(
    name=folder.resolve().name,
    scans=scans,
    num_warned=sum(bool(scan["warnings"]) for scan in scans),
    rejected=_read_csv(folder / "rejected.csv"),
    preparation=record_set.index["preparation"],
  )
  out = folder / "quality.html"
  records.write_text(out, page)
  return out


def _name(row: Mapping[str, str], key: str) -> str:
  """Names a picture by the scan and by what it was made from."""
  text = f"{row['participant_id']} {row['session_id']}"
  stem = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
  return f"{stem[:_NAME_LENGTH] or 'scan'}-{key[:12]}.png"


def _caption(row: Mapping[str, str]) -> str:
  cells = (row["participant_id"], row["session_id"], row["label"])
  return " ".join(filter(None, cells))


def _warnings(folder: pathlib.Path) -> dict[tuple[str, str], list[str]]:
  found: dict[tuple[str, str], list[str]] = {}
  for row in _read_csv(folder / "warnings.csv"):
    scan = (row["participant_id"], row["session_id"])
    found.setdefault(scan, []).append(row["warning"])
  return found


def _read_csv(path: pathlib.Path) -> list[dict[str, str]]:
  with open(path, newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))
