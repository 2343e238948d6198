"""Many small trainings on the same features, in the steps of one compiled step.

A cell is one training of a head: a fold, a seed, a learning rate. All cells of
a head share shapes, so that one program serves them all: on an accelerator
`vmap` makes their steps one step, on a CPU they take turns. What a cell
computes is what `step.make_train_step` computes of it alone; only what a run
holds to be constant (its seed, its class weights, ...) comes in as an array.

The state of the lowest validation loss is kept by `where` on the device; a cell
whose loss has not fallen for `patience` epochs keeps it for good.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from brainjax.models.classifier import Classifier
from brainjax.training import inference, step
from brainjax.training.state import TrainState


class Store(flax.struct.PyTreeNode):
  """Features of all scans, on the device.

  Attributes:
    features: f32[V,D], a row a slice, those of a scan in order; the last row is
      zeros, for filler.
    positions_mm: f32[V], along the slice axis; 0 for filler.
    starts: i32[F,R], where each of R scans begins; a row for each fold, if each
      has features of its own, or one for all.
    lengths: i32[R], slices of each scan.
  """

  features: jax.Array
  positions_mm: jax.Array
  starts: jax.Array
  lengths: jax.Array


class Cell(flax.struct.PyTreeNode):
  """What one training is of.

  Attributes:
    seed: i32[], root of its random keys.
    learning_rate: f32[], the highest of the schedule.
    store: i32[], the row of `Store.starts` it reads.
    labels: i32[R] class index of each scan, -1 = unknown.
    scans_per_step: f32[], divisor of the loss.
    class_weights: f32[K], of the training loss.
    adjustment: f32[K], added to logits in training; f32[0] = none.
    frequent: i32[], the most frequent class.
    validation_weights: f32[K], of the validation loss.
  """

  seed: jax.Array
  learning_rate: jax.Array
  store: jax.Array
  labels: jax.Array
  scans_per_step: jax.Array
  class_weights: jax.Array
  adjustment: jax.Array
  frequent: jax.Array
  validation_weights: jax.Array


class Progress(flax.struct.PyTreeNode):
  """How far a cell has come.

  Attributes:
    state: The training state.
    best: The state of the lowest validation loss, without its optimizer.
    best_loss: f32[], that loss.
    best_epoch: i32[], epochs before it, and its own.
    epochs: i32[], epochs of training until it stopped.
    stopped: bool[], whether nothing counts any more.
    rejected: i32[], steps whose loss or gradient was not finite.
  """

  state: TrainState
  best: TrainState
  best_loss: jax.Array
  best_epoch: jax.Array
  epochs: jax.Array
  stopped: jax.Array
  rejected: jax.Array


@dataclasses.dataclass(frozen=True)
class Trainer:
  """What all cells have in common; its methods are pure functions of one cell.

  Attributes:
    model: A head behind `features.Features`.
    make_optimizer: From f32[], the learning rate.
    settings: Facts of the step; those that `Cell` has come from there.
    patience: Epochs without a lower validation loss; 0 = never stop.
  """

  model: Classifier
  make_optimizer: Callable[[Any], optax.GradientTransformation]
  settings: step.StepSettings
  patience: int

  def start(self, store: Store, cell: Cell) -> Progress:
    """Returns the progress before the first step."""
    settings, optimizer = self._of_cell(cell)
    nothing = jnp.full((1, settings.num_rows), -1, jnp.int32)
    state = step.init_state(
      self.model, optimizer, settings, self._take(store, cell, nothing)
    )
    zero = jnp.zeros((), jnp.int32)
    return Progress(
      state=state,
      best=_answering(state),
      best_loss=jnp.array(jnp.inf, jnp.float32),
      best_epoch=zero,
      epochs=zero,
      stopped=jnp.zeros((), bool),
      rejected=zero,
    )

  def train_step(
    self, store: Store, cell: Cell, progress: Progress, rows: jax.Array
  ) -> Progress:
    """Returns the progress after a step on i32[G,B] scans, -1 = none."""
    settings, optimizer = self._of_cell(cell)
    train_step = step.make_train_step(self.model, optimizer, settings)
    state, metrics = train_step(progress.state, self._take(store, cell, rows))
    rejected = (metrics["finite"] == 0) & ~progress.stopped
    return progress.replace(
      state=state, rejected=progress.rejected + rejected.astype(jnp.int32)
    )

  def validate(
    self, store: Store, cell: Cell, progress: Progress, rows: jax.Array
  ) -> Progress:
    """Returns the progress after the end of an epoch.

    Args:
      store: The features.
      cell: What the training is of.
      progress: After the last step of the epoch.
      rows: i32[T,G,B], every scan of the validation split once, -1 = none.
    """
    state = _answering(progress.state)

    def add(sums, rows):
      log_probabilities, label = self._score_rows(store, cell, state, rows)
      known = jnp.maximum(label, 0)
      picked = jnp.take_along_axis(
        log_probabilities, known[..., None], axis=-1
      )[..., 0]
      weight = jnp.where(label >= 0, cell.validation_weights[known], 0)
      return sums + jnp.array(
        [-jnp.sum(weight * picked), jnp.sum(weight)]
      ), None

    sums, _ = jax.lax.scan(add, jnp.zeros(2), rows)
    loss = sums[0] / sums[1]
    running = ~progress.stopped
    # Ties go to the later epoch, as in `train.py`.
    better = running & (loss <= progress.best_loss) & jnp.isfinite(loss)
    epochs = progress.epochs + running.astype(jnp.int32)
    best_epoch = jnp.where(better, epochs, progress.best_epoch)
    stopped = progress.stopped
    if self.patience:
      stopped |= epochs - best_epoch >= self.patience
    return progress.replace(
      best=jax.tree.map(
        lambda new, old: jnp.where(better, new, old), state, progress.best
      ),
      best_loss=jnp.where(better, loss, progress.best_loss),
      best_epoch=best_epoch,
      epochs=epochs,
      stopped=stopped,
    )

  def score(
    self, store: Store, cell: Cell, best: TrainState, rows: jax.Array
  ) -> jax.Array:
    """Returns f32[T,G,B,K] log-probabilities of i32[T,G,B] scans."""
    return jax.lax.map(
      lambda some: self._score_rows(store, cell, best, some)[0], rows
    )

  def _score_rows(self, store, cell, state, rows):
    """Returns f32[G,B,K] log-probabilities and i32[G,B] labels."""
    batch = self._take(store, cell, rows)
    settings, _ = self._of_cell(cell)
    eval_step = inference.make_eval_step(self.model, settings)
    return eval_step(state, batch), batch["label"]

  def _of_cell(self, cell: Cell):
    """Returns the step's settings and the optimizer of a cell."""
    loss = dataclasses.replace(
      self.settings.loss,
      class_weights=tuple(cell.class_weights),
      adjustment=tuple(cell.adjustment),
      frequent=cell.frequent,  # type: ignore[arg-type]
    )
    settings = dataclasses.replace(
      self.settings,
      loss=loss,
      seed=cell.seed,  # type: ignore[arg-type]
      scans_per_step=cell.scans_per_step,  # type: ignore[arg-type]
    )
    return settings, self.make_optimizer(cell.learning_rate)

  def _take(self, store: Store, cell: Cell, rows: jax.Array) -> step.Batch:
    return take_batch(store, cell, rows, self.settings.max_length)


