"""Features of every scan by the encoder of a run, as records on disk.

Heads are trained on them as on images, with `--config.data.records=OUT`, as
if behind the encoder, frozen, in inference mode and without augmentation. The
folder says on which groups the encoder was fitted: `experiment.resolve` refuses
to evaluate a head on any of them.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainjax import InputError, records
from brainjax.cohort.manifest import (
  MASKS,
  MODALITIES,
  Manifest,
  image_files,
  write_manifest,
)
from brainjax.models.classifier import Classifier
from brainjax.training import experiment as experiment_lib
from brainjax.training import other_records, standardise, step, trained

_SHARD_SCANS = 128  # held in memory at a time, and lost when interrupted
_FINISHED = "finished.json"  # of a folder that is being written


@dataclasses.dataclass(frozen=True)
class Summary:
  """What was encoded.

  Attributes:
    num_scans: Scans.
    num_slices: Their slices.
    num_features: D, of each slice.
    new: False if it was all there already.
  """

  num_scans: int
  num_slices: int
  num_features: int
  new: bool


def encode(
  workdir: pathlib.Path,
  out: pathlib.Path,
  *,
  progress: Callable[..., Iterable[Any]] | None = None,
) -> Summary:
  """Encodes every scan of a run's records, also those without a class.

  The folder appears when it is complete; the same call then does nothing. If
  it was interrupted, the same call keeps the shards that it had finished.

  Args:
    workdir: Of the run; its best checkpoint is used.
    out: The folder of features; new, or empty.
    progress: `(iterable, total) -> iterable`, to show how far a loop is.

  Raises:
    InputError: The run is not ready or has no encoder, the folder holds
      something else, or cannot be written.
  """
  experiment = experiment_lib.open_run(workdir)
  source = experiment.record_set
  if source.encoder is not None:
    raise InputError(
      f"{workdir}: was trained on the features in {source.path} and has no"
      f" encoder; give --workdir={source.encoder['workdir']}, whose features"
      " they are"
    )
  run = trained.load_trained(workdir)
  if run.model.reads_volumes:
    raise InputError(
      f"{workdir}: its encoder describes scans as a whole, and slices have no"
      " features; give the run of an encoder of slices"
    )
  entry = {
    "workdir": str(workdir.resolve()),
    "preset": experiment.config.model.encoder.preset,
    "step": run.step,
    "checkpoint_sha256": run.checkpoint_sha256,
    "encoder_group_ids": list(run.facts["encoder_group_ids"]),
    "selection_group_ids": list(run.facts["selection_group_ids"]),
    "records": str(source.path),
    "records_sha256": source.sha256,
    "slice_shape": list(source.slice_shape),
    "dtype": str(source.dtype),
  }
  out = out.resolve()
  new = not _is_finished(out, entry)
  if new:
    _write(run, experiment, entry, out, progress)
  features = records.RecordSet(out)
  return Summary(
    num_scans=len(features),
    num_slices=int(features.lengths.sum()),
    num_features=features.slice_shape[-1],
    new=new,
  )


def encode_scans(
  run: trained.Trained,
  experiment: experiment_lib.Experiment,
  subset: np.ndarray,
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields the record index and the f32[S,D] features of each scan.

  Args:
    run: Whose encoder; in inference mode, that is with running statistics.
    experiment: Whose records, and how many are encoded at a time.
    subset: i64[T] record indices; the longest scans come first.
  """
  record_set = experiment.record_set
  given = other_records.supply(
    run,
    record_set,
    subset,
    experiment.config.data,
    lengths=record_set.lengths,
  )
  pending = None
  for batch in given.batches:
    z = _encode_batch(
      given.variables,
      batch,
      model=run.model,
      zero_code=given.zero_code,
      standard=given.standard,
    )
    places = batch["record_index"], batch["owner"]
    # Order matters: a batch is fetched while the next one is encoded.
    if pending:
      yield from _unpack(*jax.device_get(pending))
    pending = (*places, z)
  if pending:
    yield from _unpack(*jax.device_get(pending))


@functools.partial(jax.jit, static_argnames=("model", "zero_code", "standard"))
def _encode_batch(
  variables: Mapping[str, Any],
  batch: step.Batch,
  *,
  model: Classifier,
  zero_code: int,
  standard: standardise.Standard | None,
) -> jax.Array:
  """Returns f32[G,N,D], the features of every slot."""
  packs, slots = batch["owner"].shape
  slices = step.dequantise(batch, zero_code, standard)
  valid = batch["owner"] < batch["label"].shape[1]
  z: Any = model.apply(
    variables,
    slices.reshape(packs * slots, *slices.shape[2:]),
    valid.reshape(-1),
    packs=packs,
    train=False,
    method="encode",
  )
  return z.astype(jnp.float32).reshape(packs, slots, -1)


