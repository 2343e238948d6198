"""What the audit says of a run, for the first page of its report."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from brainjax import records
from brainjax.audit import audit, confounds, identity
from brainjax.evaluation.run_files import Run
from brainjax.evaluation.verdict import Check


def checks(run: Run, record_set: records.RecordSet | None) -> list[Check]:
  """Says whether the cohort was audited, and what came of it.

  Whether the run's own splits leak is asked here, audited or not.

  Args:
    run: The run.
    record_set: Its images, if they can still be read.
  """
  found = [
    Check(False, f"{finding.title}: {finding.evidence}")
    for finding in identity.check_splits(run.scans)
  ]
  if record_set is None:
    text = "Whether the records were audited cannot be said: they are gone."
    return [*found, Check(False, text)]
  command = (
    f"brainjax audit {record_set.path} --splits={run.path / 'splits.csv'}"
  )
  file = audit.result_file(record_set.path)
  if not file.is_file():
    text = (
      "Nobody audited these records for leaking identities and confounded"
      f" labels; run: {command}"
    )
    return [*found, Check(False, text)]
  content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
  if (content["schema_version"], content["records_sha256"]) != (
    audit.SCHEMA_VERSION,
    record_set.sha256,
  ):
    text = f"The audit in {file.parent} is of other records; run: {command}"
    return [*found, Check(False, text)]
  page = f" Read {file.with_name('audit.html')}."
  return [*found, Check(content["passed"], content["verdict"] + page)]


def refused_headline(
  scans: Sequence[Mapping[str, str]], score: str, split: str
) -> str:
  """Returns what stands in place of a headline, or "" if one may stand.

  Args:
    scans: Rows of `splits.csv`.
    score: The number, as text.
    split: Whose score it is.
  """
  by_class = [{**scan, "label": scan["class"]} for scan in scans]
  found = confounds.check_sources(by_class)
  if not found:
    return ""
  return (
    f"No score is claimed. {found[0].title}, so that the {score} on the {split}"
    " split may say how well sources are told apart."
  )