def take_batch(
  store: Store, cell: Cell, rows: jax.Array, longest: int
) -> dict[str, jax.Array]:
  """Gathers the batch that `packing.pack_batch` would pack, on the device.

  A pack has room for every scan at its longest, so that where a slice stands
  does not depend on the others; filler changes nothing.

  Args:
    store: The features.
    cell: What the training is of.
    rows: i32[G,B] draws, see `pipeline.draws`, -1 = none.
    longest: S, slices of the longest scan. Static.
  """
  packs, num_rows = rows.shape
  present = rows >= 0
  scan = jnp.maximum(rows, 0) % store.lengths.size
  length = jnp.where(present, store.lengths[scan], 0)
  place = jnp.arange(longest, dtype=jnp.int32)[None, None]
  valid = place < length[..., None]
  filler = store.features.shape[0] - 1
  slot = jnp.where(
    valid, store.starts[cell.store, scan][..., None] + place, filler
  ).reshape(packs, -1)
  row = jnp.arange(num_rows, dtype=jnp.int32)[None, :, None]
  # Unique and out of range for filler, so that a scatter to [B,S] drops it.
  position = jnp.where(valid, place, longest + longest * row + place)
  return {
    "slices": store.features[slot][:, :, None, None],
    "owner": jnp.where(valid, row, num_rows).reshape(packs, -1),
    "position": position.reshape(packs, -1),
    "positions_mm": store.positions_mm[slot],
    "label": jnp.where(present, cell.labels[scan], -1),
    "weight": present.astype(jnp.float32),
    "length": length,
    "record_index": jnp.where(present, scan, -1),
    "draw": rows,
    "scale": jnp.pad(present.astype(jnp.float32), ((0, 0), (0, 1))),
  }


def make_store(
  features: list[list[np.ndarray]],
  positions_mm: list[np.ndarray],
) -> Store:
  """Lays the features of all scans end to end.

  Args:
    features: Of each fold, or of one for all, f32[S,D] of each scan.
    positions_mm: f32[S] of each scan.
  """
  lengths = np.array([len(values) for values in positions_mm], np.int32)
  ends = np.cumsum(lengths, dtype=np.int64)
  total = int(ends[-1])
  starts = (ends - lengths)[None] + total * np.arange(len(features))[:, None]
  size = features[0][0].shape[-1]
  rows = [values for fold in features for values in fold]
  flat = [values for _ in features for values in positions_mm]
  return Store(
    features=jnp.asarray(
      np.concatenate([*rows, np.zeros((1, size), np.float32)])
    ),
    positions_mm=jnp.asarray(np.concatenate([*flat, np.zeros(1, np.float32)])),
    starts=jnp.asarray(starts, jnp.int32),
    lengths=jnp.asarray(lengths),
  )


def _answering(state: TrainState) -> TrainState:
  """Returns what of a state answers, without what only training needs."""
  return TrainState(state.step, **state.variables, opt_state=())
