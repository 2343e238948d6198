"""How the cells of a head share a device: side by side, or in turns.

On an accelerator a small head leaves most of the device idle, so the steps of
all cells are one step (`vmap`). A CPU is busy with one cell; there, cells take
turns on one compiled step, a thread each to fill what a small step leaves of
the cores, and those that stop early cost nothing more. Also, XLA would run the
gradient of a convolution inside a loop an order of magnitude slower there.
"""

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainjax.training.cells import Cell, Progress, Store, Trainer

STRATEGIES = ("vmap", "turns")
RowsOf = Callable[[int, int], np.ndarray]


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
  threads: int | None = None,
) -> Progress:
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
    threads: Of "turns"; None = one a core.

  Returns:
    The progress; every leaf leads with C.
  """
  run = {"vmap": _side_by_side, "turns": _in_turns}[strategy]
  options: dict[str, Any] = {} if strategy == "vmap" else {"threads": threads}
  return run(
    trainer, store, cells, rows_of, validation, num_epochs, on_epoch, **options
  )


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
) -> Progress:
  count = len(validation)

  def epoch_of_cell(store, cell, progress, rows, validation):
    progress, _ = jax.lax.scan(
      lambda now, rows: (trainer.train_step(store, cell, now, rows), None),
      progress,
      rows,
    )
    return trainer.validate(store, cell, progress, validation)

  start = jax.jit(jax.vmap(trainer.start, (None, 0)))
  run_epoch = jax.jit(
    jax.vmap(epoch_of_cell, (None, 0, 0, 0, 0)), donate_argnums=2
  )
  progress = start(store, cells)
  validation = jnp.asarray(validation)
  stopped = progress.stopped
  for epoch in range(num_epochs):
    rows = np.stack([rows_of(cell, epoch) for cell in range(count)])
    progress = run_epoch(store, cells, progress, rows, validation)
    # Order matters: who stopped an epoch ago is asked while this one runs. An
    # epoch too many changes nothing, for what has stopped keeps its best.
    if jax.device_get(stopped).all():
      break
    stopped = progress.stopped + False  # a copy: the next epoch takes the array
    on_epoch(count)
  return progress


def _in_turns(
  trainer, store, cells, rows_of, validation, num_epochs, on_epoch, *, threads
) -> Progress:
  count = len(validation)
  given = jax.eval_shape(lambda: (store, _of(cells, 0)))
  first = rows_of(0, 0)[0], validation[0]
  shapes = [jax.ShapeDtypeStruct(rows.shape, np.int32) for rows in first]
  start = jax.jit(trainer.start).lower(*given).compile()
  progress = jax.eval_shape(trainer.start, *given)
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    step, validate = pool.map(
      lambda function, rows: (
        jax.jit(function, donate_argnums=2)
        .lower(*given, progress, rows)
        .compile()
      ),
      (trainer.train_step, trainer.validate),
      shapes,
    )

  def train(index: int) -> Progress:
    cell = _of(cells, index)
    progress = start(store, cell)
    for epoch in range(num_epochs):
      for rows in rows_of(index, epoch):
        progress = step(store, cell, progress, rows)
      progress = validate(store, cell, progress, validation[index])
      on_epoch(1)
      if progress.stopped:
        break
    return progress

  threads = threads or os.cpu_count() or 1
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    found = list(pool.map(train, range(count)))
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def _of(tree: Any, index: int) -> Any:
  """Returns one cell's part of a tree whose leaves lead with the cells."""
  return jax.tree.map(lambda leaf: leaf[index], tree)
