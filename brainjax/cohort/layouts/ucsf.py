"""UCSF-PDGM: diffuse gliomas before their operation, one 3 T protocol.

Calabrese et al. 2022, doi:10.1148/ryai.220058; TCIA, CC BY 4.0. Folders
`UCSF-PDGM-0004_nifti` with `UCSF-PDGM-0004_T1c.nii.gz` and so on, and a table
`UCSF-PDGM-metadata_v<n>.csv`.

Traps: the table writes ids with three digits, the folders with four; six
studies `_FU<days>d` are later ones of a patient; some patients are also in
BraTS 2021, which the table of version 5 names, and the group is then that of
the layout `brats`. `*_bias` images are corrected ones; the plain are taken.
"""

import os
import re

from brainjax.cohort.layouts import files

_NAME = re.compile(
  r"(?P<case>UCSF-PDGM-\d{4}(?:_FU\d+d)?)_(?P<kind>\w+?)\.nii(\.gz)?"
)
_KINDS = {
  "t1": "t1",
  "t1c": "t1c",
  "t2": "t2",
  "flair": "flair",
  "swi": "swi",
  "dwi": "dwi",
  "adc": "adc",
  "tumor_segmentation": "mask",
}
_FACTS = {
  "sex": "sex",
  "age at mri": "age",
  "who cns grade": "grade",
  "final pathologic diagnosis (who 2021)": "diagnosis",
  "idh": "idh",
  "mgmt status": "mgmt",
  "1p/19q": "1p19q",
}
_EXPECTED = "UCSF-PDGM-<number>_nifti/UCSF-PDGM-<number>_<T1c, ...>.nii.gz"
_COLUMNS = (
  *("participant_id", "session_id", "group_id", "label"),
  *("t1", "t1c", "t2", "flair", "swi", "dwi", "adc", "mask"),
  *("mask_values", "source", *_FACTS.values()),
)


def read_ucsf(
  root: str | os.PathLike[str],
) -> tuple[files.Rows, tuple[str, ...]]:
  """Reads UCSF-PDGM into manifest rows.

  Args:
    root: Folder of the cases and of the table, at any depth.

  Returns:
    Rows, a study each, and their columns; every label is "glioma".

  Raises:
    InputError: No file is named as in the release, a case has a mask alone, or
      the table is another.
  """
  top = files.folder_of(root, _EXPECTED)
  cases = files.images_by_case(top, _NAME, _KINDS, _EXPECTED)
  table = files.newest_table(top, r"UCSF-PDGM-metadata.*\.csv")
  facts = {}
  if table:
    for case, cells in files.read_table(table, "ID").items():
      facts[_four_digits(case)] = cells
  rows = []
  for case, images in cases.items():
    patient, _, session = case.partition("_")
    # A later study without a line of its own is not that of the first's age.
    said = facts.get(case, {})
    first = facts.get(patient, {})
    brats = said.get("brats21 id") or first.get("brats21 id", "")
    rows.append(
      {
        "participant_id": patient,
        "session_id": session,
        "group_id": brats.replace("BraTS2021_", "BraTS-GLI-") or patient,
        "label": "glioma",
        "source": "UCSF-PDGM",
        "mask_values": "1=NCR;2=ED;4=ET" if "mask" in images else "",
      }
      | {column: said.get(name, "") for name, column in _FACTS.items()}
      | {column: str(file) for column, file in images.items()}
    )
  return files.filled(rows, _COLUMNS)


def _four_digits(case: str) -> str:
  """Writes an id of the table as the folders do.

  >>> _four_digits("UCSF-PDGM-004_FU175d")
  'UCSF-PDGM-0004_FU175d'
  """
  return re.sub(
    r"(?<=UCSF-PDGM-)\d+", lambda digits: digits[0].zfill(4), case, count=1
  )
