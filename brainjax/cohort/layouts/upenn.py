"""UPENN-GBM: glioblastomas, with and without their skulls.

Bakas et al. 2022, doi:10.1038/s41597-022-01560-7; TCIA, CC BY 4.0. Folders
`UPENN-GBM-00001_11` with `UPENN-GBM-00001_11_T1GD.nii.gz` and so on, masks in
`images_segm` or `automated_segm`, a table `UPENN-GBM_clinical_info_*.csv`.

Traps: the number behind the patient's is the time point, 11 before the
operation and 21 a later one; experts corrected the masks of some cases alone.
Many cases are in BraTS too, and no table says which.
"""

import os
import re

from brainjax import InputError
from brainjax.cohort.layouts import files

_NAME = re.compile(r"(?P<case>UPENN-GBM-\d{5}_\d\d)_(?P<kind>\w+?)\.nii(\.gz)?")
_MODALITIES = {"t1": "t1", "t1gd": "t1c", "t2": "t2", "flair": "flair"}
_MASKS = {"segm": "expert", "automated_approx_segm": "automated"}
_FACTS = {
  "gender": "sex",
  "age_at_scan_years": "age",
  "idh1": "idh",
  "mgmt": "mgmt",
}
_EXPECTED = (
  "UPENN-GBM-<number>_<11 or 21>/UPENN-GBM-<number>_11_<T1, T1GD, T2 or"
  " FLAIR>[_unstripped].nii.gz"
)
_COLUMNS = (
  *("participant_id", "session_id", "group_id", "label"),
  *("t1", "t1c", "t2", "flair", "mask"),
  *("mask_values", "mask_by", "source", *_FACTS.values()),
)


def read_upenn(
  root: str | os.PathLike[str], *, unstripped: bool = False
) -> tuple[files.Rows, tuple[str, ...]]:
  """Reads UPENN-GBM into manifest rows.

  Args:
    root: Folder of the cases, the masks and the table, at any depth.
    unstripped: Take the images with their skulls.

  Returns:
    Rows, a time point each, and their columns; every label is "glioma", and
    `mask_by` is "expert" or "automated".

  Raises:
    InputError: No such image is named as in the release, or the table is
      another.
  """
  top = files.folder_of(root, _EXPECTED)
  ending = "_unstripped" if unstripped else ""
  kinds = {
    **{kind + ending: name for kind, name in _MODALITIES.items()},
    **{kind: by for kind, by in _MASKS.items()},
  }
  cases = files.images_by_case(top, _NAME, kinds, _EXPECTED)
  table = files.newest_table(top, r"UPENN-GBM_clinical_info.*\.csv")
  facts = files.read_table(table, "ID") if table else {}
  rows = []
  for case, images in cases.items():
    masks = [by for by in _MASKS.values() if by in images]
    modalities = [name for name in _MODALITIES.values() if name in images]
    if not modalities:  # a mask of what lies here in the other form
      continue
    patient, _, time_point = case.partition("_")
    said = facts.get(case, {})
    rows.append(
      {
        "participant_id": patient,
        "session_id": time_point,
        "group_id": patient,
        "label": "glioma",
        "source": "UPENN-GBM",
        "mask": str(images[masks[0]]) if masks else "",
        "mask_values": "1=NCR;2=ED;4=ET" if masks else "",
        "mask_by": masks[0] if masks else "",
      }
      | {column: said.get(name, "") for name, column in _FACTS.items()}
      | {name: str(images[name]) for name in modalities}
    )
  if not rows:
    raise InputError(
      f"{top}: {len(cases)} masks, but none of their images"
      f" {'with' if unstripped else 'without'} the skull; expected {_EXPECTED}"
    )
  return files.filled(rows, _COLUMNS)
