"""Volumes to the device: brainjax against MONAI's PersistentDataset.

Both sides have prepared the same volumes once, as their users do (brainjax:
records of integers; MONAI: the tensors that its PersistentDataset caches after
the intensities are standardised, float32), shuffle them, and put batches of 16
on the device. That cache with uint8, which takes code of one's own to undo, is
measured beside it. Of MONAI's DataLoader without and with two workers, the
faster counts. Sides alternate, four epochs at a time; a ratio is of medians,
and its spread is that of the ratios of neighbouring runs (10th and 90th
percentile). Files are in the page cache after the first epoch. The volumes are
drawn so that they compress much as real ones do.

CPU time is of runs of their own, in which torch works in one thread (two that
wait for each other spend time that does no work); unlike seconds, it says
something on a busy machine too.

    python benchmarks/input.py [--quick] [--volumes=256] [--records=FOLDER]

Without MONAI only brainjax is measured. The last line is one JSON object.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

import brainjax

brainjax.set_xla_flags()
brainjax.keep_freed_memory()

import jax  # noqa: E402  (after the flags are set)
import numpy as np  # noqa: E402
import scipy.ndimage  # noqa: E402
from step import alternate, compare, versions  # noqa: E402

from brainjax import records  # noqa: E402
from brainjax.input import pipeline, plan, resident  # noqa: E402
from brainjax.training import sharding  # noqa: E402

HAS_MONAI = importlib.util.find_spec("monai") is not None
SCANS = 16  # of a batch
SLICES, SIZE = 24, 128  # of a volume, pixels a side: the defaults of brainjax
EPOCHS = 4  # that a run takes; as in training, without a pause between them
STEP_SECONDS = 0.05  # of a simulated GPU step, which takes no CPU


def draw_volume(rng: np.random.Generator) -> np.ndarray:
  """Returns u8[S,H,W,1]: smooth noise in an ellipsoid, exact zero outside."""
  shape = (SLICES, SIZE, SIZE)
  axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
  brain = sum((axis / 0.9) ** 2 for axis in axes) < 1
  noise = rng.normal(size=shape).astype(np.float32)
  smooth = scipy.ndimage.gaussian_filter(noise, 2)
  values = smooth / smooth.std() + 0.1 * noise
  codes = np.clip(np.round(values * 25.4), -127, 127) + 127
  return np.where(brain, codes, 127).astype(np.uint8)[..., None]


def write_records(folder: pathlib.Path, count: int) -> records.RecordSet:
  """Writes drawn volumes as `brainjax prepare` writes prepared ones."""
  rng = np.random.default_rng(0)

  def record(index: int) -> bytes:
    return records.encode(
      records.Record(
        slices=draw_volume(rng),
        scale=10 / 254,
        positions_mm=np.arange(SLICES, dtype=np.float32) * 5,
        positions_known=True,
        present=np.ones(1, np.uint8),
        brain_mask=np.full((SLICES, SIZE, SIZE // 8), 255, np.uint8),
        landmarks=np.zeros((1, 11), np.float32),
        participant_id=f"p{index}",
        session_id="",
        group_id=f"p{index}",
        label="normal",
        geometry={},
      )
    )

  shard = folder / "shard-00000.zip"
  sha256 = records.write_shard(shard, map(record, range(count)))
  rows = [{"record_index": index} for index in range(count)]
  records.write_csv(folder / "manifest.csv", ["record_index"], rows)
  records.write_index(
    folder,
    slice_shape=(SIZE, SIZE, 1),
    dtype="uint8",
    modalities=["t1"],
    preparation={},
    shards=[{"file": shard.name, "sha256": sha256}],
    records=[
      {"shard": 0, "offset": index, "length": SLICES} for index in range(count)
    ],
  )
  return records.RecordSet(folder)


class Ours:
  """brainjax; each call takes the next epochs of the plan."""

  def __init__(self, record_set):
    self.record_set = record_set
    self.subset = np.arange(len(record_set))
    self.labels = np.zeros(len(record_set), np.int32)
    self.shape = plan.plan_shape(
      record_set.lengths,
      packs=1,
      scans_per_step=SCANS,
      pack_slices=None,
      longest=int(record_set.lengths.max()),
    )
    self.rows_of = pipeline.training_rows(
      record_set.lengths, self.subset, self.shape, seed=0, packs=np.arange(1)
    )
    self.mesh = sharding.make_mesh(1)
    self.put = sharding.batch_putter(self.mesh)
    self.done = 0

  def steps(self, epochs: int) -> dict[str, int]:
    """Returns the steps of the next epochs."""
    first = self.done
    self.done += epochs * self.shape.steps_per_epoch
    return {"first_step": first, "num_steps": self.done}

  def batches(self, epochs: int):
    """Yields the batches of the next epochs."""
    return pipeline.training_batches(
      self.record_set,
      self.rows_of,
      self.labels,
      self.shape,
      **self.steps(epochs),
      read_threads=2,
      prefetch_steps=2,
      put=self.put,
    )

  def run(self):
    """Puts every volume on the device `EPOCHS` times."""
    for batch in self.batches(EPOCHS):
      jax.block_until_ready(batch)


class Resident(Ours):
  """brainjax with all slices on the device."""

  def __init__(self, record_set):
    super().__init__(record_set)
    rows, self.scans = resident.load(
      record_set, self.subset, multiple_of=1, read_threads=2
    )
    put, self.take = sharding.row_store(self.mesh, dealt=False)
    self.store = put(rows)

  def batches(self, epochs: int):
    """Yields the batches of the next epochs."""
    return resident.training_batches(
      self.store,
      self.scans,
      self.take,
      self.record_set,
      self.rows_of,
      self.labels,
      self.shape,
      **self.steps(epochs),
      prefetch_steps=2,
      put=self.put,
    )


class Monai:
  """PersistentDataset and DataLoader of MONAI."""

  def __init__(self, record_set, folder, *, dtype: str, workers: int):
    import torch
    from monai.data import DataLoader, PersistentDataset
    from monai.transforms import Compose, EnsureTyped, LoadImaged

    self.device = "cuda" if torch.cuda.is_available() else "cpu"
    volumes = folder / f"volumes-{dtype}"
    volumes.mkdir(exist_ok=True)
    files = []
    for index in range(len(record_set)):
      file = volumes / f"{index}.npy"
      if not file.is_file():
        record = record_set[index]
        # Channel first, and as MONAI's users standardise before the cache.
        values = record.slices if dtype == "uint8" else record.intensities()
        np.save(file, np.moveaxis(values, -1, 0))
      files.append({"image": str(file), "label": 0})
    transforms = Compose(
      [
        LoadImaged("image", reader="NumpyReader", dtype=np.dtype(dtype)),
        EnsureTyped("image", dtype=getattr(torch, dtype), track_meta=False),
      ]
    )
    dataset = PersistentDataset(
      files, transforms, cache_dir=folder / f"cache-{dtype}"
    )
    self.loader = DataLoader(
      dataset,
      batch_size=SCANS,
      shuffle=True,
      num_workers=workers,
      persistent_workers=workers > 0,
      pin_memory=self.device == "cuda",
    )

  def batches(self, epochs: int):
    """Yields the batches of the next epochs."""
    for _ in range(epochs):
      for batch in self.loader:
        yield batch["image"].to(self.device, non_blocking=True)

  def run(self):
    """Puts every volume on the device `EPOCHS` times."""
    for images in self.batches(EPOCHS):
      assert images.shape[0] <= SCANS
    if self.device == "cuda":
      import torch

      torch.cuda.synchronize()


def cpu_seconds() -> float:
  """Returns the CPU time so far of this process and of its workers."""
  seconds = time.process_time()
  for worker in multiprocessing.active_children():
    stat = pathlib.Path(f"/proc/{worker.pid}/stat").read_text()
    # Of proc(5); the name before these fields may hold spaces.
    user, system = stat.rpartition(")")[2].split()[11:13]
    seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
  return seconds


def alternate_cpu(sides, repeats: int) -> dict[str, list[float]]:
  """Runs every side once, again and again; returns CPU seconds of each run."""
  if HAS_MONAI:
    import torch

    torch.set_num_threads(1)
  seconds = {name: [] for name in sides}
  for _ in range(repeats):
    for name, side in sides.items():
      start = cpu_seconds()
      side.run()
      seconds[name].append(cpu_seconds() - start)
  return seconds


def wait_for_data(side, epochs: int) -> tuple[float, float]:
  """Lets steps of `STEP_SECONDS` wait for data.

  A step is simulated by sleeping, so nothing runs ahead of it. The wait for
  the first batch is left out.

  Returns:
    The share of the time that they wait, and the median wait of a step in ms,
    in which a pause that other processes cause is not seen.
  """
  batches = iter(side.batches(epochs))
  next(batches)
  began, waits = time.perf_counter(), []
  while True:
    time.sleep(STEP_SECONDS)
    waiting = time.perf_counter()
    batch = next(batches, None)
    if batch is None:
      return sum(waits) / (waiting - began), 1e3 * statistics.median(waits)
    waits.append(time.perf_counter() - waiting)


def main() -> None:
  """Prints the table and, as its last line, one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="fewer repeats")
  parser.add_argument("--volumes", type=int, default=256)
  parser.add_argument("--records", type=pathlib.Path, help="instead of drawn")
  args = parser.parse_args()
  repeats = 7 if args.quick else 21
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    if args.records:
      record_set = records.RecordSet(args.records)
    else:
      record_set = write_records(folder, args.volumes)
    if HAS_MONAI and len(set(record_set.lengths)) > 1:
      parser.error("--records: MONAI collates volumes of equal length only")
    sides = {"ours": Ours(record_set), "ours resident": Resident(record_set)}
    if HAS_MONAI:
      for dtype in ("uint8", "float32"):
        for workers in (0, 2):
          sides[f"monai {dtype}, {workers} workers"] = Monai(
            record_set, folder, dtype=dtype, workers=workers
          )
    seconds = alternate(sides, "run", repeats)
    waits = {name: wait_for_data(side, 6) for name, side in sides.items()}
    cpu = alternate_cpu(sides, repeats)
  count, ratios, figures = len(record_set), {}, {}
  print(
    f"{'side':28}{'volumes/s':>10}{'CPU ms each':>13}{'data wait':>11}"
    f"{'median a step, ms':>19}"
  )
  for name, times in seconds.items():
    speed = EPOCHS * count / statistics.median(times)
    each = 1e3 * statistics.median(cpu[name]) / (EPOCHS * count)
    figures[name] = {
      "volumes_per_second": speed,
      "cpu_ms_per_volume": each,
      "data_wait": waits[name][0],
      "data_wait_median_ms": waits[name][1],
    }
    print(
      f"{name:28}{speed:10.0f}{each:13.2f}{waits[name][0]:11.1%}"
      f"{waits[name][1]:17.2f}"
    )
  for key, name, dtype, taken in (
    ("input_vs_monai", "ours", "float32", seconds),
    ("input_vs_monai_uint8", "ours", "uint8", seconds),
    ("resident_vs_monai", "ours resident", "float32", seconds),
    ("input_cpu_vs_monai", "ours", "float32", cpu),
    ("input_cpu_vs_monai_uint8", "ours", "uint8", cpu),
  ):
    peers = [peer for peer in sides if peer.startswith(f"monai {dtype}")]
    if peers:
      best = min(peers, key=lambda peer: statistics.median(taken[peer]))
      figures[key] = compare(taken[name], taken[best]) | {"peer": best}
      ratios[key] = figures[key]["ratio"]
      print(
        "{0}: {ratio:.2f} [{low:.2f}, {high:.2f}]".format(key, **figures[key])
      )
  result = {
    "benchmark": "input",
    "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
    "versions": versions(),
    "ratios": ratios,
    "figures": figures,
  }
  print(json.dumps(result))


if __name__ == "__main__":
  main()
