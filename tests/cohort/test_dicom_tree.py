import csv

import numpy as np
import pytest
from pydicom.uid import generate_uid

from brainjax import InputError
from brainjax.cohort import dicom_headers, dicom_series, manifest
from brainjax.cohort.layouts import LAYOUTS
from dicom_files import write_series

ARRAY = np.random.default_rng(0).integers(0, 4000, (4, 5, 6))


def read(root, out, **options):
  rows, columns = LAYOUTS["dicom"](root, out=out, **options)
  manifest.write_manifest(out, rows, columns)
  with open(out.with_name(f"{out.stem}_series.csv"), newline="") as file:
    return manifest.read_manifest(out).rows, list(csv.DictReader(file))


def write_tree(root):
  """Two patients, one of them twice, and what hospitals export beside."""
  for patient, study, day, name in (
    ("MRN-1", "1.1", "20200101", "Roe^Jane"),
    ("MRN-1", "1.2", "20190101", "Roe^Jane"),
    ("MRN-2", "1.3", "20180101", "Poe^John"),
  ):
    facts = {"PatientID": patient, "StudyDate": day, "PatientName": name}
    for number, text in enumerate(("t1_mprage", "t1 mprage +C", "survey"), 1):
      write_series(
        root / study / f"S{number}",
        ARRAY,
        study=study,
        SeriesNumber=number,
        SeriesDescription=f"{text} {name[:3]}",
        **facts,
      )
  for number, count in ((4, 6), (5, 5)):  # both in one folder
    write_series(
      root / "1.3" / "mixed",
      ARRAY[:, :, :count],
      prefix=f"N{number}",
      study="1.3",
      SeriesNumber=number,
      SeriesDescription="AX FLAIR",
      PatientID="MRN-2",
    )
  write_series(root / "ct", ARRAY, Modality="CT")
  return root


def test_studies_become_rows_without_names_and_dates(tmp_path):
  root = write_tree(tmp_path / "export")
  rows, series = read(root, tmp_path / "out" / "m.csv")
  ids = [row["participant_id"] for row in rows]
  assert sorted(ids, key=ids.index) == ids and len(set(ids)) == 2
  one = next(i for i in ids if ids.count(i) == 2)
  cells = {
    (row["participant_id"] == one, row["session_id"]): row for row in rows
  }
  assert cells[True, "1"]["t1"] == "../export/1.2/S1"  # the earlier day
  assert cells[True, "2"]["t1c"] == "../export/1.1/S2"
  last = cells[False, "1"]
  assert last["flair"].startswith("../export/1.3/mixed#")
  assert (last["age"], last["sex"], last["label"]) == ("57", "F", "")
  assert last["scanner"] == "SIEMENS Skyra 3T"
  flairs = [s for s in series if s["modality"] == "flair"]
  assert [(s["series"], s["taken"]) for s in flairs] == [
    ("4", "yes"),
    ("5", "no"),
  ]
  assert {s["problem"] for s in series if "survey" in s["description"]} == {
    "a localiser"
  }
  assert series[-1]["problem"] == "CT, not MR" and series[-1]["images"] == "6"
  for file in (tmp_path / "out").iterdir():
    text = file.read_text().casefold()
    for word in ("mrn", "roe", "poe", "2020", "2019", "1964"):
      assert word not in text.replace("export", ""), (file, word)


def test_the_secret_keeps_the_ids_and_without_it_they_are_others(tmp_path):
  root = write_tree(tmp_path / "export")
  first, _ = read(root, tmp_path / "a.csv")
  again, _ = read(root, tmp_path / "a.csv")
  other, _ = read(root, tmp_path / "b.csv")
  assert again == first
  assert {r["participant_id"] for r in first}.isdisjoint(
    r["participant_id"] for r in other
  )
  kept, _ = read(root, tmp_path / "c.csv", keep_ids=True)
  assert {row["participant_id"] for row in kept} == {"MRN-1", "MRN-2"}
  for text in ("nothing", "", "ab" * 31):
    (tmp_path / "a_ids.key").write_text(text)
    with pytest.raises(InputError, match="a_ids.key: not the secret"):
      read(root, tmp_path / "a.csv")


def test_a_path_does_not_give_away_whose_scan_it_is(tmp_path):
  write_series(tmp_path / "export" / "mrn-12345" / "S1", ARRAY)
  out = tmp_path / "m.csv"
  with pytest.raises(InputError, match="S1: the PatientID is in the path"):
    read(tmp_path / "export", out)
  assert list(tmp_path.glob("m*")) == []
  rows, _ = read(tmp_path / "export", out, keep_ids=True)
  assert rows[0]["participant_id"] == "MRN-12345"


