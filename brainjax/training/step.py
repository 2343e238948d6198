"""The training and the evaluation step, as pure functions.

    integers -> dequantise -> augment -> encoder -> head -> loss -> update

Everything random derives inside from the seed and `state.step`, so a state is
all it takes to continue a run exactly.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from brainjax.models.classifier import Classifier
from brainjax.training import augment, losses

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
  """What a step changes.

  Attributes:
    step: i32[], steps done.
    params: Parameters, f32.
    batch_stats: Running BatchNorm statistics, f32.
    opt_state: Of the optimizer.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any


@dataclasses.dataclass(frozen=True)
class StepSettings:
  """Facts of a run that the step is compiled for.

  Attributes:
    zero_code: Code whose value is 0; see `records.Record`.
    num_rows: B, scans of a pack.
    max_length: S, the longest sequence.
    scans_per_step: Divisor of the loss; scans a step has on average.
    class_weights: A weight a class, in the loss only.
    augment: Ranges of the random maps.
    seed: Root of every random key.
  """

  zero_code: int
  num_rows: int
  max_length: int
  scans_per_step: float
  class_weights: Sequence[float]
  augment: augment.AugmentRanges
  seed: int


def init_state(
  model: Classifier,
  optimizer: optax.GradientTransformation,
  settings: StepSettings,
  batch: Batch,
) -> TrainState:
  """Returns the state before the first step; the batch gives the shapes."""
  variables = model.init(
    jax.random.key(settings.seed),
    dequantise(batch, settings.zero_code),
    *_model_inputs(batch),
    num_rows=settings.num_rows,
    max_length=settings.max_length,
    train=False,
  )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    opt_state=optimizer.init(variables["params"]),
  )


def make_train_step(
  model: Classifier,
  optimizer: optax.GradientTransformation,
  settings: StepSettings,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Returns `step(state, batch) -> (state, metrics)`, to be jitted.

  Metrics are f32[] sums over the batch's labelled scans: `loss` (with class
  weights), `class_weight`, `correct`, `scans`, `slices`; and `finite`, 0 if
  the update was rejected because the loss or a gradient was not finite.
  """
  weight_of_class = jnp.array(settings.class_weights, jnp.float32)

  def train_step(state: TrainState, batch: Batch):
    root = jax.random.key(settings.seed)
    augment_key, dropout_key = jax.random.split(
      jax.random.fold_in(root, state.step)
    )
    slices = dequantise(batch, settings.zero_code)
    slices = _augment(slices, batch, augment_key, settings.augment)
    scan_weight, correct_weight = _loss_weights(batch, weight_of_class)

    def loss_fn(params):
      logits, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        slices,
        *_model_inputs(batch),
        num_rows=settings.num_rows,
        max_length=settings.max_length,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": dropout_key},
      )
      losses_gb = losses.scan_cross_entropy(logits, batch["label"])
      loss_sum = jnp.sum(losses_gb * scan_weight)
      aux = (loss_sum, logits, updated["batch_stats"])
      return loss_sum / settings.scans_per_step, aux

    grads, (loss_sum, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(
      state.params
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    finite = jnp.isfinite(loss_sum) & jnp.isfinite(optax.tree.norm(grads))

    def keep(new, old):
      return jnp.where(finite, new, old)

    new_state = TrainState(
      step=state.step + 1,
      params=jax.tree.map(keep, params, state.params),
      batch_stats=jax.tree.map(keep, batch_stats, state.batch_stats),
      opt_state=jax.tree.map(keep, opt_state, state.opt_state),
    )
    correct = jnp.argmax(logits, axis=-1) == batch["label"]
    metrics = {
      "loss": loss_sum,
      "class_weight": jnp.sum(scan_weight),
      "correct": jnp.sum(correct * correct_weight),
      "scans": jnp.sum(batch["weight"]),
      "slices": jnp.sum(batch["length"]).astype(jnp.float32),
      "finite": finite.astype(jnp.float32),
    }
    return new_state, metrics

  return train_step


def make_eval_step(
  model: Classifier, settings: StepSettings
) -> Callable[[TrainState, Batch], jax.Array]:
  """Returns `step(state, batch) -> f32[G,B,K]` log-probabilities."""

  def eval_step(state: TrainState, batch: Batch):
    logits: Any = model.apply(
      {"params": state.params, "batch_stats": state.batch_stats},
      dequantise(batch, settings.zero_code),
      *_model_inputs(batch),
      num_rows=settings.num_rows,
      max_length=settings.max_length,
      train=False,
    )
    return jax.nn.log_softmax(logits)

  return eval_step


def dequantise(batch: Batch, zero_code: int) -> jax.Array:
  """Returns f32[G,N,H,W,C] z-scores.

  Filler slices are exactly 0, and so are channels of a modality that a scan
  lacks, whatever their codes are.
  """
  owner = batch["owner"]
  scale = jnp.take_along_axis(batch["scale"], owner, axis=1)
  codes = batch["slices"].astype(jnp.float32) - zero_code
  if "present" not in batch:
    return codes * scale[:, :, None, None, None]
  present = jnp.take_along_axis(batch["present"], owner[:, :, None], axis=1)
  scale = scale[:, :, None] * present.astype(scale.dtype)
  return codes * scale[:, :, None, None, :]


def _model_inputs(batch: Batch) -> tuple[jax.Array, ...]:
  return batch["owner"], batch["position"], batch["positions_mm"]


def _loss_weights(batch: Batch, weight_of_class: jax.Array):
  label = batch["label"]
  known = batch["weight"] * (label >= 0)
  return known * weight_of_class[jnp.where(label >= 0, label, 0)], known


def _augment(
  slices: jax.Array,
  batch: Batch,
  key: jax.Array,
  ranges: augment.AugmentRanges,
) -> jax.Array:
  maps = augment.draw_maps(key, batch["record_index"], ranges)
  filler = jnp.zeros((maps.shape[0], 1, 2, 3), maps.dtype)
  maps = jnp.concatenate([maps, filler], axis=1)
  per_slice = jnp.take_along_axis(
    maps, batch["owner"][:, :, None, None], axis=1
  )
  # vmap over packs, not a reshape: a pack stays on its device.
  return jax.vmap(augment.warp_slices)(slices, per_slice)
