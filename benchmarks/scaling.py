"""How a training step scales: packing, slices, cohort, devices.

Packing is held against its two usual alternatives, on the lengths of the public
figshare set by patient (1 to 38 slices), 16 scans a batch, the same model and
the same training step; only the shapes of the batches differ:

- longest: scans in random order, every batch padded to its own longest scan
  (a compiled step for each length that occurs); of 21 orders, the one with the
  median of padding;
- bucketed: scans sorted by length and cut into batches, each padded to the
  longest of its bucket; the buckets are those four that pad least.

A side's run is an epoch of all scans, batches already on the device. Padding
stands at the end of a batch instead of after each scan, which costs the same.
Sides alternate; a ratio is of medians, and its spread is that of the ratios of
neighbouring runs (10th and 90th percentile).

    python benchmarks/scaling.py [--quick] [--records=FOLDER]

The lengths are those of 179 of the set's 233 patients, or of `--records`. The
last line is one JSON object.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import types

import brainjax

brainjax.set_xla_flags()
brainjax.keep_freed_memory()

import jax  # noqa: E402  (after the flags are set)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from step import alternate, compare, versions  # noqa: E402

from brainjax import records  # noqa: E402
from brainjax.input import packing, plan  # noqa: E402
from brainjax.models.build import build_classifier  # noqa: E402
from brainjax.training import losses, sharding  # noqa: E402
from brainjax.training import step as step_lib  # noqa: E402

SCANS = 16  # of a batch
BUCKETS = 4
FIGSHARE = {  # slices of a patient: patients
  **{1: 6, 2: 7, 3: 7, 4: 11, 5: 5, 6: 8, 7: 5, 8: 5, 9: 6, 10: 9, 11: 3},
  **{12: 13, 13: 6, 14: 5, 15: 17, 16: 5, 17: 8, 18: 8, 19: 9, 20: 6, 21: 5},
  **{22: 7, 23: 1, 24: 4, 25: 3, 26: 3, 28: 1, 29: 1, 31: 1, 34: 1, 35: 1},
  **{37: 1, 38: 1},
}


@dataclasses.dataclass(frozen=True)
class Work:
  """What a step works on.

  Attributes:
    preset: Of the encoder.
    size: Pixels a side.
    hidden: Of the LSTM.
  """

  preset: str
  size: int
  hidden: int = 128


def make_batch(rows: np.ndarray, lengths: np.ndarray, shape, size: int):
  """Returns the host batch of i32[G,B] scans of these lengths, of noise."""
  rng = np.random.default_rng(0)

  def read(index: int):
    slices = (lengths[index], size, size, 1)
    return types.SimpleNamespace(
      slices=rng.integers(0, 255, slices, dtype=np.uint8),
      scale=10 / 254,
      positions_mm=np.arange(lengths[index], dtype=np.float32),
    )

  labels = np.arange(len(lengths), dtype=np.int32) % 2
  return packing.pack_batch(
    rows, read, labels, shape, slice_shape=(size, size, 1), dtype=np.uint8
  )


def make_parts(work: Work, shape, axis_name: str | None = None):
  """Returns the model, the optimizer and the facts of a step."""
  model = build_classifier(
    preset=work.preset,
    statistics="pack",
    head={"name": "lstm", "hidden_size": work.hidden},
    dropout=0.0,
    dtype="float32",
    num_classes=2,
    axis_name=axis_name,
  )
  settings = step_lib.StepSettings(
    zero_code=records.ZERO_CODES[np.dtype(np.uint8)],
    num_rows=shape.rows,
    max_length=shape.longest,
    scans_per_step=SCANS,
    loss=losses.LossSettings(class_weights=(1.0, 1.0)),
    augment=None,
    seed=0,
    axis_name=axis_name,
  )
  return model, optax.with_extra_args_support(optax.adam(1e-4)), settings


def empty_batch(work: Work, shape):
  """Returns a host batch without a scan."""
  none = np.full((shape.packs, shape.rows), -1, np.int32)
  return make_batch(none, np.ones(1, int), shape, work.size)


@functools.lru_cache
def initial_state(work: Work):
  """Returns the state before the first step, on the host; of any shape."""
  shape = plan.PackShape(1, 8, 1, 8, 1)
  init = functools.partial(step_lib.init_state, *make_parts(work, shape))
  return jax.device_get(jax.jit(init)(empty_batch(work, shape)))


class Step:
  """A compiled training step for batches of one shape."""

  def __init__(self, work: Work, shape, *, devices=1, parallelism="jit"):
    axis_name = sharding.DATA_AXIS if parallelism == "pmap" else None
    mesh = sharding.make_mesh(devices)
    self.put = sharding.batch_putter(mesh)
    self.state = jax.device_put(initial_state(work), sharding.replicated(mesh))
    step = step_lib.make_train_step(*make_parts(work, shape, axis_name))
    start = time.perf_counter()
    self.compiled = (
      sharding.parallelise(step, mesh, parallelism)
      .lower(self.state, self.put(empty_batch(work, shape)))
      .compile()
    )
    self.compile_seconds = time.perf_counter() - start


class Run:
  """Steps with their batches, all there before the clock starts."""

  def __init__(self, steps: list[tuple[Step, dict]]):
    self.steps = [(step, step.put(batch)) for step, batch in steps]
    # A copy, for the first step gives it away.
    self.state = jax.tree.map(jnp.copy, self.steps[0][0].state)

  def run(self):
    """Takes every step once."""
    for step, batch in self.steps:
      self.state, _ = step.compiled(self.state, batch)
    jax.block_until_ready(self.state)


def cut(order: np.ndarray) -> list[np.ndarray]:
  """Cuts scans into batches of `SCANS`; the last may have fewer."""
  return [order[i : i + SCANS] for i in range(0, len(order), SCANS)]


def packed(lengths) -> list[tuple[np.ndarray, plan.PackShape]]:
  """Returns the batches of an epoch: i32[1,B] scans, and a shape."""
  shape = packed_shape(lengths)
  return [(rows, shape) for rows in plan.epoch_plan(lengths, 0, 0, shape)]


def padded(lengths, scans, rows: int, longest: int):
  """Returns one batch of scans padded to `longest`, with this many rows."""
  table = np.full((1, rows), -1, np.int32)
  table[0, : len(scans)] = scans
  return table, plan.PackShape(1, rows * longest, rows, longest, 1)


def to_the_longest(lengths):
  """Returns the batches of an epoch in random order."""
  rng, epochs = np.random.default_rng(0), []
  for _ in range(21):
    batches = cut(rng.permutation(len(lengths)))
    epochs.append(
      [
        padded(lengths, scans, len(scans), int(lengths[scans].max()))
        for scans in batches
      ]
    )
  slots = [sum(shape.slices for _, shape in epoch) for epoch in epochs]
  return epochs[int(np.argsort(slots)[10])]


def bucketed(lengths):
  """Returns the batches of an epoch sorted into the best `BUCKETS`."""
  # Longest first: a batch with too few scans is then one of short ones.
  batches = cut(np.argsort(-lengths, kind="stable"))
  longest = [int(lengths[scans].max()) for scans in batches]

  def edges(cuts):
    return list(itertools.pairwise((0, *cuts, len(batches))))

  best = min(
    itertools.combinations(range(1, len(batches)), BUCKETS - 1),
    key=lambda cuts: sum((b - a) * longest[a] for a, b in edges(cuts)),
  )
  return [
    padded(lengths, scans, SCANS, longest[first])
    for first, last in edges(best)
    for scans in batches[first:last]
  ]


def compile_all(work: Work, shapes) -> dict[plan.PackShape, Step]:
  """Compiles a step for every shape, on all cores."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    found = pool.map(lambda shape: Step(work, shape), shapes)
    return dict(zip(shapes, found, strict=True))


