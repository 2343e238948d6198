import pytest
from many_heads import row

from brainjax.audit import identity


@pytest.mark.parametrize(
  "first, second",
  [
    ("MR024780B", "MR024780D"),
    ("MR048294", "MR048294B"),
    ("BraTS-GLI-00005-000", "BraTS-GLI-00005-101"),
    ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21"),
    ("UCSF-PDGM-0409", "UCSF-PDGM-0409_FU001d"),
    ("UCSF-PDGM-004", "UCSF-PDGM-0004"),
    ("IXI002-Guys-0828", "IXI002-HH-1411"),
    ("sub-07_ses-1", "sub-07_ses-2"),
    ("sub-07", "SUB07"),
    ("case12_pre", "case12_post"),
    ("P003_tp2", "P003"),
    ("scan5", "scan5_aug3"),
    ("12 (1)", "12"),
  ],
)
def test_ids_of_one_person(first, second):
  rows = [row(first), row("another-77"), row(second)]
  (finding,) = identity.check_ids(rows)
  assert (finding.check, finding.severity) == ("ids", "fail")
  assert finding.ids == (tuple(sorted([first, second])),)
  together = [r | {"group_id": "g"} for r in rows]
  assert [f.severity for f in identity.check_ids(together)] == ["note"]


@pytest.mark.parametrize(
  "ids",
  [
    ["phantom-00001", "phantom-00010", "phantom-00100"],
    ["BraTS-GLI-00005-000", "BraTS-GLI-00050-000", "BraTS-MEN-00005-000"],
    ["TCGA-02-0003", "TCGA-02-0006", "TCGA-06-0003"],
    ["101016", "10101", "1010160"],
    ["IXI002-Guys-0828", "IXI012-HH-1211"],
    ["Tr-gl_0010", "Tr-me_0010", "Te-gl_0010"],
  ],
)
def test_ids_of_different_people(ids):
  assert identity.check_ids([row(name) for name in ids]) == []


def test_letters_that_all_ids_have_are_a_scheme():
  ids = [f"site{s}{letter}" for s in range(4) for letter in "ABCDE"]
  (finding,) = identity.check_ids([row(name) for name in ids])
  assert finding.severity == "warn"
  assert "how ids are made" in finding.evidence


def test_general_rules_stay_within_a_source():
  rows = [row("sub-01", source="a"), row("sub01", source="b")]
  assert identity.check_ids(rows) == []
  rows = [
    row("BraTS-GLI-00005-000", source="a"),
    row("BraTS-GLI-00005-001", source="b"),
  ]
  assert [f.severity for f in identity.check_ids(rows)] == ["fail"]


def test_a_slice_level_split_is_caught():
  rows = [
    row("p0", session_id="slice-1", group_id="s1", split="train"),
    row("p0", session_id="slice-2", group_id="s2", split="test"),
    row("p1", session_id="slice-3", group_id="s3", split="test"),
  ]
  (finding,) = identity.check_splits(rows)
  assert finding.severity == "fail"
  assert finding.ids == (("p0",),)
  assert finding.figures == {"torn": 1, "of": 2}
  rows[0]["group_id"] = rows[1]["group_id"]
  checked = {"group", "participant"}
  titles = " ".join(f.title for f in identity.check_splits(rows))
  assert all(what in titles for what in checked)


def test_a_family_in_two_splits_is_caught():
  rows = [row("MR1", split="train"), row("MR1B", split="test")]
  (finding,) = identity.check_splits(rows)
  assert finding.severity == "fail"
  assert identity.check_ids(rows) == []
  others = [row("X", split="train"), row("X", split="test", session_id="2")]
  assert identity.check_splits(rows + others)[-1] == finding
  rows[1]["split"] = "train"
  assert identity.check_splits(rows) == []
  assert [f.severity for f in identity.check_ids(rows)] == ["warn"]


def test_a_participant_has_one_label_group_and_source():
  rows = [
    row("p0", "glioma", source="a"),
    row("p0", "normal", source="b", group_id="other"),
  ]
  found = {f.title: f.severity for f in identity.check_ids(rows)}
  assert found == {
    "1 participant with two labels": "fail",
    "1 participant with two groups": "fail",
    "1 participant with two sources": "warn",
  }


def test_images_without_a_patient_are_no_patients():
  rows = [row("a", patient_id_known="false"), row("b")]
  (finding,) = identity.check_ids(rows)
  assert finding.severity == "fail"
  assert "1 of 2 scans" in finding.evidence


@pytest.mark.parametrize(
  "first, second",
  [
    (row("BraTS2021_00017"), row("UCSF-PDGM-0004")),
    (row("BRATS_457"), row("x", source="BraTS17")),
    (row("1", source="figshare"), row("2", source="kaggle-nickparvar")),
    (row("IXI002"), row("h7", source="SynthStrip")),
  ],
)
def test_sets_that_share_people_are_known(first, second):
  (finding,) = identity.check_overlaps([first, second])
  assert finding.severity == "warn"
  assert "(" in finding.evidence  # who says so
  assert identity.check_overlaps([first]) == []
