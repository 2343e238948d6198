"""A manifest -> a folder of records: resumable, and the same bytes each time.

Each scan is finished as a file of its own in `OUT/parts/`; a shard is written
once all rows of its range are done, and replaces their parts. Every file
appears whole, so a run that is killed at any moment goes on from the last
finished scan and ends with the shards of an uninterrupted run.
"""

import csv
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from brainjax import InputError, records
from brainjax.cohort.manifest import (
  Manifest,
  image_files,
  read_manifest,
  write_manifest,
)
from brainjax.preparation.scan import check_config, modality_of, prepare_scan
from brainjax.preparation.volume import ScanError

_ORIGIN = "preparation.json"  # what a folder of records was made from
_REJECTED_COLUMNS = ("participant_id", "session_id", "file", "reason")


@dataclasses.dataclass(frozen=True)
class Summary:
  """What a preparation made.

  Attributes:
    out: The folder of records.
    num_records: Scans prepared.
    rejected: The rows of `rejected.csv`: `participant_id`, `session_id`,
      `file` and `reason`.
    already_done: The folder was complete, and nothing had to be done.
  """

  out: pathlib.Path
  num_records: int
  rejected: tuple[dict[str, str], ...]
  already_done: bool

  @property
  def text(self) -> str:
    """One line to show."""
    done = "already prepared" if self.already_done else "prepared"
    line = f"{done}: {self.num_records} scans in {self.out}"
    if self.rejected:
      listed = self.out / "rejected.csv"
      line += f"; {len(self.rejected)} rejected, listed in {listed}"
    return line