def compare_packing(lengths, work: Work, repeats: int):
  """Returns the ratios, and what each side did."""
  epochs = {
    "packed": packed(lengths),
    "longest": to_the_longest(lengths),
    "bucketed": bucketed(lengths),
  }
  initial_state(work)
  shapes = {shape for epoch in epochs.values() for _, shape in epoch}
  steps = compile_all(work, sorted(shapes, key=lambda s: s.slices))
  sides = {
    name: Run(
      [
        (steps[shape], make_batch(rows, lengths, shape, work.size))
        for rows, shape in epoch
      ]
    )
    for name, epoch in epochs.items()
  }
  seconds = alternate(sides, "run", repeats)
  ratios, figures = {}, {}
  print(f"{'side':10}{'steps':>6}{'shapes':>8}{'filled':>8}{'scans/s':>9}")
  for name, epoch in epochs.items():
    filled = lengths.sum() / sum(shape.slices for _, shape in epoch)
    speed = len(lengths) / statistics.median(seconds[name])
    figures[name] = {
      "steps": len(epoch),
      "shapes": len({shape for _, shape in epoch}),
      "filled": float(filled),
      "scans_per_second": speed,
    }
    print(
      f"{name:10}{len(epoch):6}{figures[name]['shapes']:8}{filled:8.0%}"
      f"{speed:9.1f}"
    )
    if name != "packed":
      key = f"packed_vs_{name}"
      figures[key] = compare(seconds["packed"], seconds[name])
      ratios[key] = figures[key]["ratio"]
      print(
        "{0}: {ratio:.2f} [{low:.2f}, {high:.2f}]".format(key, **figures[key])
      )
  return ratios, figures


