import json

import pytest
from tiny_run import write_workdir

from brainjax import records
from brainjax.evaluation import audited, run_files


@pytest.fixture
def run(tmp_path):
  return run_files.read_run(write_workdir(tmp_path / "run"))


def write_audit(run, **fields):
  record_set = records.RecordSet(run.path / "records")
  (record_set.path / "audit").mkdir()
  content = {
    "schema_version": 1,
    "records_sha256": record_set.sha256,
    "passed": True,
    "verdict": "The audit found no failure.",
  }
  file = record_set.path / "audit" / "audit.json"
  file.write_text(json.dumps(content | fields))
  return record_set


def test_without_an_audit_the_command_is_named(run):
  record_set = records.RecordSet(run.path / "records")
  (check,) = audited.checks(run, record_set)
  assert not check.stands
  assert f"brainjax audit {record_set.path} --splits={run.path}" in check.text
  (check,) = audited.checks(run, None)
  assert not check.stands


@pytest.mark.parametrize("passed", [True, False])
def test_the_verdict_of_the_audit_is_the_check(run, passed):
  (check,) = audited.checks(run, write_audit(run, passed=passed))
  assert check.stands == passed
  assert check.text.startswith("The audit found no failure.")


def test_an_audit_of_other_records_counts_for_nothing(run):
  (check,) = audited.checks(run, write_audit(run, records_sha256="0"))
  assert not check.stands
  assert "of other records" in check.text


def test_splits_that_leak_are_seen_without_an_audit(run):
  run.scans[-1]["participant_id"] = run.scans[0]["participant_id"]
  first, _ = audited.checks(run, write_audit(run))
  assert not first.stands
  assert "1 participant in more than one split" in first.text


def test_a_headline_needs_a_source_of_two_classes():
  scans = [
    {"class": name, "source": source}
    for name, source in (("normal", "ixi"), ("tumour", "brats"), ("", "ixi"))
  ]
  text = audited.refused_headline(scans, "AUC 0.99", "test")
  assert "Sources tell normal from tumour" in text
  assert "the AUC 0.99 on the test split may say how well sources" in text
  scans.append({"class": "normal", "source": "brats"})
  assert audited.refused_headline(scans, "AUC 0.99", "test") == ""
