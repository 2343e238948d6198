"""BraTS: brain tumours in four modalities, with their masks, of any year.

    2018, 2019  <HGG or LGG>/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_t1ce.nii.gz
    2020, 2021  BraTS20_Training_001/..._t1ce.nii, BraTS2021_00000/...
    from 2023   BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1c.nii.gz, and MEN,
                MET, PED, SSA; MEN-RT with t1c and gtv

The challenge says the type. From 2023 the last number of an id is the time
point, so the patient is what precedes it.

Traps: the years overlap. What is known of it joins the groups: 2023 kept the
numbers of 2021, 2019 the names of 2018, and `name_mapping.csv` says those of
2020. From 2024 the cavity of an operation has the value 4 in a mask, and a
mask counts as tumour what is above 0. Up to 2021 the volumes are stripped and
on one atlas; of MET the grids differ and modalities are absent.
"""

import os
import pathlib
import re

from brainjax.cohort.layouts import files

_OLD = r"(?i:brats)(?:18|19|20|2021)_\w+?"
_NEW = r"BraTS-(?:GLI|MEN|MET|PED|SSA|MEN-RT)-\d+-\d+"
_NAME = re.compile(
  rf"(?P<case>{_OLD}|{_NEW})[_-](?P<kind>[a-zA-Z0-9]+)\.nii(\.gz)?"
)
_KINDS = {
  "t1": "t1",
  "t1n": "t1",
  "t1ce": "t1c",
  "t1c": "t1c",
  "t2": "t2",
  "t2w": "t2",
  "flair": "flair",
  "t2f": "flair",
  "seg": "mask",
  "gtv": "mask",
}
# The mask of BraTS20_Training_355 as it was released.
_ODD_MASK = re.compile(r"W39_1998\.09\.19_Segm\.nii(\.gz)?")
_ODD_CASE = "BraTS20_Training_355"
_LABELS = {
  "GLI": "glioma",
  "MEN": "meningioma",
  "MEN-RT": "meningioma",
  "MET": "metastasis",
  "PED": "glioma",
  "SSA": "glioma",
}
_OLD_VALUES = "1=NCR;2=ED;4=ET"
_VALUES = {
  "GLI": "1=NETC;2=SNFH;3=ET;4=RC",
  "MEN": "1=NETC;2=SNFH;3=ET",
  "MEN-RT": "1=GTV",
  "MET": "1=NETC;2=SNFH;3=ET;4=RC",
  "PED": "1=ET;2=NET;3=CC;4=ED",
  "SSA": "1=NETC;2=SNFH;3=ET",
}
_EXPECTED = (
  "BraTS2021_00000_t1ce.nii.gz, BraTS20_Training_001_t1ce.nii,"
  " Brats18_CBICA_AAB_1_t1ce.nii.gz or BraTS-GLI-00000-000-t1c.nii.gz and so on"
)
_COLUMNS = (
  *("participant_id", "session_id", "group_id", "label"),
  *("t1", "t1c", "t2", "flair", "mask"),
  *("mask_values", "source", "grade"),
)


def read_brats(
  root: str | os.PathLike[str],
) -> tuple[files.Rows, tuple[str, ...]]:
  """Reads any BraTS release into manifest rows.

  Args:
    root: Folder of the cases, at any depth; several releases may lie there.

  Returns:
    Rows, a time point each, and their columns. `mask_values` says what the
    values of the mask mean, `grade` is HGG or LGG where it is known.

  Raises:
    InputError: No file is named as in a release, a case is there twice, or it
      has a mask alone.
  """
  top = files.folder_of(root, _EXPECTED)
  cases = files.images_by_case(top, _NAME, _KINDS, _EXPECTED)
  if _ODD_CASE in cases:
    for path in files.walk(top):
      if _ODD_MASK.fullmatch(path.name) and path.parent.name == _ODD_CASE:
        cases[_ODD_CASE].setdefault("mask", path)
  mapping = files.newest_table(top, r"name_mapping\.csv")
  names = _names_of_2020(mapping) if mapping else {}
  rows = []
  for case, images in cases.items():
    image = next(file for name, file in images.items() if name != "mask")
    rows.append(
      (_row_new if case.startswith("BraTS-") else _row_old)(case, image, names)
      | {column: str(file) for column, file in images.items()}
    )
    if "mask" not in images:
      rows[-1]["mask_values"] = ""
  return files.filled(rows, _COLUMNS)


def _row_new(
  case: str, image: pathlib.Path, names: dict[str, dict[str, str]]
) -> dict[str, str]:
  """Returns what an id from 2023 on says."""
  del names  # only of 2020
  patient, _, time_point = case.rpartition("-")
  challenge = patient.removeprefix("BraTS-").rpartition("-")[0]
  label = _LABELS[challenge]
  # BraTS-Africa also has what is no glioma, in a folder of its own.
  if any("OtherNeoplasms" in part for part in image.parts):
    label = "other neoplasm"
  return {
    "participant_id": patient,
    "session_id": time_point,
    "group_id": patient,
    "label": label,
    "mask_values": _VALUES[challenge],
    "source": f"BraTS-{challenge}",
  }


def _row_old(
  case: str, image: pathlib.Path, names: dict[str, dict[str, str]]
) -> dict[str, str]:
  """Returns what an id up to 2021 says."""
  release, _, rest = case.partition("_")
  year = "20" + release[-2:]
  group, grade = case, ""
  for folder in image.parts:
    if folder.upper() in ("HGG", "LGG"):
      grade = folder.upper()
  if year == "2021":
    group = f"BraTS-GLI-{rest}"
  elif year == "2020":
    grade = names.get(case, {}).get("grade", "")
    earlier = names.get(case, {}).get("brats_2019_subject_id", "")
    group = _group_of_2019(earlier) if earlier else case
  else:
    group = _group_of_2019(case)
  return {
    "participant_id": case,
    "session_id": "",
    "group_id": group,
    "label": "glioma",
    "mask_values": _OLD_VALUES,
    "source": f"BraTS{year}",
    "grade": grade,
  }


def _group_of_2019(case: str) -> str:
  """Returns the patient of an id of 2018 or 2019, without year and scan."""
  return "BraTS_" + re.sub(r"_\d+$", "", case.partition("_")[2])


def _names_of_2020(table: pathlib.Path) -> dict[str, dict[str, str]]:
  return files.read_table(table, "BraTS_2020_subject_ID")
