import collections
import csv
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pytest

from brainjax import InputError
from brainjax.cohort import manifest
from brainjax.cohort.layouts import LAYOUTS, figshare


def write_slice(root, number, pid, label):
  folder = root / "unpacked" / f"brainTumorDataPublic_{number // 100}"
  folder.mkdir(parents=True, exist_ok=True)
  codes = np.array([[ord(letter)] for letter in pid], np.uint16)
  with h5py.File(folder / f"{number}.mat", "w", userblock_size=512) as file:
    file["cjdata/PID"] = codes
    file["cjdata/label"] = np.array([[float(label)]])
  return folder / f"{number}.mat"


@pytest.fixture
def release(tmp_path):
  root = tmp_path / "release"
  for number, pid, label in [
    (9, "101016", 1),
    (10, "101016", 1),
    (11, "MR040240B", 2),
    (12, "MR040240", 2),
    (100, "101016", 1),
    (102, "101016", 1),
    (103, "pit7", 3),
  ]:
    write_slice(root, number, pid, label)
  with h5py.File(root / "unpacked" / "cvind.mat", "w") as file:
    file["cvind"] = np.ones(7)
  return root


def read(root, unit):
  """(participant, session, group, label, files' numbers) of each row."""
  rows, columns = LAYOUTS["figshare"](root, unit=unit)
  path = root.parent / "out" / "manifest.csv"
  manifest.write_manifest(path, rows, columns)
  result = manifest.read_manifest(path)
  assert result.modalities == ("t1c",)
  found = []
  for row in result.rows:
    images = manifest.image_files(result, row, "t1c")
    assert manifest.image_files(result, row, "mask") == images
    assert all(os.path.isfile(image) for image in images)
    ids = [row[key] for key in ("participant_id", "session_id", "group_id")]
    numbers = [int(image.stem) for image in images]
    found.append((*ids, row["label"], numbers))
    assert row["source"] == "figshare"
  return found


def test_a_patient_is_all_files_of_one_id_by_number(release):
  assert read(release, "patient") == [
    ("101016", "", "101016", "meningioma", [9, 10, 100, 102]),
    ("MR040240B", "", "MR040240", "glioma", [11]),
    ("MR040240", "", "MR040240", "glioma", [12]),
    ("pit7", "", "pit7", "pituitary", [103]),
  ]


def test_a_run_is_consecutive_files_of_one_id(release):
  assert read(release, "run") == [
    ("101016", "run-9", "101016", "meningioma", [9, 10]),
    ("MR040240B", "run-11", "MR040240", "glioma", [11]),
    ("MR040240", "run-12", "MR040240", "glioma", [12]),
    ("101016", "run-100", "101016", "meningioma", [100]),
    ("101016", "run-102", "101016", "meningioma", [102]),
    ("pit7", "run-103", "pit7", "pituitary", [103]),
  ]


def test_a_slice_is_a_file(release):
  found = read(release, "slice")
  assert [row[1] for row in found[:3]] == ["slice-9", "slice-10", "slice-11"]
  assert [row[4] for row in found] == [
    [9],
    [10],
    [11],
    [12],
    [100],
    [102],
    [103],
  ]


def test_patient_is_the_default_unit(release):
  assert len(figshare.read_figshare(release)[0]) == 4


def test_an_unknown_unit_is_refused(release):
  with pytest.raises(InputError, match="unit 'scan': .*patient, run, slice"):
    figshare.read_figshare(release, unit="scan")


def test_a_folder_without_slices_is_refused(tmp_path):
  (tmp_path / "cvind.mat").touch()
  (tmp_path / "brainTumorDataPublic_1-766.zip").touch()
  found = "766.zip, cvind.mat, but no slices; .*unpacked"
  with pytest.raises(InputError, match=found):
    figshare.read_figshare(tmp_path)
  with pytest.raises(InputError, match="no such folder; .*unpacked"):
    figshare.read_figshare(tmp_path / "missing")


def test_a_slice_that_is_there_twice_is_refused(release):
  write_slice(release / "copy", 9, "101016", 1)
  with pytest.raises(InputError, match="slice 9 is .*9.mat already"):
    figshare.read_figshare(release)


def test_contradicting_labels_of_an_id_are_refused(release):
  write_slice(release, 104, "101016", 2)
  with pytest.raises(InputError, match="104.mat: glioma, but .* meningioma"):
    figshare.read_figshare(release)


def test_a_damaged_file_is_named(release):
  file = write_slice(release, 105, "101016", 1)
  file.write_bytes(file.read_bytes()[:600])
  with pytest.raises(InputError, match="105.mat: not a slice"):
    figshare.read_figshare(release)


def test_a_file_without_the_fields_is_named(release):
  with h5py.File(release / "106.mat", "w") as file:
    file["cjdata/label"] = np.array([[1.0]])
  with pytest.raises(InputError, match="106.mat: not a slice"):
    figshare.read_figshare(release)


@pytest.mark.parametrize("pid, label", [("101016", 4), (" ", 1)])
def test_values_unknown_to_the_release_are_refused(release, pid, label):
  write_slice(release, 107, pid, label)
  with pytest.raises(InputError, match=f"107.mat: .*label {label}"):
    figshare.read_figshare(release)


@pytest.mark.slow
def test_counts_of_the_real_set(data_root):
  script = data_root / "figshare" / "expand.py"
  with tempfile.TemporaryDirectory() as root:
    subprocess.run([sys.executable, script, root], check=True)
    patients, _ = figshare.read_figshare(root)
    runs, _ = figshare.read_figshare(root, unit="run")
  assert (len(patients), len(runs)) == (179, 471)
  assert len({row["group_id"] for row in patients}) == 157
  slices = collections.Counter()
  for row in patients:
    slices[row["label"]] += row["t1c"].count(";") + 1
  with open(data_root / "figshare" / "slices.csv", newline="") as file:
    assert slices == collections.Counter(
      r["class"] for r in csv.DictReader(file)
    )
