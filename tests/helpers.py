"""What several tests build: records and a folder of them."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from brainjax import checkpoint, config, records
from brainjax.training import experiment, model_file, runner


def draw_variables(init: Callable[..., Any], *args: Any, seed: int = 2) -> Any:
  """Draws what `init(key, *args)` would; norms have scales near one.

  It compiles nothing: an init takes longer to compile than a gradient.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    centre, spread = path[-1].key in ("scale", "var"), 0.2
    if leaf.ndim > 1:
      spread = np.prod(leaf.shape[:-1]) ** -0.5
    return np.float32(rng.normal(centre, spread, leaf.shape))

  shapes = jax.eval_shape(init, jax.random.key(0), *args)
  return jax.tree.map_with_path(draw, shapes)


def random_record(
  rng: np.random.Generator,
  *,
  num_slices: int = 3,
  height: int = 16,
  width: int = 16,
  label: str = "normal",
  participant_id: str = "p0",
  session_id: str = "",
  group_id: str = "",
  dtype: str = "uint8",
  brightness: float = 0.0,
) -> records.Record:
  """A record of noise, `brightness` standard deviations above zero."""
  zero_code = records.ZERO_CODES[np.dtype(dtype)]
  scale = 10 / 254 if dtype == "uint8" else 1e-3
  shape = (num_slices, height, width, 1)
  values = np.clip(rng.normal(brightness, 1.0, shape), -5, 5)
  codes = np.round(values / scale).astype(int) + zero_code
  bits = (num_slices, height, -(-width // 8))
  return records.Record(
    slices=codes.astype(dtype),
    scale=scale,
    positions_mm=np.arange(num_slices, dtype=np.float32) * 5,
    positions_known=True,
    present=np.ones(1, np.uint8),
    brain_mask=np.full(bits, 255, np.uint8),
    landmarks=np.zeros((1, 11), np.float32),
    participant_id=participant_id,
    session_id=session_id,
    group_id=group_id or participant_id,
    label=label,
    geometry={},
  )


def write_records(
  folder: pathlib.Path, scans: Sequence[records.Record]
) -> records.RecordSet:
  """Writes a folder of records, as `brainjax prepare` does."""
  folder.mkdir(parents=True, exist_ok=True)
  shard = folder / "shard-00000.zip"
  sha256 = records.write_shard(shard, [records.encode(s) for s in scans])
  columns = ["participant_id", "label", "t1", "session_id", "group_id"]
  columns += ["source", "record_index"]
  rows = [
    {
      "participant_id": scan.participant_id,
      "label": scan.label,
      "t1": f"{scan.participant_id}.nii.gz",
      "session_id": scan.session_id,
      "group_id": scan.group_id,
      "source": "test",
      "record_index": i,
    }
    for i, scan in enumerate(scans)
  ]
  records.write_csv(folder / "manifest.csv", columns, rows)
  records.write_index(
    folder,
    slice_shape=scans[0].slices.shape[1:],
    dtype=str(scans[0].slices.dtype),
    modalities=["t1"],
    preparation=config.get_config().preparation.to_dict(),
    shards=[{"file": shard.name, "sha256": sha256}],
    records=[
      {
        "shard": 0,
        "offset": i,
        "length": len(scan.slices),
        "input_sha256": "",
      }
      for i, scan in enumerate(scans)
    ],
  )
  return records.RecordSet(folder)


def write_cohort(
  folder: pathlib.Path, *, participants: int = 30, seed: int = 0
) -> records.RecordSet:
  """Writes records of two classes that differ a little in brightness."""
  rng = np.random.default_rng(seed)
  labels = ["normal", "glioma"]
  return write_records(
    folder,
    [
      random_record(
        rng,
        num_slices=int(rng.integers(1, 6)),
        label=labels[i % 2],
        participant_id=f"p{i:03d}",
        brightness=0.4 * (i % 2),
      )
      for i in range(participants)
    ],
  )


def write_features(
  folder: pathlib.Path,
  *,
  participants: int = 30,
  seed: int = 0,
  lengths: Sequence[int] = (3,),
) -> records.RecordSet:
  """Writes features of two classes; a head on them compiles in a second."""
  rng = np.random.default_rng(seed)
  scans = [
    dataclasses.replace(
      random_record(
        rng,
        num_slices=length,
        label=["normal", "glioma"][i % 2],
        participant_id=f"p{i:03d}",
      ),
      slices=rng.normal(i % 2, 1.0, (length, 1, 1, 8)).astype(np.float32),
      scale=1.0,
      brain_mask=np.full((length, 1, 1), 128, np.uint8),
    )
    for i, length in zip(range(participants), itertools.cycle(lengths))
  ]
  write_records(folder, scans)
  index_file = folder / "index.json"
  index = json.loads(index_file.read_text())
  index["encoder"] = {
    "workdir": "gone",
    "step": 1,
    "preset": "micro",
    "encoder_group_ids": [],
    "selection_group_ids": [],
    "records": str(folder / "gone"),
    "records_sha256": "",
    "slice_shape": [16, 16, 1],
  }
  index_file.write_text(json.dumps(index))
  return records.RecordSet(folder)


def micro_config(
  records_folder: pathlib.Path, *overrides: str
) -> ml_collections.ConfigDict:
  """A config that trains in seconds; then `section.field=value` overrides."""
  fields = config.get_config("head=lstm")
  for override in (
    f"data.records={records_folder}",
    "data.scans_per_step=6",
    "model.encoder.preset=micro",
    "model.head.hidden_size=4",
    "train.epochs=4",
    "train.log_every_steps=2",
    "mesh.devices=1",
    "optimizer.learning_rate=1e-3",
    *overrides,
  ):
    config.set_field(fields, override)
  return fields


def write_run(fields: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Leaves what training does, but for its log; compiles no training step."""
  run = experiment.resolve(fields, workdir, 1)
  first = runner.Runner(run)
  model_file.write_model_file(run, first.num_parameters)
  with checkpoint.Checkpoints(workdir / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(1, first.state, loop={"best_step": 1}, best_step=1)
