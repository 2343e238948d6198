import numpy as np
import pytest
import sklearn.metrics
import tiny_run

from brainjax import records
from brainjax.evaluation import run_files, subgroups


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "run"
  return run_files.read_run(tiny_run.write_workdir(workdir))


def manifest(run, **fields):
  """Rows of the participants of the test split, with a field's values."""
  people = [p["participant_id"] for p in run.participants]
  return [
    {"participant_id": person} | {k: v[i] for k, v in fields.items()}
    for i, person in enumerate(people)
  ]


def test_scores_are_those_of_the_participants_inside(run):
  rows = subgroups.subgroups(run, "test", manifest(run, sex=["F", "M"] * 4))
  of_sex = {row["value"]: row for row in rows if row["field"] == "sex"}
  assert set(of_sex) == {"F", "M"}
  for start, sex in enumerate("FM"):
    people = run.participants[start::2]
    row = of_sex[sex]
    assert row["n"] == 4 and row["of_class"] == {"normal": 2, "tumour": 2}
    expected = sklearn.metrics.roc_auc_score(
      [p["true_label"] == "tumour" for p in people],
      [float(p["proba_tumour"]) for p in people],
    )
    assert row["scores"]["roc_auc"]["value"] == pytest.approx(expected)


def test_a_part_without_a_class_has_no_score(run):
  # The first half of the test participants is normal.
  rows = subgroups.subgroups(
    run, "test", manifest(run, sex=["F"] * 4 + ["M"] * 4)
  )
  for row in (row for row in rows if row["field"] == "sex"):
    assert row["scores"] is None
    assert sorted(row["of_class"].values()) == [0, 4]


def test_ages_fall_into_bands_and_what_is_unknown_comes_last(run):
  ages = ["12", "39.9", "40", "59", "60", "91", "", "old"]
  rows = subgroups.subgroups(run, "test", manifest(run, age=ages))
  assert [(r["value"], r["n"]) for r in rows if r["field"] == "age"] == [
    ("under 40", 2),
    ("40 to 59", 2),
    ("60 and over", 2),
    ("not known", 2),
  ]


def test_a_field_of_one_value_is_left_out(run):
  rows = subgroups.subgroups(run, "test", manifest(run, sex=["F"] * 8))
  assert {row["field"] for row in rows} == {"source"}


def test_a_participant_is_what_the_first_entry_says(run):
  scans = manifest(run, sex=[""] * 8) + manifest(run, sex=["F", "M"] * 4)
  scans += manifest(run, sex=["X"] * 8)
  rows = subgroups.subgroups(run, "test", scans)
  assert [r["value"] for r in rows if r["field"] == "sex"] == ["F", "M"]


def test_report_reads_the_manifest_of_the_records(run):
  record_set = records.RecordSet(run.config["data"]["records"])
  rows = subgroups.subgroups(run, "test", record_set.rows)
  assert np.sum([r["n"] for r in rows if r["field"] == "source"]) == 8
