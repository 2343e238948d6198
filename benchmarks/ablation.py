"""Eight heads x five folds x three seeds on cached features, against loops.

`ablation_vs_loop`: all cells as `brainjax ablate` trains them on this device,
against a loop over the same compiled step, cell after cell; without compiling.
`ablation_vs_runs`: a process for all cells of a head, against a process for
each, as many at a time as there are cores, with a warm compilation cache; of
those, one warms the cache, and the time of the others is extrapolated.

    python benchmarks/ablation.py [--quick] [--epochs=10]

The last line is one JSON object; `heads.py` prints it as well.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time

import brainjax

brainjax.set_xla_flags()
brainjax.keep_freed_memory()
brainjax.set_compilation_cache()

import jax  # noqa: E402  (after the flags are set)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from step import versions  # noqa: E402

from brainjax.models.build import build_classifier  # noqa: E402
from brainjax.training import cell_runs, losses  # noqa: E402
from brainjax.training.cells import Cell, Trainer, make_store  # noqa: E402
from brainjax.training.step import StepSettings  # noqa: E402

# Fields at 0.5 M parameters or less, and none that compiles for a minute.
HEADS = {
  "lstm": {"hidden_size": 256},
  "gru": {"hidden_size": 300},
  "densenet1d": {
    "growth_rate": 32,
    "block_config": (4, 4),
    "num_init_features": 64,
  },
  "tcn": {
    "channels": 128,
    "dilations": (1, 2, 4, 8),
    "kernel_size": 3,
    "dropout": 0.2,
  },
  "attention": {"attention_size": 256},
  "transformer": {"head_size": 64, "num_heads": 4, "num_layers": 1},
  "mean": {},
  "max": {},
}
FOLDS, SEEDS, CLASSES = 5, 3, 3
SCANS, LENGTH, SIZE, BATCH = 180, 24, 256, 16
TRAIN, VALIDATION = 112, 32  # scans of each fold


class Work:
  """The cells of a head on random features."""

  def __init__(self, head: str):
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=SCANS)
    features = rng.normal(size=(SCANS, LENGTH, SIZE)).astype(np.float32)
    features += 0.1 * labels[:, None, None].astype(np.float32)
    places = np.zeros(LENGTH, np.float32)
    self.store = make_store([list(features)], [places] * SCANS)
    model = build_classifier(
      preset="micro",
      statistics="batch",
      head={"name": head, **HEADS[head]},
      dropout=0.5,
      dtype="float32",
      num_classes=CLASSES,
      num_features=SIZE,
    )
    loss = losses.LossSettings((1.0,) * CLASSES)
    settings = StepSettings(0, BATCH, LENGTH, float(BATCH), loss, None, 0)
    self.trainer = Trainer(model, optax.adam, settings, patience=0)
    self.order = [rng.permutation(SCANS) for _ in range(FOLDS)]
    count = FOLDS * SEEDS

    def every(value, dtype=jnp.float32):
      value = jnp.asarray(value, dtype)
      return jnp.broadcast_to(value, (count, *value.shape))

    self.cells = Cell(
      seed=jnp.tile(jnp.arange(SEEDS, dtype=jnp.int32), FOLDS),
      learning_rate=every(1e-3),
      store=every(0, jnp.int32),
      labels=every(labels, jnp.int32),
      scans_per_step=every(float(BATCH)),
      class_weights=every(np.ones(CLASSES)),
      adjustment=every(np.zeros(0)),
      frequent=every(0, jnp.int32),
      validation_weights=every(np.ones(CLASSES)),
    )
    held_out = [
      self.order[cell // SEEDS][TRAIN : TRAIN + VALIDATION]
      for cell in range(count)
    ]
    self.validation = np.array(held_out, np.int32).reshape(count, -1, 1, BATCH)

  def rows_of(self, cell: int, epoch: int) -> np.ndarray:
    """Returns i32[steps,1,B], the scans of an epoch."""
    rng = np.random.default_rng([cell, epoch])
    rows = rng.permutation(self.order[cell // SEEDS][:TRAIN])
    return rows.astype(np.int32).reshape(-1, 1, BATCH)

  def ablate(self, epochs: int):
    """Trains all cells as `ablate` does."""
    return cell_runs.train_cells(
      self.trainer,
      self.store,
      self.cells,
      self.rows_of,
      self.validation,
      num_epochs=epochs,
      strategy=cell_runs.choose_strategy(),
    )

  def loop(self, epochs: int, cells: int = FOLDS * SEEDS):
    """Trains cell after cell; returns the best losses and the seconds."""
    given = self.store, self.cell(0)
    start = jax.jit(self.trainer.start).lower(*given).compile()
    shape = jax.eval_shape(self.trainer.start, *given)
    step, validate = (
      jax.jit(function, donate_argnums=2).lower(*given, shape, rows).compile()
      for function, rows in (
        (self.trainer.train_step, self.rows_of(0, 0)[0]),
        (self.trainer.validate, self.validation[0]),
      )
    )
    began, found = time.perf_counter(), []
    for index in range(cells):
      cell = self.cell(index)
      progress = start(self.store, cell)
      for epoch in range(epochs):
        for rows in self.rows_of(index, epoch):
          progress = step(self.store, cell, progress, rows)
        validation = self.validation[index]
        progress = validate(self.store, cell, progress, validation)
      found.append(float(progress.best_loss))
    return np.array(found), time.perf_counter() - began

  def cell(self, index: int) -> Cell:
    """Returns one of the cells."""
    return jax.tree.map(lambda leaf: leaf[index], self.cells)


def against_loop(heads, epochs: int) -> dict:
  """Returns seconds of both sides and how far their losses are apart."""
  found = {}
  for head in heads:
    work = Work(head)
    ours = work.ablate(epochs)
    losses_of_loop, seconds = work.loop(epochs)
    apart = np.abs(np.asarray(ours.progress.best_loss) - losses_of_loop)
    found[head] = {
      "ours_seconds": ours.seconds,
      "loop_seconds": seconds,
      "largest_difference": float(apart.max()),
    }
    print(head, found[head], flush=True)
  return found


def against_runs(heads, epochs: int) -> dict:
  """Returns seconds of a process for all cells, and of one for each."""
  cores, found = os.cpu_count() or 1, {}
  at_once = cores if jax.default_backend() == "cpu" else 1
  for head in heads:
    command = [sys.executable, __file__, f"--head={head}", f"--epochs={epochs}"]
    timed = functools.partial(_time_processes, command)
    timed(["--side=run"], 1)  # which warms the cache
    timed(["--side=ours"], 1)
    runs = timed(["--side=run"], at_once)
    ours = timed(["--side=ours"], 1)
    found[head] = {
      "ours_seconds": ours,
      "runs_seconds": FOLDS * SEEDS * runs / at_once,
    }
    print(head, found[head], flush=True)
  return found


def _time_processes(command, arguments, count: int) -> float:
  began = time.perf_counter()
  processes = [subprocess.Popen([*command, *arguments]) for _ in range(count)]
  if any([process.wait() for process in processes]):
    raise RuntimeError(f"{' '.join(command)} failed; see above")
  return time.perf_counter() - began


def measure(*, quick: bool, epochs: int) -> tuple[dict, dict]:
  """Returns the ratios, and the figures that they are of."""
  heads = ["lstm", "densenet1d", "mean"] if quick else list(HEADS)
  loop = against_loop(heads, 2 if quick else epochs)
  runs = against_runs(heads[:1] if quick else heads, epochs)

  def ratio(found, peer):
    ours = sum(row["ours_seconds"] for row in found.values())
    return sum(row[peer] for row in found.values()) / ours

  ratios = {
    "ablation_vs_loop": ratio(loop, "loop_seconds"),
    "ablation_vs_runs": ratio(runs, "runs_seconds"),
  }
  strategy = cell_runs.choose_strategy()
  figures = {"strategy": strategy, "epochs": epochs, "loop": loop, "runs": runs}
  return ratios, figures


def main() -> None:
  """Prints the table and, as its last line, one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="fewer heads")
  parser.add_argument("--epochs", type=int, default=10)
  parser.add_argument("--head", choices=tuple(HEADS), help=argparse.SUPPRESS)
  parser.add_argument("--side", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.side == "ours":
    Work(args.head).ablate(args.epochs)
  elif args.side == "run":
    Work(args.head).loop(args.epochs, cells=1)
  else:
    ratios, figures = measure(quick=args.quick, epochs=args.epochs)
    result = {
      "benchmark": "ablation",
      "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
      "versions": versions(),
      "ratios": ratios,
      "figures": figures,
    }
    print(json.dumps(result))


if __name__ == "__main__":
  main()