@pytest.mark.parametrize(
  "folder, what, shown",
  [
    ("MRN-12345_a", "PatientID", "ct/?_a"),
    ("Jane.DOE", "PatientName", "ct/?"),
    ("doejane1", "PatientName", "ct/?1"),
    ("of 2021-03-04", "StudyDate", "ct/of ?"),
    ("04.03.2021", "StudyDate", "ct/?"),
    ("Doe_20210304", "PatientName and the StudyDate", "ct/?_?"),
  ],
)
@pytest.mark.parametrize("damaged", [False, True])
def test_nor_does_the_path_of_a_file_left_out(
  tmp_path, folder, what, shown, damaged
):
  root = tmp_path / "export"
  write_series(root / "mr", ARRAY)
  (file, *_) = write_series(
    root / "ct" / folder, ARRAY[:, :, :1], Modality="CT"
  )
  if damaged:
    file.write_bytes(bytes(128) + b"DICM" + bytes(9))
  with pytest.raises(InputError, match=f"the {what} is in the path") as raised:
    read(root, tmp_path / "m.csv")
  assert str(raised.value).startswith(f"export/{shown}: ")
  file.parent.rename(root / "ct" / "janet 120210304")
  _, series = read(root, tmp_path / "m.csv")
  assert series[-1]["cell"] == "export/ct/janet 120210304"


def test_a_file_that_may_not_be_read_is_listed(tmp_path, monkeypatch):
  write_series(tmp_path / "export" / "mr", ARRAY)
  file = tmp_path / "export" / "shut" / "IM"
  file.parent.mkdir()
  file.touch()
  has_magic = dicom_headers.has_magic

  def refuses(path):
    if path == file:
      raise PermissionError(13, "Permission denied", str(path))
    return has_magic(path)

  monkeypatch.setattr(dicom_headers, "has_magic", refuses)
  _, series = read(tmp_path / "export", tmp_path / "m.csv")
  assert [row["taken"] for row in series] == ["yes", "no"]
  assert series[-1]["problem"] == "not readable: Permission denied"
  assert series[-1]["cell"] == "export/shut"


def test_a_study_of_nobody_is_a_participant_of_its_own(tmp_path):
  for study in ("1.1", "1.2"):
    write_series(tmp_path / study, ARRAY, study=study, PatientID="ANONYMOUS")
  rows, _ = read(tmp_path, tmp_path / "m.csv")
  assert len({row["participant_id"] for row in rows}) == 2
  assert {row["patient_id_known"] for row in rows} == {"false"}


def test_an_original_goes_before_what_was_derived_from_it(tmp_path):
  uid = generate_uid()
  for name, kind, count in (("O", "ORIGINAL", 5), ("D", "DERIVED", 6)):
    write_series(
      tmp_path / name,
      ARRAY[:, :, :count],
      ImageType=[kind, "PRIMARY", name],
      StudyInstanceUID=uid,
    )
  rows, _ = read(tmp_path, tmp_path / "m.csv")
  assert rows[0]["t1"] == "O"


def test_what_nobody_can_guess_is_listed_and_refused(tmp_path):
  write_series(tmp_path / "s", ARRAY, SeriesDescription="AX SE")
  with pytest.raises(InputError, match="no series says what .*m_series.csv"):
    read(tmp_path / "s", tmp_path / "m.csv")
  assert "AX SE" in (tmp_path / "m_series.csv").read_text()
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="empty: no DICOM image .*expected a tr"):
    read(tmp_path / "empty", tmp_path / "m.csv")


@pytest.mark.parametrize(
  "description, contrast, modality",
  [
    ("t1_mprage_sag_p2_iso", "", "t1"),
    ("t1_mprage_sag_p2_iso", "Gadavist", "t1c"),
    ("AX T1 POST", "", "t1c"),
    ("Ax T1 +C", "", "t1c"),
    ("Ax T1 PRE", "", "t1"),
    ("t1_se_tra_KM", "", "t1c"),
    ("T1 pre and post", "", ""),
    ("Ax T1 FLAIR", "", "t1"),
    ("Ax T2 FLAIR", "Gadavist", "flair"),
    ("t2_tirm_tra_dark-fluid", "", "flair"),
    ("t2_tse_tra_448", "", "t2"),
    ("T2* GRE", "", ""),
    ("ep2d_diff_3scan_trace", "", "dwi"),
    ("ep2d_diff_3scan_trace_ADC", "", "adc"),
    ("Ax SWI mIP", "", ""),
    ("VenoBOLD", "", "swi"),
    ("pd_tse_sag", "", "pd"),
    ("ep2d_bold_rest", "", ""),
    ("DSC PERFUSION", "Gadavist", ""),
    ("3D TOF", "", ""),
    ("AX", "", ""),
  ],
)
def test_the_kind_of_a_series_is_guessed_with_care(
  description, contrast, modality
):
  assert dicom_series.modality_of(description, contrast) == modality
