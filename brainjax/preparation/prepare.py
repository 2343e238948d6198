"""A manifest -> a folder of records: resumable, and the same bytes each time.

Each scan is finished as a file of its own (`parts.py`); when all are, they
are written into shards. Every file appears whole, so a run that is killed at
any moment goes on from the last finished scan and ends with the records of an
uninterrupted run. Until then the records of an earlier preparation stay as
they are; of them, what did not change is taken over.
"""

import collections
import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from brainjax import InputError, lock, records
from brainjax.cohort.manifest import Manifest, read_manifest
from brainjax.config import leaf_fields
from brainjax.preparation import (
  begun,
  dask_cluster,
  parts,
  publishing,
  template,
  workers,
)
from brainjax.preparation.scan import check_config, modalities_of

Run = Callable[[Sequence[parts.Job]], workers.Results[parts.Done]]
_ORIGIN = "preparation.json"  # what a folder of records is being made from
_WHY = {
  "": "kept",
  "new": "new",
  "input_sha256": "with changed files",
  "spacing_mm": "with another spacing_mm",
  "settings": "with changed settings",
  "rejected": "rejected before",
}


@dataclasses.dataclass(frozen=True)
class Summary:
  """What a preparation made.

  Attributes:
    out: The folder of records.
    num_records: Scans prepared, those kept included.
    counts: Scans, rejected ones included, by what was done with them.
    rejected: The rows of `rejected.csv`: `participant_id`, `session_id`,
      `file` and `reason`.
    warnings: The rows of `warnings.csv`: `participant_id`, `session_id` and
      `warning`.
  """

  out: pathlib.Path
  num_records: int
  counts: dict[str, int]
  rejected: tuple[dict[str, str], ...]
  warnings: tuple[dict[str, str], ...]

  @property
  def text(self) -> str:
    """One line to show."""
    done = "already prepared" if set(self.counts) == {"kept"} else "prepared"
    line = f"{done}: {self.num_records} scans in {self.out}"
    if set(self.counts) - {"kept", "new"}:
      each = [f"{count} {what}" for what, count in self.counts.items()]
      line += f" ({', '.join(each)})"
    for name in ("rejected", "warnings"):
      count = len(getattr(self, name))
      if count:
        line += f"; {count} {name}, listed in {self.out / f'{name}.csv'}"
    return line


def prepare(
  manifest_path: str | os.PathLike[str],
  out: str | os.PathLike[str],
  config: Any,
  *,
  num_workers: int = 1,
  cluster: str = "",
  progress: Callable[..., Iterable[Any]] | None = None,
  say: Callable[[str], None] | None = None,
) -> Summary:
  """Prepares every scan of a manifest; started again, it continues.

  With another manifest or config, or where files changed, only those scans
  are prepared again that come out otherwise. A scan that cannot be prepared,
  or whose workers are killed at it, at last with no other beside it, is
  listed in `OUT/rejected.csv`, what is suspicious in `OUT/warnings.csv`.

  Args:
    manifest_path: The manifest.
    out: The folder of records; made if missing.
    config: The section `preparation` of the config.
    num_workers: Processes; it changes no byte.
    cluster: Address of a Dask scheduler, whose workers prepare instead.
    progress: `(iterable, total) -> iterable`, to show how far a loop is.
    say: Told what changed since the folder was last prepared.

  Raises:
    InputError: The manifest, the config or the folder is wrong, a file cannot
      be written, another process writes there, the workers are killed before
      they begin, or no scan could be prepared; in the last case nothing is
      left of what was not there before.
  """
  manifest, config = _read(manifest_path, config)
  out, say = pathlib.Path(out), say or (lambda text: None)

  def run(jobs: Sequence[parts.Job]) -> workers.Results[parts.Done]:
    if cluster:
      return dask_cluster.run_jobs(
        begun.prepare_row,
        [_with_absolute_paths(job) for job in jobs],
        address=cluster,
        was_begun=begun.was_begun,
        give_up=parts.reject_row,
      )
    return workers.run_jobs(
      begun.prepare_row,
      jobs,
      workers=num_workers,
      name_of=_name,
      was_begun=begun.was_begun,
      give_up=parts.reject_row,
    )

  with lock.hold(out, say):
    for change in _claim(out, manifest, config):
      say(change)
    return _prepare(out, manifest, config, run, progress)


@dataclasses.dataclass(frozen=True)
class Forecast:
  """What a preparation would do.

  Attributes:
    changes: What changed since the folder was last prepared, a sentence each.
    redone: (participant, session, why) of each scan that would be prepared.
    num_kept: Scans that would not.
  """

  changes: tuple[str, ...]
  redone: tuple[tuple[str, str, str], ...]
  num_kept: int


def forecast(
  manifest_path: str | os.PathLike[str],
  out: str | os.PathLike[str],
  config: Any,
  *,
  num_workers: int = 1,
  progress: Callable[..., Iterable[Any]] | None = None,
) -> Forecast:
  """Says what `prepare` would do; arguments are its own. It writes nothing.

  Raises:
    InputError: As `prepare`, as far as it can be known.
  """
  manifest, config = _read(manifest_path, config)
  out = pathlib.Path(out)
  changes = []
  if out.exists():
    before, now = _origins(out, manifest, config)
    changes = _changes(before, now)
  jobs = _jobs(out, manifest, config)
  results = workers.run_jobs(
    parts.why_row, jobs, workers=num_workers, name_of=_name
  )
  with contextlib.closing(results):
    reasons = dict(progress(results, len(jobs)) if progress else results)
  return Forecast(
    changes=tuple(changes),
    redone=tuple(
      (row["participant_id"], row["session_id"], _WHY[reasons[i]])
      for i, row in enumerate(manifest.rows)
      if reasons[i]
    ),
    num_kept=list(reasons.values()).count(""),
  )


