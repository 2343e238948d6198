"""The finished scans of a preparation -> the folder of records.

Everything new is written beside the records that are there, and moved in at
the end, so a folder holds the earlier records or the new ones, never a mix.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from brainjax import records
from brainjax.cohort.manifest import (
  MASKS,
  Manifest,
  image_files,
  write_manifest,
)
from brainjax.preparation.parts import Found, with_ids
from brainjax.preparation.scan import modalities_of

_NEW = "parts/new"  # the next content of a folder of records
_REJECTED_COLUMNS = ("participant_id", "session_id", "file", "reason")
_WARNING_COLUMNS = ("participant_id", "session_id", "warning")


def publish(
  out: pathlib.Path,
  manifest: Manifest,
  config: Any,
  rows: Sequence[Found],
) -> None:
  """Puts the new records in the place of the earlier ones.

  Args:
    out: The folder of records.
    manifest: The manifest.
    config: The section `preparation` of the config.
    rows: What each row of the manifest became.
  """
  entries: list[dict[str, Any]] = []
  shards: dict[str, list[Found]] = {}
  for i, row in enumerate(rows):
    if "length" in row.facts:
      name = records.shard_name(i // config.shard_scans)
      members = shards.setdefault(name, [])
      place = {"shard": len(shards) - 1, "offset": len(members)}
      entries.append(place | row.facts)
      members.append(row)
  rejected = [row.facts for row in rows if "reason" in row.facts]
  if _is_published(out, entries, rejected, config):
    _write_tables(out, out, manifest, rows)
  else:
    new = out / _NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    _write_tables(new, out, manifest, rows)
    written = []
    for name, members in shards.items():
      data = (with_ids(row.read(), row.facts) for row in members)
      written.append(
        {"file": name, "sha256": records.write_shard(new / name, data)}
      )
    modalities = modalities_of(manifest, config)
    records.write_index(
      new,
      slice_shape=(config.height, config.width, len(modalities)),
      dtype={"u8": "uint8", "i16": "int16"}[config.dtype],
      modalities=modalities,
      preparation=config.to_dict(),
      shards=written,
      records=entries,
      rejected=rejected,
    )
    move_in(out)
  used = {key for row in rows for key in row.facts["bias_fields"]}
  for file in (out / "bias_fields").glob("*.npy"):
    if file.stem not in used:
      file.unlink()
  for folder in (out, out / "bias_fields"):
    for stale in folder.glob(".*.partial"):  # of runs that were killed
      stale.unlink()
  shutil.rmtree(out / "parts")


def move_in(out: pathlib.Path) -> None:
  """Moves new records, if they are complete, into the place of the old.

  Interrupted at any moment, it is finished by the next call.
  """
  new = out / _NEW
  if not (new / "index.json").is_file():
    return
  # Order matters: a folder is complete while, and only while, it has an index.
  (out / "index.json").unlink(missing_ok=True)
  shards = json.loads((new / "index.json").read_text())["shards"]
  names = {shard["file"] for shard in shards}
  for old in out.glob("shard-[0-9][0-9][0-9][0-9][0-9].*"):
    if old.name not in names:
      old.unlink()
  for file in new.iterdir():
    if file.name != "index.json":
      os.replace(file, out / file.name)
  os.replace(new / "index.json", out / "index.json")


def _is_published(
  out: pathlib.Path,
  entries: Sequence[dict[str, Any]],
  rejected: Sequence[dict[str, Any]],
  config: Any,
) -> bool:
  """Whether the folder's index is already what it would become."""
  file = out / "index.json"
  if not file.is_file():
    return False
  index = json.loads(file.read_text())
  if not all((out / shard["file"]).is_file() for shard in index["shards"]):
    return False
  there = [index[name] for name in ("preparation", "records", "rejected")]
  return there == json.loads(json.dumps([config.to_dict(), entries, rejected]))


def _write_tables(
  folder: pathlib.Path,
  out: pathlib.Path,
  manifest: Manifest,
  rows: Sequence[Found],
) -> None:
  """Writes what is listed of the scans; paths are relative to `out`."""
  facts = [row.facts for row in rows]
  rejected = [
    {name: fact[name] for name in _REJECTED_COLUMNS}
    for fact in facts
    if "reason" in fact
  ]
  records.write_csv(folder / "rejected.csv", _REJECTED_COLUMNS, rejected)
  warnings = [
    {name: fact[name] for name in _WARNING_COLUMNS[:2]} | {"warning": text}
    for fact in facts
    for text in fact.get("warnings", ())
  ]
  records.write_csv(folder / "warnings.csv", _WARNING_COLUMNS, warnings)
  accepted = []
  for row, fact in zip(manifest.rows, facts, strict=True):
    if "length" in fact:
      files = {
        name: ";".join(map(str, image_files(manifest, row, name)))
        for name in (*manifest.modalities, *MASKS)
        if name in row
      }
      accepted.append(row | files | {"record_index": str(len(accepted))})
  columns = dict.fromkeys((*manifest.columns, "record_index"))
  write_manifest(
    folder / "manifest.csv", accepted, list(columns), relative_to=out
  )
