"""The scans of an unfinished preparation, each finished on its own.

    OUT/parts/<key>.safetensors, .json   a prepared scan, and its facts
    OUT/parts/<key>.json                 a rejected scan: facts with `reason`
    OUT/bias_fields/<key>.npy            lattice of one file's bias field

A key is a hash over all that decides the content, so what is there under a
key is right, whatever was interrupted or changed in between. Facts are a dict
of the row's ids, `key`, `input_sha256`, `spacing_mm` and `bias_fields`; with
`length` and `warnings`, or with `file` and `reason`. Where a file could not
even be read, there is no hash and the key is "".
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import brainjax
from brainjax import records, shards
from brainjax.cohort.manifest import (
  MASKS,
  Manifest,
  image_files,
  spacing_mm,
)
from brainjax.preparation.reading import input_sha256
from brainjax.preparation.scan import fit_field_of, modalities_of, prepare_scan
from brainjax.preparation.volume import ScanError, Volume

# To be raised with every change of the code that changes a record or a bias
# field: what an earlier one made is then made again.
PREPARATION_VERSION = 2
_SCAN = ("participant_id", "session_id")
IDS = (*_SCAN, "group_id", "label")
_DECISIVE = ("input_sha256", "spacing_mm")
Facts = dict[str, Any]


class Found(NamedTuple):
  """A scan that was prepared earlier.

  Attributes:
    facts: Its facts.
    file: The part or the shard that holds its record.
    offset: Its place in the shard; None for a part.
  """

  facts: Facts
  file: pathlib.Path
  offset: int | None

  def read(self) -> bytes:
    """Returns the record's bytes."""
    if self.offset is None:
      return self.file.read_bytes()
    return shards.Shard(self.file).read(self.offset)


class Job(NamedTuple):
  """One row of the manifest, to be prepared unless it was.

  Attributes:
    manifest: The manifest, with this row alone.
    config: The section `preparation` of the config.
    out: The folder of records.
    earlier: What was made of this participant and session earlier.
  """

  manifest: Manifest
  config: Any
  out: pathlib.Path
  earlier: tuple[Found, ...]


class Done(NamedTuple):
  """What became of a job.

  Attributes:
    found: The scan's facts, and where its record is.
    why: Why it was prepared: "new", "input_sha256", "spacing_mm",
      "settings" or "rejected"; "" if it was there already, or is rejected
      again.
  """

  found: Found
  why: str


def prepare_row(job: Job) -> Done:
  """Prepares one scan into `OUT/parts`, or finds that it was prepared."""
  row = job.manifest.rows[0]
  facts = _identify(job)
  if not facts["key"]:
    return Done(Found(facts, job.out, None), "new")
  kept = _kept(job, facts)
  if kept and "length" in kept.facts:
    return Done(kept, "")
  file = job.out / "parts" / f"{facts['key']}.safetensors"
  part = _part(file.with_suffix(".json"))
  if part and "length" in part.facts:
    # Of a worker that was lost before it could say so.
    return Done(part, "rejected" if kept else _why(facts, job.earlier))
  fields: list[str] = []

  def fit_field(image: pathlib.Path, volume: Volume) -> np.ndarray:
    key = _field_key(job.config, volume)
    fields.append(key)
    return _kept_field(job, key, image, volume)

  try:
    prepared = prepare_scan(job.manifest, row, job.config, fit_field=fit_field)
  except ScanError as error:
    facts |= {"file": error.file, "reason": error.reason}
  else:
    facts |= {
      "length": len(prepared.record.slices),
      "warnings": list(prepared.warnings),
    }
    with records.replacing(file) as partial:
      partial.write_bytes(records.encode(prepared.record))
  return _done(job, facts | {"bias_fields": fields})


def reject_row(job: Job, reason: str) -> Done:
  """Rejects a scan in the place of who was killed at it."""
  facts = _identify(job)
  if not facts["key"]:
    return Done(Found(facts, job.out, None), "new")
  row = job.manifest.rows[0]
  names = modalities_of(job.manifest, job.config)
  images = [f for n in names for f in image_files(job.manifest, row, n)]
  facts |= {"file": str(images[0]), "reason": reason, "bias_fields": []}
  return _done(job, facts)


def _done(job: Job, facts: Facts) -> Done:
  """Keeps the facts of a scan that was prepared or rejected."""
  file = job.out / "parts" / f"{facts['key']}.safetensors"
  # Order matters: a scan whose facts are there is done.
  records.write_text(file.with_suffix(".json"), json.dumps(facts))
  # A rejection was tried again: the disk or the memory may have been to blame.
  kept = _kept(job, facts)
  why = "rejected" if kept else _why(facts, job.earlier)
  same = kept is not None and kept.facts == facts
  return Done(Found(facts, file, None), "" if same else why)


def why_row(job: Job) -> str:
  """Says why `prepare_row` would prepare a scan, as `Done.why`; "" if not."""
  facts = _identify(job)
  if not facts["key"]:
    return "new"
  kept = _kept(job, facts)
  if kept:
    return "rejected" if "reason" in kept.facts else ""
  return _why(facts, job.earlier)