def _read(
  manifest_path: str | os.PathLike[str], config: Any
) -> tuple[Manifest, Any]:
  manifest = read_manifest(manifest_path)
  check_config(config)
  modalities_of(manifest, config)
  return manifest, template.pinned(config)


def _with_absolute_paths(job: parts.Job) -> parts.Job:
  path = job.manifest.path.absolute()
  manifest = dataclasses.replace(job.manifest, path=path)
  return job._replace(manifest=manifest, out=job.out.absolute())


def _name(job: parts.Job) -> str:
  return job.manifest.rows[0]["participant_id"]


def _prepare(
  out: pathlib.Path,
  manifest: Manifest,
  config: Any,
  run: Run,
  progress: Callable[..., Iterable[Any]] | None,
) -> Summary:
  try:
    publishing.move_in(out)
    (out / "parts").mkdir(exist_ok=True)
    jobs = _jobs(out, manifest, config)
    # Closed at once if the loop is left, which ends the workers.
    with contextlib.closing(run(jobs)) as results:
      found = dict(progress(results, len(jobs)) if progress else results)
    done = [found[index] for index in range(len(jobs))]
    rows = [each.found for each in done]
    if all("reason" in row.facts for row in rows):
      _abandon(out)
      facts = rows[0].facts
      raise InputError(
        f"{facts['file']}: {facts['reason']}; no scan of {manifest.path}"
        " could be prepared"
      )
    publishing.publish(out, manifest, config, rows)
  except OSError as error:
    raise InputError(
      f"{out}: {error.strerror or error}; what is finished is kept, so make"
      " room and start the same command again"
    ) from error
  why = collections.Counter(_WHY[each.why] for each in done)
  return Summary(
    out=out,
    num_records=len(records.RecordSet(out)),
    counts=dict(why),
    rejected=_read_csv(out / "rejected.csv"),
    warnings=_read_csv(out / "warnings.csv"),
  )


def _origins(
  out: pathlib.Path, manifest: Manifest, config: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns what the folder was made from, and what it would be made from."""
  origin = {
    "version": parts.versions(),
    "manifest": manifest.path.name,
    "manifest_sha256": records.sha256_of(manifest.path),
    "preparation": leaf_fields(config),
  }
  file = out / _ORIGIN
  try:
    foreign = [
      f for f in out.iterdir() if not f.name.endswith((".partial", lock.FILE))
    ]
  except OSError as error:
    raise InputError(
      f"{out}: {error.strerror}; choose another --out"
    ) from error
  if foreign and not file.is_file():
    raise InputError(
      f"{out}: it holds {foreign[0].name} and was not made by `brainjax"
      " prepare`; choose another --out"
    )
  now = json.loads(json.dumps(origin))
  return (json.loads(file.read_text()) if file.is_file() else now), now


def _claim(out: pathlib.Path, manifest: Manifest, config: Any) -> list[str]:
  """Makes the folder ours, and says what it was made from otherwise."""
  file = out / _ORIGIN
  before, now = _origins(out, manifest, config)
  try:
    records.write_text(file, json.dumps(now, indent=1) + "\n")
  except OSError as error:
    raise InputError(
      f"{file}: {error.strerror or error}; make room, or choose another --out"
    ) from error
  return _changes(before, now)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
  """Says how two origins differ, and what is therefore prepared again."""
  if before.get("version") != now["version"]:
    return ["made by another version of brainjax: every scan is prepared again"]
  changes = []
  old, new = before["preparation"], now["preparation"]
  fields = [
    n for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)
  ]
  if fields:
    each = [
      f"config.preparation.{n} was {old.get(n)!r}, is {new.get(n)!r}"
      for n in fields
    ]
    what = "every scan is prepared again"
    if fields == ["shard_scans"]:
      what = "the scans are kept, in other shards"
    elif not any(name.startswith("bias_field.") for name in fields):
      what += ", its bias field is kept"
    changes.append(f"{'; '.join(each)}: {what}")
  if before["manifest_sha256"] != now["manifest_sha256"]:
    changes.append(
      f"{now['manifest']} changed: scans that are new or have other files are"
      " prepared"
    )
  return changes


def _jobs(
  out: pathlib.Path, manifest: Manifest, config: Any
) -> list[parts.Job]:
  """Returns a job for each row, in the manifest's order."""
  earlier = parts.find(out)
  return [
    parts.Job(
      manifest=dataclasses.replace(manifest, rows=(row,)),
      config=config,
      out=out,
      earlier=tuple(
        earlier.get((row["participant_id"], row["session_id"]), ())
      ),
    )
    for row in manifest.rows
  ]


def _abandon(out: pathlib.Path) -> None:
  """Removes what a preparation without a single record made."""
  shutil.rmtree(out / "parts")
  if not (out / "index.json").is_file():
    (out / _ORIGIN).unlink()
    shutil.rmtree(out / "bias_fields", ignore_errors=True)


def _read_csv(path: pathlib.Path) -> tuple[dict[str, str], ...]:
  with open(path, newline="", encoding="utf-8") as file:
    return tuple(csv.DictReader(file))
