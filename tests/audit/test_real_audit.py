"""What is wrong with public sets is found in them."""

import collections
import csv
import re

import many_heads
import numpy as np

from brainjax.audit import confounds, identity
from brainjax.audit.describe import Scan, describe_file
from brainjax.cohort import manifest


def test_figshare_ids_and_numbers_of_slices(data_root):
  with open(data_root / "figshare" / "slices.csv", newline="") as file:
    slices = list(csv.DictReader(file))
  counts = collections.Counter(s["patient_id"] for s in slices)
  label_of = {s["patient_id"]: s["class"] for s in slices}
  scans = [
    Scan(many_heads.row(pid, label_of[pid]), numbers={"slices": np.array([n])})
    for pid, n in counts.items()
  ]
  rows = [scan.row for scan in scans]
  (families,) = identity.check_ids(rows)
  assert families.severity == "fail"
  assert ("MR024780B", "MR024780D", "MR024780E", "MR024780G") in families.ids
  assert families.figures == {"families": 16, "ids": 38}
  grouped = [
    row | {"group_id": re.sub("[A-Z]+$", "", row["group_id"])} for row in rows
  ]
  assert [f.severity for f in identity.check_ids(grouped)] == ["note"]
  found = {
    f.check: f for f in confounds.check_facts(confounds.ask(scans), scans)
  }
  assert found["slices"].severity == found["id_prefix"].severity == "fail"
  assert found["slices"].figures["best_class"] == "meningioma"
  assert found["id_prefix"].figures["best_class"] == "glioma"
  assert found["id_prefix"].figures["auc"] > 0.85


def test_the_impossible_spacing_of_gbm_progression(data_root):
  path = data_root / "gbm_progression" / "manifest.csv"
  row = many_heads.row("gbm-01") | {"t1c": "01/Pre_Scan_T1.nii.gz"}
  files = manifest.Manifest(path, tuple(row), (), ("t1c",))
  (false,) = describe_file(files, row).impossible
  assert re.search("1 x 1 x 1 mm its brain spans .* bottom to top", false)
  scan = describe_file(files, row | {"spacing_mm": "0.86;0.86;5.7"})
  assert scan.impossible == ()
