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
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module

import brainjax
from brainjax import records
from brainjax.cohort.manifest import (
  MASKS,
  Manifest,
  image_files,
  spacing_mm,
)
from brainjax.preparation.reading import input_sha256
from brainjax.preparation.scan import fit_field_of, modalities_of, prepare_scan
from brainjax.preparation.volume import ScanError, Volume

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
    reader = array_record_module.ArrayRecordReader(
      str(self.file), options="readahead_buffer_size:0"
    )
    (data,) = reader.read([self.offset])
    reader.close()
    return data


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
    why: Why it was prepared: "new", "input_sha256", "spacing_mm" or
      "settings"; "" if it was there already.
  """

  found: Found
  why: str


def prepare_row(job: Job) -> Done:
  """Prepares one scan into `OUT/parts`, or finds that it was prepared."""
  row = job.manifest.rows[0]
  facts, hashes = _identify(job)
  if not facts["key"]:
    return Done(Found(facts, job.out, None), "new")
  kept = _kept(job, facts)
  if kept:
    return Done(kept, "")
  why = _why(facts, job.earlier)
  file = job.out / "parts" / f"{facts['key']}.safetensors"
  if file.with_suffix(".json").is_file():
    # Of a worker that was lost before it could say so.
    facts = json.loads(file.with_suffix(".json").read_text())
    return Done(Found(facts, file, None), why)
  fields: list[str] = []

  def fit_field(image: pathlib.Path, volume: Volume) -> np.ndarray:
    settings = job.config.bias_field.to_dict()
    decisive = [brainjax.__version__, settings, facts["spacing_mm"]]
    key = records.sha256_of_json([*decisive, hashes[image]])
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
  facts["bias_fields"] = fields
  # Order matters: a scan whose facts are there is done.
  records.write_text(file.with_suffix(".json"), json.dumps(facts))
  return Done(Found(facts, file, None), why)


def why_row(job: Job) -> str:
  """Says why `prepare_row` would prepare a scan, as `Done.why`; "" if not."""
  facts, _ = _identify(job)
  if not facts["key"]:
    return "new"
  return "" if _kept(job, facts) else _why(facts, job.earlier)


def _identify(job: Job) -> tuple[Facts, dict[pathlib.Path, str]]:
  """Returns what identifies a scan, and the sha256 of its files."""
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
      return facts, hashes
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
  return facts, hashes


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
  settings["modalities"] = modalities_of(job.manifest, job.config)
  return [brainjax.__version__, records.SCHEMA_VERSION, settings]


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
    add(json.loads(path.read_text()), path.with_suffix(".safetensors"), None)
  index_file = out / "index.json"
  if index_file.is_file():
    index = json.loads(index_file.read_text())
    if index["schema_version"] == records.SCHEMA_VERSION:
      for entry in index["records"]:
        facts = {n: v for n, v in entry.items() if n not in ("shard", "offset")}
        file = out / index["shards"][entry["shard"]]["file"]
        add(facts, file, entry["offset"])
      for facts in index["rejected"]:
        add(facts, index_file, None)
  return found


def with_ids(data: bytes, facts: Mapping[str, Any]) -> bytes:
  """Returns a record with the ids that the manifest gives it now."""
  record = records.decode(data)
  ids = {name: facts[name] for name in IDS}
  return records.encode(dataclasses.replace(record, **ids))
