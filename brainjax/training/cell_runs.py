"""How the cells of a head share a device: side by side, or in turns.

On an accelerator a small head leaves most of the device idle, so the steps of
all cells are one step (`vmap`). A CPU is busy with one cell; there, cells take
turns on one compiled step, and those that stop early cost nothing more. Also,
XLA would run the gradient of a convolution inside a loop an order of magnitude
slower there.
"""

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainjax.training.cells import Cell, Progress, Store, Trainer

STRATEGIES = ("vmap", "turns")
RowsOf = Callable[[int, int], np.ndarray]


class Trained(NamedTuple):
  """Cells at their end.

  Attributes:
    progress: Every leaf leads with the C cells.
    compile_seconds: Before the first step.
    seconds: Of all steps and validations.
  """

  progress: Progress
  compile_seconds: float
  seconds: float


def choose_strategy() -> str:
  """Returns what is faster on this device; see benchmarks/heads.py."""
  return "turns" if jax.default_backend() == "cpu" else "vmap"


def train_cells(
  trainer: Trainer,
  store: Store,
  cells: Cell,
  rows_of: RowsOf,
  validation: np.ndarray,
  *,
  num_epochs: int,
  strategy: str,
  on_epoch: Callable[[int], None] = lambda number: None,
) -> Trained:
  """Trains every cell until its last epoch or until it stops early.

  Args:
    trainer: What the cells have in common.
    store: The features.
    cells: Every leaf leads with the C cells.
    rows_of: From a cell and an epoch to i32[steps,G,B] scans, -1 = none.
    validation: i32[C,T,G,B], the scans of each validation split.
    num_epochs: At most.
    strategy: One of `STRATEGIES`.
    on_epoch: Called with the number of cells whose epoch ended; what it raises
      ends the training.
  """
  run = {"vmap": _side_by_side, "turns": _in_turns}[strategy]
  return run(trainer, store, cells, rows_of, validation, num_epochs, on_epoch)


def score_cells(
  trainer: Trainer,
  store: Store,
  cells: Cell,
  progress: Progress,
  rows: np.ndarray,
) -> np.ndarray:
  """Returns f32[C,T,G,B,K] log-probabilities of i32[C,T,G,B] scans."""
  score = jax.jit(trainer.score)
  return np.stack(
    [
      jax.device_get(
        score(store, _of(cells, i), _of(progress.best, i), rows[i])
      )
      for i in range(len(rows))
    ]
  )


def _side_by_side(
  trainer, store, cells, rows_of, validation, num_epochs, on_epoch
) -> Trained:
  count = len(validation)

  def epoch_of_cell(store, cell, progress, rows, validation):
    progress, _ = jax.lax.scan(
      lambda now, rows: (trainer.train_step(store, cell, now, rows), None),
      progress,
      rows,
    )
    return trainer.validate(store, cell, progress, validation)

  def rows_of_all(epoch: int) -> np.ndarray:
    return np.stack([rows_of(cell, epoch) for cell in range(count)])

  began = time.perf_counter()
  progress = jax.jit(jax.vmap(trainer.start, (None, 0)))(store, cells)
  validation = jnp.asarray(validation)
  rows = rows_of_all(0)
  run_epoch = (
    jax.jit(jax.vmap(epoch_of_cell, (None, 0, 0, 0, 0)), donate_argnums=2)
    .lower(store, cells, progress, rows, validation)
    .compile()
  )
  compiled = time.perf_counter()
  for epoch in range(1, num_epochs + 1):
    progress = run_epoch(store, cells, progress, rows, validation)
    # Order matters: the next epoch is planned while this one runs.
    rows = rows_of_all(epoch)
    stopped = jax.device_get(progress.stopped)
    on_epoch(count)
    if stopped.all():
      break
  jax.block_until_ready(progress)
  return Trained(progress, compiled - began, time.perf_counter() - compiled)


def _in_turns(
  trainer, store, cells, rows_of, validation, num_epochs, on_epoch
) -> Trained:
  count = len(validation)
  began = time.perf_counter()
  given = store, _of(cells, 0)
  start = jax.jit(trainer.start).lower(*given).compile()
  progress = jax.eval_shape(trainer.start, *given)

  def compile_one(function, rows):
    compiled = jax.jit(function, donate_argnums=2)
    return compiled.lower(*given, progress, rows).compile()

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    step, validate = pool.map(
      compile_one,
      (trainer.train_step, trainer.validate),
      (rows_of(0, 0)[0], validation[0]),
    )
  compiled = time.perf_counter()

  def train(index: int) -> Progress:
    cell = _of(cells, index)
    progress = start(store, cell)
    for epoch in range(num_epochs):
      for rows in rows_of(index, epoch):
        progress = step(store, cell, progress, rows)
      progress = validate(store, cell, progress, validation[index])
      stopped = bool(progress.stopped)
      on_epoch(1)
      if stopped:
        break
    return progress

  found = [train(index) for index in range(count)]
  seconds = time.perf_counter() - compiled
  progress = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
  return Trained(progress, compiled - began, seconds)


def _of(tree: Any, index: int) -> Any:
  """Returns one cell's part of a tree whose leaves lead with the cells."""
  return jax.tree.map(lambda leaf: leaf[index], tree)