def fit(what: str, xs, seconds, unit: float, name: str) -> dict[str, float]:
  """Fits a line; prints and returns it, with its largest relative error."""
  slope, intercept = np.polyfit(xs, seconds, 1, w=1 / seconds)
  error = np.abs(slope * np.array(xs) + intercept - seconds) / seconds
  print(
    f"{what}: {intercept / unit:.2f} + {slope / unit:.4f} a {name}, {xs[0]} to"
    f" {xs[-1]}; the line is off by at most {error.max():.0%}"
  )
  return {
    "slope_seconds": float(slope),
    "intercept_seconds": float(intercept),
    "largest_error": float(error.max()),
  }


def timed_shapes(shapes, work: Work, length: int, repeats: int):
  """Returns the median seconds of a step of each shape, alternating."""
  steps = compile_all(work, shapes)
  sides = {}
  for shape in shapes:
    rows = np.full((1, shape.rows), -1, np.int32)
    fitting = min(shape.slices // length, shape.rows)
    rows[0, :fitting] = np.arange(fitting)
    lengths = np.full(fitting, length)
    batch = make_batch(rows, lengths, shape, work.size)
    sides[shape] = Run([(steps[shape], batch)] * 3)
  seconds = alternate(sides, "run", repeats)
  return np.array([statistics.median(seconds[shape]) / 3 for shape in shapes])


def cost_lines(work: Work, repeats: int) -> dict[str, dict[str, float]]:
  """Prints and returns how the cost grows with slices, length and cohort."""
  slots = (64, 192, 512)
  shapes = [plan.PackShape(1, n, n // 8, 16, 1) for n in slots]
  seconds = timed_shapes(shapes, work, 8, repeats)
  found = {"slices": fit("a step, ms", slots, seconds, 1e-3, "slice (N)")}
  longest = (16, 128, 1024)
  shapes = [plan.PackShape(1, 64, 8, s, 1) for s in longest]
  seconds = timed_shapes(shapes, work, 8, repeats)
  found["longest"] = fit(
    "a step of 64 slices and 8 scans, ms",
    longest,
    seconds,
    1e-3,
    "place of the longest sequence (S)",
  )
  cohort = (1_000, 4_000, 16_000, 64_000)
  rng, seconds = np.random.default_rng(0), []
  for count in cohort:
    lengths = rng.choice(figshare_lengths(), count)
    shape = packed_shape(lengths)
    times = []
    for epoch in range(5):
      start = time.perf_counter()
      plan.epoch_plan(lengths, 0, epoch, shape)
      times.append(time.perf_counter() - start)
    seconds.append(statistics.median(times))
  found["cohort"] = fit(
    "the plan of an epoch, ms", cohort, np.array(seconds), 1e-3, "scan"
  )
  return found


def packed_shape(lengths) -> plan.PackShape:
  """Returns the shape that brainjax derives for `SCANS` scans a step."""
  return plan.plan_shape(
    lengths,
    packs=1,
    scans_per_step=SCANS,
    pack_slices=None,
    longest=int(lengths.max()),
  )


def figshare_lengths() -> np.ndarray:
  """Returns i32[R] slices of each patient of figshare."""
  lengths = [n for n, patients in FIGSHARE.items() for _ in range(patients)]
  return np.array(lengths, np.int32)


def device_run(work: Work, packs: int, devices: int, parallelism="jit") -> Run:
  """Returns a step of packs of 64 slices on so many devices."""
  shape = plan.PackShape(packs, 64, 8, 8, 1)
  rows = np.arange(packs * 8, dtype=np.int32).reshape(packs, 8)
  batch = make_batch(rows, np.full(rows.size, 8), shape, work.size)
  step = Step(work, shape, devices=devices, parallelism=parallelism)
  return Run([(step, batch)] * 3)


def weak_scaling(work: Work, repeats: int) -> dict[str, float]:
  """Returns, by devices, how often one device does the same work in that time.

  Virtual devices share the cores, so this says nothing of the speed of several
  devices; only what it costs, or saves, to deal the same work among them.
  """
  found = {}
  for devices in (2, 8):
    sides = {count: device_run(work, devices, count) for count in (1, devices)}
    seconds = alternate(sides, "run", repeats)
    found[str(devices)] = compare(seconds[devices], seconds[1])
  return found


def on_virtual_devices(quick: bool) -> dict[str, dict[str, float]]:
  """Calls `weak_scaling` in a process with eight virtual devices."""
  command = [sys.executable, __file__, "--weak", *["--quick"] * quick]
  environment = os.environ | {
    "JAX_NUM_CPU_DEVICES": "8",
    "JAX_PLATFORMS": "cpu",
  }
  output = subprocess.run(
    command, check=True, capture_output=True, text=True, env=environment
  )
  return json.loads(output.stdout.splitlines()[-1])


def main() -> None:
  """Prints the tables and, as its last line, one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="a small model")
  parser.add_argument("--records", help="whose lengths to take")
  parser.add_argument("--weak", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args()
  repeats = 5 if args.quick else 11
  small = Work("micro", 32)
  if args.weak:
    print(json.dumps(weak_scaling(small, repeats)))
    return
  lengths = figshare_lengths()
  if args.records:
    lengths = records.RecordSet(args.records).lengths
  work = Work("micro", 48) if args.quick else Work("tiny", 64)
  print(f"{len(lengths)} scans of {lengths.min()} to {lengths.max()} slices")
  ratios, figures = compare_packing(lengths, work, repeats)
  figures["cost"] = cost_lines(work, repeats)
  figures["weak_scaling"] = on_virtual_devices(args.quick)
  for devices, found in figures["weak_scaling"].items():
    print(
      f"{devices} virtual devices against one, the same work:"
      " {ratio:.2f} [{low:.2f}, {high:.2f}]".format(**found)
    )
  result = {
    "benchmark": "scaling",
    "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
    "versions": versions(),
    "ratios": ratios,
    "figures": figures | {"work": dataclasses.asdict(work)},
  }
  print(json.dumps(result))


if __name__ == "__main__":
  main()