def prepare(
  manifest_path: str | os.PathLike[str],
  out: str | os.PathLike[str],
  config: Any,
  *,
  progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Summary:
  """Prepares every scan of a manifest; started again, it continues.

  A scan that cannot be prepared is listed in `OUT/rejected.csv`.

  Args:
    manifest_path: The manifest.
    out: The folder of records; made if missing.
    config: The section `preparation` of the config.
    progress: Wraps the loop over the manifest's rows, to show how far it is.

  Raises:
    InputError: The manifest, the config or the folder is wrong, or no scan
      could be prepared; nothing is left of the folder then.
  """
  manifest = read_manifest(manifest_path)
  check_config(config)
  modality = modality_of(manifest, config)
  out = pathlib.Path(out)
  created = not out.exists()
  _claim(out, manifest, config)
  if (out / "index.json").is_file():
    shutil.rmtree(out / "parts", ignore_errors=True)
    return _finished(out)

  parts = out / "parts"
  parts.mkdir(exist_ok=True)
  num_rows, size = len(manifest.rows), config.shard_scans
  indices = range(num_rows)
  for i in progress(indices) if progress else indices:
    shard = i // size
    if _shard_file(parts, shard).is_file():
      continue
    if not _facts_file(parts, i).is_file():
      _prepare_part(parts, i, manifest, config)
    if i + 1 in (num_rows, (shard + 1) * size):
      _write_shard(out, shard, range(shard * size, i + 1))
  written = [
    json.loads(_shard_file(parts, k).read_text())
    for k in range(math.ceil(num_rows / size))
  ]
  facts = [fact for shard in written for fact in shard["rows"]]
  if not any("length" in fact for fact in facts):
    shutil.rmtree(parts)
    (out / _ORIGIN).unlink()
    if created:
      out.rmdir()
    raise InputError(
      f"{facts[0]['file']}: {facts[0]['reason']}; no scan of {manifest.path}"
      " could be prepared"
    )
  _write_tables(out, manifest, facts)
  _write_index(out, config, modality, written)
  shutil.rmtree(parts)
  return dataclasses.replace(_finished(out), already_done=False)


def _claim(out: pathlib.Path, manifest: Manifest, config: Any) -> None:
  """Makes the folder ours, or checks that it was made from the same things."""
  origin = {
    "schema_version": records.SCHEMA_VERSION,
    "manifest": manifest.path.name,
    "manifest_sha256": records.sha256_of(manifest.path),
    "preparation": config.to_dict(),
  }
  file = out / _ORIGIN
  if not file.is_file():
    try:
      out.mkdir(parents=True, exist_ok=True)
      foreign = [f for f in out.iterdir() if not f.name.endswith(".partial")]
    except OSError as error:
      raise InputError(
        f"{out}: {error.strerror}; choose another --out"
      ) from error
    if foreign:
      raise InputError(
        f"{out}: it holds {foreign[0].name} and was not made by `brainjax"
        " prepare`; choose another --out"
      )
    records.write_text(file, json.dumps(origin, indent=1) + "\n")
    return
  before = json.loads(file.read_text())
  old, new = before["preparation"], origin["preparation"]
  differing = [
    f"config.preparation.{name} was {old.get(name)!r}, is {new.get(name)!r}"
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
  ]
  if before["manifest_sha256"] != origin["manifest_sha256"]:
    differing.append(f"the content of {manifest.path.name} changed")
  if before["schema_version"] != origin["schema_version"]:
    differing.append("it is of another version of brainjax")
  if differing:
    raise InputError(
      f"{out}: it was prepared otherwise ({'; '.join(differing)}); choose"
      " another --out"
    )


def _prepare_part(
  parts: pathlib.Path,
  i: int,
  manifest: Manifest,
  config: Any,
) -> None:
  """Prepares row `i` of the manifest into files of its own."""
  row = manifest.rows[i]
  facts: dict[str, Any]
  try:
    record = prepare_scan(manifest, row, config)
  except ScanError as error:
    ids = {name: row[name] for name in ("participant_id", "session_id")}
    facts = ids | {"file": error.file, "reason": error.reason}
  else:
    with records.replacing(_record_file(parts, i)) as partial:
      partial.write_bytes(records.encode(record))
    facts = {
      "length": len(record.slices),
      "input_sha256": _input_sha256(manifest, i, config),
    }
  # Order matters: a row whose facts are there is done.
  records.write_text(_facts_file(parts, i), json.dumps(facts))


def _input_sha256(manifest: Manifest, i: int, config: Any) -> str:
  """Returns a hash over the hashes of a scan's files."""
  columns = (modality_of(manifest, config), "mask")
  files = [
    file
    for name in columns
    for file in image_files(manifest, manifest.rows[i], name)
  ]
  text = "".join(map(records.sha256_of, dict.fromkeys(files)))
  return hashlib.sha256(text.encode()).hexdigest()


def _write_shard(out: pathlib.Path, shard: int, rows: Sequence[int]) -> None:
  """Writes the accepted of a shard's rows and removes their parts."""
  parts = out / "parts"
  facts = [json.loads(_facts_file(parts, i).read_text()) for i in rows]
  accepted = [i for i, f in zip(rows, facts, strict=True) if "length" in f]
  written: dict[str, Any] = {"rows": facts}
  if accepted:
    path = out / f"shard-{shard:05d}.arrayrecord"
    data = (_record_file(parts, i).read_bytes() for i in accepted)
    written |= {"file": path.name, "sha256": records.write_shard(path, data)}
  records.write_text(_shard_file(parts, shard), json.dumps(written))
  for i in rows:
    _record_file(parts, i).unlink(missing_ok=True)
    _facts_file(parts, i).unlink()


def _write_tables(
  out: pathlib.Path, manifest: Manifest, facts: Sequence[dict[str, Any]]
) -> None:
  """Writes `rejected.csv`, and `manifest.csv` of the accepted rows."""
  rejected = [fact for fact in facts if "length" not in fact]
  records.write_csv(out / "rejected.csv", _REJECTED_COLUMNS, rejected)
  accepted = []
  for row, fact in zip(manifest.rows, facts, strict=True):
    if "length" in fact:
      files = {
        name: ";".join(map(str, image_files(manifest, row, name)))
        for name in (*manifest.modalities, "mask")
        if name in row
      }
      accepted.append(row | files | {"record_index": str(len(accepted))})
  columns = dict.fromkeys((*manifest.columns, "record_index"))
  write_manifest(out / "manifest.csv", accepted, list(columns))


def _write_index(
  out: pathlib.Path,
  config: Any,
  modality: str,
  written: Sequence[dict[str, Any]],
) -> None:
  """Writes `index.json`; shards without a record have no file."""
  shards = [shard for shard in written if "file" in shard]
  records.write_index(
    out,
    slice_shape=(config.height, config.width, 1),
    dtype={"u8": "uint8", "i16": "int16"}[config.dtype],
    modalities=[modality],
    preparation=config.to_dict(),
    shards=[{name: s[name] for name in ("file", "sha256")} for s in shards],
    records=[
      {"shard": k, "offset": offset, **fact}
      for k, shard in enumerate(shards)
      for offset, fact in enumerate(f for f in shard["rows"] if "length" in f)
    ],
  )


def _finished(out: pathlib.Path) -> Summary:
  with open(out / "rejected.csv", newline="") as file:
    rejected = tuple(csv.DictReader(file))
  return Summary(
    out=out,
    num_records=len(records.RecordSet(out)),
    rejected=rejected,
    already_done=True,
  )


def _record_file(parts: pathlib.Path, i: int) -> pathlib.Path:
  return parts / f"{i:06d}.safetensors"


def _facts_file(parts: pathlib.Path, i: int) -> pathlib.Path:
  return parts / f"{i:06d}.json"


def _shard_file(parts: pathlib.Path, shard: int) -> pathlib.Path:
  return parts / f"shard-{shard:05d}.json"
