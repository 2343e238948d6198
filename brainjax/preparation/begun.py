"""Scans that are noted as begun, and so are known if what read them is killed.

    OUT/parts/<hash of the ids>.begun    while a scan is prepared

A process that is killed says nothing, but its note stays. Another scan may
have been to blame, which ended with it; so this one is tried once more, with
no other beside it, and given up if that process is killed too.
"""

import pathlib

from brainjax import records
from brainjax.preparation import parts, workers


def prepare_row(job: parts.Job) -> parts.Done:
  """Prepares a scan as `parts.prepare_row` does, and notes it meanwhile."""
  note = _note(job)
  note.touch()
  try:
    return parts.prepare_row(job)
  finally:
    note.unlink(missing_ok=True)


def was_begun(job: parts.Job) -> bool:
  """Returns whether something was killed while it prepared the scan."""
  return _note(job).is_file() or any(
    found.facts.get("reason") == workers.KILLED for found in job.earlier
  )


def _note(job: parts.Job) -> pathlib.Path:
  row = job.manifest.rows[0]
  name = records.sha256_of_json([row["participant_id"], row["session_id"]])
  return job.out / "parts" / f"{name}.begun"
