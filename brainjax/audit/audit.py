"""`brainjax audit`: asks everything of a manifest or of records, and reports.

It finds what would make a score mean something else than it says: people on
both sides of a split, scans that stand twice, labels that the scanner tells. It
changes nothing.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import threadpoolctl

from brainjax import InputError, records
from brainjax.audit import confounds, copies, headers, identity, page, probes
from brainjax.audit.describe import Scan, describe_file, describe_record
from brainjax.audit.findings import Finding, count, in_order, some
from brainjax.cohort import manifest as manifest_lib
from brainjax.preparation import workers as workers_lib

SCHEMA_VERSION = 1
_SPLIT_COLUMNS = ("participant_id", "session_id", "group_id", "split")

Row = Mapping[str, str]
Progress = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Audit:
  """The result.

  Attributes:
    findings: The gravest first.
    answers: Of every probe, also those that told nothing.
    passed: Whether none of them is a failure.
    page: Where it can be read.
  """

  findings: tuple[Finding, ...]
  answers: tuple[confounds.Answer, ...]
  passed: bool
  page: pathlib.Path


def audit(
  path: pathlib.Path,
  *,
  out: pathlib.Path | None = None,
  splits: pathlib.Path | None = None,
  num_workers: int = 1,
  progress: Callable[[str], Progress] | None = None,
) -> Audit:
  """Audits a cohort, and writes `audit.json` and `audit.html`.

  Args:
    path: A manifest, or a folder of records.
    out: Folder to write; `audit` beside the manifest or in the records.
    splits: `splits.csv` of a run, whose splits then count.
    num_workers: Processes that read scans.
    progress: Gives a wrapper of a loop, from a text.

  Raises:
    InputError: The input is none, or cannot be read, or there can be no such
      folder.
  """
  wrap = progress or (lambda _: lambda items, total=None: items)
  is_records = path.is_dir()
  split_rows = _read_splits(splits) if splits else []
  out = out or (path if is_records else path.parent) / "audit"
  # Small matrices: more threads only wait for each other.
  with threadpoolctl.threadpool_limits(1):
    if is_records:
      record_set = records.RecordSet(path).images()
      rows = [dict(row) for row in record_set.rows]
      if splits:
        rows = _with_splits(rows, split_rows, splits)
      _make_folder(out)
      scans = [
        describe_record(record_set[i], rows[i])
        for i in wrap("reading records")(range(len(rows)))
      ]
      kind = {"kind": "records", "records_sha256": record_set.sha256}
    else:
      manifest = manifest_lib.read_manifest(path, consistent=False)
      rows = [dict(row) for row in manifest.rows]
      if splits:
        rows = _with_splits(rows, split_rows, splits)
      _make_folder(out)  # early: what follows may take hours
      scans = _described(manifest, rows, num_workers, wrap("reading scans"))
      kind = {"kind": "manifest", "manifest_sha256": records.sha256_of(path)}
    answers = confounds.ask(scans, progress=wrap("asking probes"))
    of_sources = confounds.check_images_of_sources(scans)
  findings = in_order(
    [
      *identity.check_splits(split_rows or rows),
      *identity.check_ids(rows),
      *identity.check_overlaps(rows),
      *copies.check_copies(scans),
      *confounds.check_sources(rows),
      *confounds.check_facts(answers, scans),
      *of_sources,
      *headers.check_headers(scans),
      *headers.check_lesions(scans),
      *_unread(scans),
    ]
  )
  facts: dict[str, Any] = kind | {
    "schema_version": SCHEMA_VERSION,
    "input": os.path.abspath(path),
    "splits": str(splits) if splits else None,
    "splits_sha256": records.sha256_of(splits) if splits else None,
    "scans": len(rows),
    "participants": len({row["participant_id"] for row in rows}),
    "groups": len({row["group_id"] for row in rows}),
    **verdict(findings),
  }
  content = facts | {
    "findings": [dataclasses.asdict(finding) for finding in findings],
    "probes": [_probe_facts(answer) for answer in answers],
    "permutations": probes.PERMUTATIONS,
  }
  records.write_text(out / "audit.json", json.dumps(content, indent=1) + "\n")
  return Audit(
    tuple(findings),
    tuple(answers),
    not any(finding.severity == "fail" for finding in findings),
    page.write_page(out / "audit.html", facts, findings, answers, scans),
  )


def result_file(record_folder: pathlib.Path) -> pathlib.Path:
  """Returns where an audit of records is kept, unless it was put elsewhere."""
  return record_folder / "audit" / "audit.json"


def verdict(findings: Iterable[Finding]) -> dict[str, Any]:
  """Says in a sentence what the findings come to.

  Returns:
    "passed", whether there is no failure; "verdict", the sentence;
    "headline_refused", why no score of this cohort may be a headline, or "".
  """
  findings = list(findings)
  failures = [f for f in findings if f.severity == "fail"]
  warnings = [f for f in findings if f.severity == "warn"]
  refused = [f for f in failures if f.check == confounds.SEPARATE]
  if failures:
    text = (
      f"The audit failed: {count(len(failures), 'failure')}"
      f" ({some(sorted({f.check for f in failures}))})"
    )
  else:
    text = "The audit found no failure"
  if warnings:
    text += f", and {count(len(warnings), 'warning')}"
  return {
    "passed": not failures,
    "verdict": f"{text}.",
    "headline_refused": refused[0].title if refused else "",
  }


def _make_folder(out: pathlib.Path) -> None:
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f"{out}: {error.strerror}; choose another --out"
    ) from error


def _described(
  manifest: manifest_lib.Manifest,
  rows: Sequence[Row],
  num_workers: int,
  progress: Progress,
) -> list[Scan]:
  """Describes the rows of a manifest in several processes."""
  # Without its rows: it is sent to a worker with every job.
  small = dataclasses.replace(manifest, rows=())
  jobs = [(small, row) for row in rows]
  scans: dict[int, Scan] = {}
  running = workers_lib.run_jobs(
    _describe_job,
    jobs,
    workers=num_workers,
    name_of=lambda job: job[1]["participant_id"],
  )
  with contextlib.closing(running):
    for index, scan in progress(running, total=len(jobs)):
      scans[index] = scan
  return [scans[i] for i in range(len(rows))]


def _describe_job(job: tuple[manifest_lib.Manifest, Row]) -> Scan:
  return describe_file(*job)


def _read_splits(path: pathlib.Path) -> list[dict[str, str]]:
  """Reads the `splits.csv` of a run."""
  if not path.is_file():
    raise InputError(f"{path}: no such file; a run leaves it in its workdir")
  try:
    text = path.read_text("utf-8")
  except UnicodeDecodeError:
    raise InputError(
      f"{path}: not UTF-8; give the splits.csv that a run leaves in its workdir"
    ) from None
  rows = list(csv.DictReader(io.StringIO(text, newline="")))
  missing = set(_SPLIT_COLUMNS) - set(rows[0] if rows else ())
  if missing:
    raise InputError(
      f"{path}: no column {', '.join(sorted(missing))}; give the splits.csv"
      " that a run leaves in its workdir"
    )
  return rows


def _with_splits(
  rows: Iterable[Row], split_rows: Sequence[Row], splits: pathlib.Path
) -> list[dict[str, str]]:
  """Returns the rows with the splits of a run; "" for who takes no part."""
  split_of = {
    (row["participant_id"], row["session_id"]): row["split"]
    for row in split_rows
  }
  found = [
    {
      **row,
      "split": split_of.get((row["participant_id"], row["session_id"]), ""),
    }
    for row in rows
  ]
  people = {row["participant_id"] for row in split_rows}
  if not any(row["participant_id"] in people for row in found):
    raise InputError(
      f"{splits}: none of its participants is in the cohort; give the"
      " splits.csv of a run on it"
    )
  return found


def _unread(scans: Sequence[Scan]) -> list[Finding]:
  unread = [scan for scan in scans if scan.error]
  if not unread:
    return []
  return [
    Finding(
      "reading",
      "warn",
      f"{count(len(unread), 'scan')} could not be read",
      f"{some([scan.error for scan in unread])}.",
      "Mend or remove them; nothing but their row was audited.",
      tuple((scan.name,) for scan in unread),
    )
  ]


def _probe_facts(answer: confounds.Answer) -> dict[str, Any]:
  facts = dataclasses.asdict(answer)
  return facts | {"severity": answer.severity}
