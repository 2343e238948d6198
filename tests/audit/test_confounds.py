import dataclasses

import many_heads
import numpy as np
import pytest

from brainjax.audit import confounds, facts, headers, probes
from brainjax.audit.describe import Scan


@pytest.fixture(autouse=True)
def few(monkeypatch):
  monkeypatch.setattr(probes, "PERMUTATIONS", 499)
  monkeypatch.setattr(probes, "RESAMPLES", 200)


def findings(scans):
  return confounds.check_facts(confounds.ask(scans), scans)


def test_a_clean_cohort_has_none():
  assert findings(many_heads.scans()) == []


@pytest.mark.parametrize(
  "fault",
  ["site", "scanner", "age", "sex", "slices", "spacing", "layout", "id_prefix"],
)
def test_a_planted_fault_is_found_alone(fault):
  found = findings(many_heads.scans(**{fault: True}))
  (finding,) = [f for f in found if f.severity == "fail"]
  assert finding.check == fault
  assert finding.figures["auc"] > 0.8
  assert finding.figures["p_holm"] < 0.05
  assert "tumour" in finding.evidence  # what it is in each class


def test_what_may_be_the_tumour_is_a_warning():
  (finding,) = findings(many_heads.scans(moments=True))
  assert (finding.check, finding.severity) == ("moments", "warn")


def test_that_nobody_wrote_the_age_down_tells_too():
  scans = many_heads.scans()
  for scan in scans:
    if scan.row["label"] == "normal":
      scan.row["age"] = ""
  (finding,) = findings(scans)
  assert (finding.check, finding.severity) == ("age", "fail")


def test_ids_that_hold_their_label_say_nothing():
  scans = [
    dataclasses.replace(
      scan,
      row=scan.row | {"participant_id": f"{scan.row['label'].upper()}_{i:03d}"},
    )
    for i, scan in enumerate(many_heads.scans())
  ]
  assert findings(scans) == []


@pytest.mark.parametrize(
  "participant, label, form",
  [
    ("sub-010", "0", "sub-#3"),
    ("sub-010", "010", "sub-#3"),
    ("hospital-7", "hosp", "hospital-#1"),
    ("grade12", "grade1", "grade#2"),
    ("glioma12", "glioma", "#2"),
    ("GRADE1_2", "grade1", "_#1"),
    ("Testing-no-image(12)", "no", "image(#2)"),
    ("no-image(12)", "no", "image(#2)"),
    ("Testing-image(12)", "no", "Testing-image(#2)"),
  ],
)
def test_a_label_is_left_out_of_an_id_only_as_a_word(participant, label, form):
  assert facts.id_form(participant, label) == form


def test_a_small_cohort_is_not_asked():
  answers = confounds.ask(many_heads.scans(count=8))
  assert all(answer.probe is None for answer in answers)
  assert all(answer.skipped for answer in answers)


def test_unknown_labels_and_unread_scans_are_left_out():
  scans = many_heads.scans(count=40)
  before = confounds.ask(scans)
  unknown = Scan(many_heads.row("x", ""), numbers=scans[0].numbers)
  unread = Scan(many_heads.row("y"), error="no such file")
  assert confounds.ask([*scans, unknown, unread]) == before


def test_visits_of_a_person_count_once():
  scans = many_heads.scans(count=40)
  visits = [
    dataclasses.replace(scan, row=scan.row | {"session_id": "2"})
    for scan in scans
  ]
  assert confounds.ask(scans) == confounds.ask(scans + visits)


def test_units_do_not_matter():
  values = [np.array([v, 7.0]) for v in (3.0, 1.0, np.nan, 2.0)]
  scaled = [v * 1e3 for v in values]
  np.testing.assert_array_equal(
    facts.features_of(values), facts.features_of(scaled)
  )
  assert facts.features_of([np.array([1.0])] * 3) is None
  assert facts.features_of(["", "", ""]) is None


def test_classes_of_different_sources_refuse_a_headline():
  rows = [
    many_heads.row("a", "normal", source="IXI"),
    many_heads.row("b", "glioma", source="BraTS"),
    many_heads.row("c", "", source="IXI"),
  ]
  (finding,) = confounds.check_sources(rows)
  assert finding.severity == "fail"
  assert "IXI: normal" in finding.evidence
  rows.append(many_heads.row("d", "normal", source="BraTS"))
  assert confounds.check_sources(rows) == []
  assert confounds.check_sources(rows[:1]) == []


def test_tumours_of_several_types_do_not_make_up_for_the_normals():
  rows = [
    many_heads.row("a", "normal", source="IXI"),
    many_heads.row("b", "glioma", source="BraTS"),
    many_heads.row("c", "meningioma", source="BraTS"),
    many_heads.row("d", "normal", source="OASIS"),
  ]
  (finding,) = confounds.check_sources(rows)
  assert "glioma, meningioma from normal" in finding.title
  # A chain of sources connects them all.
  rows.append(many_heads.row("e", "meningioma", source="OASIS"))
  assert confounds.check_sources(rows) == []


def test_images_that_tell_their_source_are_noted():
  scans = many_heads.scans()
  assert confounds.check_images_of_sources(scans) == []  # there is one
  rng = np.random.default_rng(0)
  of_two = []
  for scan in scans:
    second = rng.random() < 0.5
    moments = rng.standard_normal(4) + 3 * second
    of_two.append(
      dataclasses.replace(
        scan,
        row=scan.row | {"source": "ab"[second]},
        numbers={**scan.numbers, "moments": moments},
      )
    )
  (finding,) = confounds.check_images_of_sources(of_two)
  assert finding.severity == "note"
  assert list(finding.figures) == ["moments"]


@pytest.mark.parametrize("age", ["-3", "451", "old"])
def test_impossible_ages(age):
  scans = [Scan(many_heads.row("a", age=age)), Scan(many_heads.row("b"))]
  (finding,) = headers.check_headers(scans)
  assert finding.severity == "warn"
  assert f"a: {age}" in finding.evidence


def test_tumours_outside_the_brain_mask():
  scans = [
    Scan(many_heads.row(f"p{i}", label), lesion_outside=share)
    for i, (label, share) in enumerate(
      [("meningioma", 0.4), ("glioma", 0.05), ("glioma", 0.0), ("normal", None)]
    )
  ]
  (finding,) = headers.check_lesions(scans)
  assert finding.ids == (("p0",),)
  assert "glioma 0 of 2, meningioma 1 of 1" in finding.evidence
  assert headers.check_lesions(scans[1:]) == []