def _identify(job: Job) -> Facts:
  """Returns what identifies a scan."""
  row = job.manifest.rows[0]
  ids = {name: row[name] for name in IDS}
  inputs = {
    name: image_files(job.manifest, row, name)
    for name in (*modalities_of(job.manifest, job.config), *MASKS)
  }
  if not inputs["brain_mask"]:
    del inputs["brain_mask"]  # as before there was such a column
  hashes: dict[pathlib.Path, str] = {}
  for image in (image for files in inputs.values() for image in files):
    try:
      hashes[image] = input_sha256(image)
    except OSError as error:
      # Without a key, for it may be readable the next time.
      facts = ids | {"key": "", "file": str(image), "bias_fields": []}
      facts["reason"] = error.strerror or str(error)
      return facts
  facts: Facts = ids | {
    "input_sha256": records.sha256_of_json(
      {name: [hashes[f] for f in files] for name, files in inputs.items()}
    ),
    # A list, as of facts that come from JSON.
    "spacing_mm": list(spacing_mm(row) or ()) or None,
  }
  facts["key"] = records.sha256_of_json(
    [*(facts[n] for n in (*_SCAN, *_DECISIVE)), _settings_of(job)]
  )
  return facts


def _kept(job: Job, facts: Facts) -> Found | None:
  """Returns what was made of the same files by the same settings earlier."""
  ids = {name: facts[name] for name in IDS}
  for found in job.earlier:
    if found.facts["key"] == facts["key"]:
      return found._replace(facts=found.facts | ids)
  return None


def _why(facts: Facts, earlier: Sequence[Found]) -> str:
  if not earlier:
    return "new"
  before = earlier[0].facts  # without these, if a file was not readable
  changed = [name for name in _DECISIVE if before.get(name) != facts[name]]
  return changed[0] if changed else "settings"


def _settings_of(job: Job) -> list[Any]:
  """Returns all but the files that decides a record."""
  settings = job.config.to_dict()
  del settings["shard_scans"]
  # What the choices leave unused makes no other record.
  if not settings["template"]:
    del settings["template"], settings["template_sha256"]
  if settings["crop"] != "region":
    del settings["region"]
  if settings["slices"] != "uniform":
    del settings["num_slices"]
  if settings["slices"] != "every":
    del settings["every_mm"]
  if settings["bias_field"]["method"] == "none":
    settings["bias_field"] = {"method": "none"}
  settings["modalities"] = modalities_of(job.manifest, job.config)
  return [*versions(), settings]


def versions() -> list[Any]:
  """Returns what of the code decides a record."""
  return [brainjax.__version__, records.SCHEMA_VERSION, PREPARATION_VERSION]


def _field_key(config: Any, volume: Volume) -> str:
  """Returns what a bias field follows from: one folder may hold several."""
  array = np.ascontiguousarray(volume.array)
  return records.sha256_of_json(
    [
      brainjax.__version__,
      PREPARATION_VERSION,
      config.bias_field.to_dict(),
      volume.spacing_mm.tolist(),
      array.shape,
      hashlib.sha256(array.data).hexdigest(),
    ]
  )


def _kept_field(
  job: Job, key: str, image: pathlib.Path, volume: Volume
) -> np.ndarray:
  """Returns the lattice of a bias field, estimated once."""
  file = job.out / "bias_fields" / f"{key}.npy"
  if not file.is_file():
    lattice = fit_field_of(job.config)(image, volume)
    file.parent.mkdir(exist_ok=True)
    with records.replacing(file) as partial, open(partial, "wb") as stream:
      np.save(stream, lattice, allow_pickle=False)
  return np.load(file, allow_pickle=False)


def find(out: pathlib.Path) -> dict[tuple[str, str], list[Found]]:
  """Returns what a folder of records holds, by (participant, session).

  Parts stand before the records of the last complete preparation.
  """
  found: dict[tuple[str, str], list[Found]] = {}

  def add(facts: Facts, file: pathlib.Path, offset: int | None) -> None:
    scan = (facts["participant_id"], facts["session_id"])
    found.setdefault(scan, []).append(Found(facts, file, offset))

  for path in sorted((out / "parts").glob("*.json")):
    part = _part(path)
    if part:
      add(*part)
  index_file = out / "index.json"
  if index_file.is_file():
    index = json.loads(index_file.read_text())
    if index["schema_version"] == records.SCHEMA_VERSION:
      for entry in index["records"]:
        facts = {n: v for n, v in entry.items() if n not in ("shard", "offset")}
        file = out / index["shards"][entry["shard"]]["file"]
        if file.is_file():
          add(facts, file, entry["offset"])
      for facts in index["rejected"]:
        add(facts, index_file, None)
  return found


def _part(path: pathlib.Path) -> Found | None:
  """Returns the finished scan whose facts are in a file, if it is there."""
  if not path.is_file():
    return None
  facts, file = json.loads(path.read_text()), path.with_suffix(".safetensors")
  # Who is killed while cleaning up may remove the record before its facts.
  if "length" in facts and not file.is_file():
    return None
  return Found(facts, file, None)


def with_ids(data: bytes, facts: Mapping[str, Any]) -> bytes:
  """Returns a record with the ids that the manifest gives it now."""
  record = records.decode(data)
  ids = {name: facts[name] for name in IDS}
  return records.encode(dataclasses.replace(record, **ids))
