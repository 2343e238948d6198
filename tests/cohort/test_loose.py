import pathlib

import pytest

from brainjax.cohort import loose
from brainjax.cohort.manifest import image_files


def test_rows_are_those_of_a_manifest(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  files = {"t1c": pathlib.Path("a.nii.gz"), "flair": tmp_path / "b.nii"}
  manifest = loose.manifest_of_files([files], ("t1c", "t2", "flair"))
  (row,) = manifest.rows
  assert row["participant_id"] == row["group_id"] == "a"
  assert row["session_id"] == row["label"] == ""
  assert manifest.modalities == ("t1c", "t2", "flair")
  # Whatever the working directory is later.
  monkeypatch.chdir("/")
  assert image_files(manifest, row, "t1c") == (tmp_path / "a.nii.gz",)
  assert image_files(manifest, row, "flair") == (tmp_path / "b.nii",)
  assert image_files(manifest, row, "t2") == ()


def test_the_name_of_a_folder_has_no_suffix(tmp_path):
  (tmp_path / "1.2.840").mkdir()
  scans = [{"t1": tmp_path / "1.2.840"}]
  (row,) = loose.manifest_of_files(scans, ("t1",)).rows
  assert row["participant_id"] == "1.2.840"


@pytest.mark.parametrize(
  "files, names",
  [
    (["x/T1.nii.gz"], ["T1"]),
    (["x/T1.nii.gz", "x/T2.nii"], ["T1", "T2"]),
    (["x/T1.nii.gz", "y/T1.nii.gz"], ["x_T1", "y_T1"]),
    (
      ["x/a/T1.nii", "y/a/T1.nii", "y/b/T1.nii"],
      ["x_a_T1", "y_a_T1", "y_b_T1"],
    ),
    (["x/T1.nii", "x/T1.nii.gz"], ["T1", "T1"]),
    (["x/sub-1.anat.nii.gz", "x/scan"], ["sub-1.anat", "scan"]),
    (["x/T1.nii", "x/../x/T1.nii"], ["T1", "T1"]),
  ],
)
def test_names_take_as_few_folders_as_tell_scans_apart(files, names):
  scans = [{"t1": pathlib.Path("/") / file} for file in files]
  manifest = loose.manifest_of_files(scans, ("t1",))
  assert [row["participant_id"] for row in manifest.rows] == names