def _unpack(
  record_index: np.ndarray, owner: np.ndarray, z: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
  for pack, row in np.argwhere(record_index >= 0):
    # The slots of a scan lie in the order of its slices.
    yield int(record_index[pack, row]), z[pack, owner[pack] == row]


def _is_finished(out: pathlib.Path, entry: Mapping[str, Any]) -> bool:
  """Whether the folder holds these features; refuses one that holds more."""
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return False
  complete = (out / "index.json").is_file()
  features = records.RecordSet(out) if complete else None
  found = features.encoder if features else None
  if features is None or found is None:
    raise InputError(
      f"--out={out}: exists and was not made by `brainjax encode`; choose"
      " another folder"
    )
  for name, value in entry.items():
    if found.get(name) != value:
      raise InputError(
        f"--out={out}: holds features of another encoder or other records:"
        f" {name} was {found.get(name)!r}, is {value!r}; choose another folder"
      )
  for shard in features.index["shards"]:
    if not (out / shard["file"]).is_file():
      raise InputError(
        f"{out / shard['file']}: missing; remove {out} and run the command"
        " again"
      )
  return True


def _write(
  run: trained.Trained,
  experiment: experiment_lib.Experiment,
  entry: dict[str, Any],
  out: pathlib.Path,
  progress: Callable[..., Iterable[Any]] | None,
) -> None:
  """Writes the folder beside its place, and moves it there at the end."""
  source = experiment.record_set
  partial = out.with_name(f".{out.name}.partial")
  chunks = [
    np.arange(first, min(first + _SHARD_SCANS, len(source)))
    for first in range(0, len(source), _SHARD_SCANS)
  ]
  made_by = entry | {
    "shard_scans": _SHARD_SCANS,
    "devices": jax.device_count(),
    "jax": jax.__version__,
  }
  shards: list[dict[str, str]] = []
  try:
    shards, num_features = _finished_shards(partial, made_by)
    left = chunks[len(shards) :]
    encoded = itertools.chain.from_iterable(
      encode_scans(run, experiment, chunk) for chunk in left
    )
    total = sum(map(len, left))
    scans = iter(progress(encoded, total) if progress else encoded)
    for shard, chunk in enumerate(left, len(shards)):
      features = dict(next(scans) for _ in chunk)
      num_features = features[int(chunk[0])].shape[-1]
      name = records.shard_name(shard)
      content = (
        records.encode(_feature_record(source[i], features[i]))
        for i in chunk.tolist()
      )
      sha256 = records.write_shard(partial / name, content)
      shards.append({"file": name, "sha256": sha256})
      state = {
        "made_by": made_by,
        "num_features": num_features,
        "shards": shards,
      }
      records.write_text(partial / _FINISHED, json.dumps(state))
    next(scans, None)  # ends the display of progress
    entries = [
      source.index["records"][i] | {"shard": shard, "offset": offset}
      for shard, chunk in enumerate(chunks)
      for offset, i in enumerate(chunk.tolist())
    ]
    _write_manifest(partial, source, out)
    records.write_index(
      partial,
      slice_shape=(1, 1, num_features),
      dtype="float32",
      modalities=source.index["modalities"],
      preparation=source.index["preparation"],
      shards=shards,
      records=entries,
      encoder=entry,
    )
    (partial / _FINISHED).unlink()
    os.replace(partial, out)
  except OSError as error:
    raise InputError(
      f"--out={out}: {error.strerror or error}; make room, or choose another"
      " folder"
    ) from error
  finally:
    if not shards:
      shutil.rmtree(partial, ignore_errors=True)


def _finished_shards(
  partial: pathlib.Path, made_by: Mapping[str, Any]
) -> tuple[list[dict[str, str]], int]:
  """Prepares the folder, keeping what the same call had finished in it.

  Args:
    partial: The folder, whatever there is of it.
    made_by: All that the bytes of a shard depend on.

  Returns:
    The first shards, as in the index, as far as they are whole; and D, which is
    0 if there are none.
  """
  file = partial / _FINISHED
  state = json.loads(file.read_text()) if file.is_file() else {}
  shards = []
  if state.get("made_by") == made_by:
    for shard in state["shards"]:
      path = partial / shard["file"]
      if not path.is_file() or records.sha256_of(path) != shard["sha256"]:
        break
      shards.append(shard)
  if not shards:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return [], 0
  kept = {_FINISHED, *(shard["file"] for shard in shards)}
  for path in partial.iterdir():
    if path.name not in kept:  # such as a file that was being written
      path.unlink()
  return shards, state["num_features"]


def _feature_record(
  record: records.Record, features: np.ndarray
) -> records.Record:
  """Returns the record with its features in the place of its images."""
  one_pixel = np.ones((len(features), 1, 1), bool)
  return dataclasses.replace(
    record,
    slices=features[:, None, None],
    scale=1.0,
    brain_mask=records.pack_bits(one_pixel),
    mask=None,
  )


def _write_manifest(
  folder: pathlib.Path, source: records.RecordSet, out: pathlib.Path
) -> None:
  """Writes the rows of the source; paths are relative to `out`."""
  manifest = Manifest(
    path=(source.path / "manifest.csv").absolute(),
    columns=tuple(source.rows[0]),
    rows=tuple(source.rows),
    modalities=tuple(source.index["modalities"]),
  )
  rows = [
    row
    | {
      name: ";".join(map(str, image_files(manifest, row, name)))
      for name in (*MODALITIES, *MASKS)
      if name in row
    }
    for row in manifest.rows
  ]
  write_manifest(
    folder / "manifest.csv", rows, manifest.columns, relative_to=out
  )
