"""IXI: heads of healthy people from three hospitals in London.

brain-development.org/ixi-dataset, CC BY-SA 3.0. The archives unpack to flat
folders of `IXI<id>-<site>-<scan>-<modality>.nii.gz`. Age and sex are in
`IXI.xls`.

Traps: each hospital has its own scanner; the heads have their skulls; the sets
of T1 and T2 differ; IXI_ID repeats in the table, or lacks an age.
"""

import os
import pathlib
import re

from brainjax import InputError
from brainjax.cohort.layouts import files

_NAME = re.compile(
  r"(?P<case>IXI\d{3}-(?:Guys|HH|IOP)-\d+)-(?P<kind>\w+)\.nii(\.gz)?"
)
_MODALITIES = {"t1": "t1", "t2": "t2", "pd": "pd"}
_SCANNERS = {
  "Guys": "Philips 1.5T",
  "HH": "Philips 3T",
  "IOP": "GE 1.5T",
}
_EXPECTED = "IXI<id>-<Guys, HH or IOP>-<scan>-<T1, T2 or PD>.nii.gz"
_SEX = {"1": "M", "2": "F"}
_COLUMNS = (
  *("participant_id", "session_id", "group_id", "label"),
  *("t1", "t2", "pd"),
  *("source", "site", "scanner", "age", "sex"),
)


def read_ixi(
  root: str | os.PathLike[str],
) -> tuple[files.Rows, tuple[str, ...]]:
  """Reads the IXI set into manifest rows.

  Args:
    root: Folder of the unpacked archives, at any depth, with `IXI.xls`, or
      the same as `IXI.csv`, beside them or without.

  Returns:
    Rows, a person's visit each, and their columns; every label is "normal".

  Raises:
    InputError: No file is named as in the release, or the table is another.
  """
  top = files.folder_of(root, _EXPECTED)
  cases = files.images_by_case(top, _NAME, _MODALITIES, _EXPECTED)
  facts = _demographics(top)
  rows = []
  for case, images in cases.items():
    person, site, scan = case.split("-")
    rows.append(
      {
        "participant_id": person,
        "session_id": scan,
        "group_id": person,
        "label": "normal",
        "source": "IXI",
        "site": site,
        "scanner": _SCANNERS[site],
      }
      | facts.get(int(person.removeprefix("IXI")), {})
      | {column: str(file) for column, file in images.items()}
    )
  return files.filled(rows, _COLUMNS)


def _demographics(top: pathlib.Path) -> dict[int, dict[str, str]]:
  """Returns age and sex by the number of the person."""
  table = files.newest_table(top, r"IXI\.csv") or files.newest_table(
    top, r"IXI\.xls"
  )
  if table is None:
    return {}
  facts = {}
  for person, cells in files.read_table(table, "IXI_ID").items():
    try:
      number = int(float(person))
    except (ValueError, OverflowError):  # of inf
      raise InputError(
        f"{table}: IXI_ID {person!r} is no number; get the table again"
      ) from None
    sex = next(
      (text for name, text in cells.items() if name.startswith("sex")), ""
    )
    age = cells.get("age", "")
    facts[number] = {"age": age, "sex": _SEX.get(sex.split(".")[0], "")}
  return facts
