import numpy as np
from many_heads import row

from brainjax.audit.copies import check_copies
from brainjax.audit.describe import Scan

A, B, C = np.eye(3, dtype=np.float32)


def scan(name, digest, fingerprint, **cells):
  images = cells.pop("images", ())
  cells = row(name, **cells)
  return Scan(
    cells, digest=digest, fingerprint=fingerprint, image_digests=images
  )


def severities(*scans):
  return [finding.severity for finding in check_copies(scans)]


def test_different_scans_are_none():
  assert severities(scan("a", "1", A), scan("b", "2", B)) == []


def test_equal_voxels_of_two_people_fail():
  (finding,) = check_copies(
    [
      scan("a", "1", A, label="glioma", split="train", source="s"),
      scan("b", "1", A, label="normal", split="test", source="t"),
    ]
  )
  assert finding.severity == "fail"
  assert finding.ids == (("a", "b"),)
  for text in ("train and test", "glioma and normal", "s and t"):
    assert text in finding.evidence


def test_a_group_may_hold_both_but_not_twice():
  assert severities(scan("a", "1", A), scan("b", "1", A, group_id="a")) == [
    "warn"
  ]
  again = scan("a", "1", A, session_id="2")
  assert severities(scan("a", "1", A), again) == ["warn"]


def test_how_alike_two_scans_are_decides():
  close = (0.95 * A + np.sqrt(1 - 0.95**2) * B).astype(np.float32)
  near = (0.85 * A + np.sqrt(1 - 0.85**2) * B).astype(np.float32)
  assert severities(scan("a", "1", A), scan("b", "2", close)) == ["fail"]
  assert severities(scan("a", "1", A), scan("b", "2", near)) == ["warn"]
  visits = [scan("a", "1", A), scan("a", "2", near, session_id="2")]
  assert severities(*visits) == []


def test_a_2d_image_of_two_people_is_found():
  first = scan("a", "1", A, images=("x", "y"))
  assert severities(first, scan("b", "2", B, images=("y", "z"))) == ["fail"]
