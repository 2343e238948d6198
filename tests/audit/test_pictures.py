import dataclasses
import re

import many_heads
import numpy as np
import pytest

from brainjax.audit import audit, confounds, pictures, probes
from brainjax.audit.findings import Finding


@pytest.fixture
def few(monkeypatch):
  monkeypatch.setattr(probes, "PERMUTATIONS", 99)
  monkeypatch.setattr(probes, "RESAMPLES", 99)


def finding(check, *ids):
  return Finding(check, "fail", "title", "evidence", "mend", ids)


def test_pairs_are_shown_side_by_side():
  scans = [
    dataclasses.replace(scan, preview=np.full((4, 5), i, np.uint8))
    for i, scan in enumerate(many_heads.scans(count=4))
  ]
  names = [scan.name for scan in scans]
  pairs = [(names[0], names[2]), (names[1], names[3])]
  figure, text = pictures.picture_of(finding("copies", *pairs), scans)
  shown = [axes.get_images()[0].get_array()[0, 0] for axes in figure.axes]
  assert shown == [0, 2, 1, 3]
  assert f"{names[1]} beside {names[3]}" in text


def test_a_number_is_shown_in_each_label():
  scans = many_heads.scans(count=20)
  figure, _ = pictures.picture_of(finding("slices"), scans)
  (axes,) = figure.axes
  labels = [text.get_text() for text in axes.get_yticklabels()]
  shown = [len(line.get_xdata()) for line in axes.lines[::2]]
  assert labels == [
    f"{name} ({count})"
    for name, count in zip(("normal", "tumour"), shown, strict=True)
  ]
  assert sum(shown) == 20


@pytest.mark.parametrize("check", ["ids", "scanner", "spacing", "copies"])
def test_what_needs_no_picture_has_none(check):
  assert pictures.picture_of(finding(check), many_heads.scans(count=4)) is None


def test_probes_are_drawn_with_what_is_written_beside(few):
  answers = confounds.ask(many_heads.scans(slices=True))
  answers = [answer for answer in answers if answer.probe]
  texts = [t.get_text() for t in pictures.draw_probes(answers).axes[0].texts]
  for answer in answers:
    assert answer.title in texts
    assert confounds.auc_text(answer.probe) in texts


def test_every_picture_has_words(tmp_path):
  rows = many_heads.write_cohort(tmp_path)
  many_heads.write_head(tmp_path / "again.nii", many_heads.head(0))
  rows.append(many_heads.row("again") | {"t1": "again.nii"})
  page = audit.audit(many_heads.write_manifest(tmp_path, rows)).page.read_text()
  images = re.findall(r"<img [^>]*>", page)
  assert len(images) == 1
  assert 'alt="Middle slices: p0 beside again"' in images[0]
