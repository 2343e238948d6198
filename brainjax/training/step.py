"""The training step, as a pure function.

    integers -> dequantise -> augment -> encoder -> head -> loss -> update
                                                 -> decoder -^

Everything random derives inside from the seed and `state.step`, so a state is
all it takes to continue a run exactly.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from brainjax.models import autoencoder
from brainjax.models.classifier import Classifier
from brainjax.training import augment, losses, microbatch, standardise
from brainjax.training import rates as rates_lib
from brainjax.training.state import AveragedState, TrainState, average

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

# What is learned, and the method of the model that does it.
OBJECTIVES: Mapping[str, str] = types.MappingProxyType(
  {
    "classify": "__call__",
    "reconstruct": "reconstruct",
    "joint": "classify_and_reconstruct",
  }
)


@dataclasses.dataclass(frozen=True)
class StepSettings:
  """Facts of a run that the step is compiled for.

  Attributes:
    zero_code: Code whose value is 0; see `records.Record`.
    num_rows: B, scans of a pack.
    max_length: S, the longest sequence.
    scans_per_step: Divisor of the loss; scans a step has on average.
    loss: What the classification loss is made of.
    standard: Of the intensities; None to leave them z-scores.
    augment: Ranges of the random variation; None to go without.
    seed: Root of every random key.
    objective: One of `OBJECTIVES`.
    reconstruction_weights: Of the squared error beside the cross-entropy of
      "joint", at the first step and from step `anneal_steps` on.
    anneal_steps: Steps from the one to the other, in a straight line.
    rates: Of the optimizer; no gradient reaches what has the factor 0.
    ema_decay: Of the running average of the parameters; 0 to go without.
    accumulation: Parts in which packs are worked on, one after another.
    chunk_slices: Slices of a pack that are encoded at a time; 0 = all.
    unroll: Whether loops over parts and chunks are unrolled.
    axis_name: Of a mapped axis (pmap) that the packs are dealt over.
  """

  zero_code: int
  num_rows: int
  max_length: int
  scans_per_step: float
  loss: losses.LossSettings
  augment: augment.AugmentRanges | None
  seed: int
  objective: str = "classify"
  reconstruction_weights: tuple[float, float] = (1.0, 1.0)
  anneal_steps: int = 0
  rates: rates_lib.Rates = ()
  ema_decay: float = 0.0
  accumulation: int = 1
  chunk_slices: int = 0
  unroll: bool = False
  axis_name: str | None = None
  standard: standardise.Standard | None = None


def init_state(
  model: Classifier,
  optimizer: optax.GradientTransformation,
  settings: StepSettings,
  batch: Batch,
) -> TrainState:
  """Returns the state before the first step; the batch gives the shapes."""
  variables = model.init(
    jax.random.key(settings.seed),
    dequantise(batch, settings.zero_code, settings.standard),
    *model_inputs(batch),
    num_rows=settings.num_rows,
    max_length=settings.max_length,
    train=False,
    method=OBJECTIVES[settings.objective],
  )
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables.get("batch_stats", {}),
    opt_state=optimizer.init(variables["params"]),
  )
  if settings.ema_decay:
    return AveragedState(**vars(state), averages=state.variables)
  return state


def make_train_step(
  model: Classifier,
  optimizer: optax.GradientTransformation,
  settings: StepSettings,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Returns `step(state, batch) -> (state, metrics)`, to be jitted.

  Metrics are f32[] sums over the batch: `loss`, to be divided by `weight`;
  `correct` of `labelled` scans, unless nothing is classified; `reconstruction`
  besides, if that is not the loss; `scans`, `slices`; and `finite`, 0 if the
  update was rejected because the loss or a gradient was not finite.
  """
  first, last = settings.reconstruction_weights

  def loss_of(outputs, slices, batch, step, mix_key):
    """Returns the sum to descend on, and metrics."""
    if settings.objective == "reconstruct":
      errors = jnp.sum(scan_errors(slices, outputs[0], batch))
      return errors, {"loss": errors, "weight": jnp.sum(batch["weight"])}
    logits, drawn = outputs, None
    if settings.objective == "joint":
      logits, drawn = outputs
    loss, metrics = losses.classification_loss(
      logits, batch, mix_key, settings.loss
    )
    if drawn is None:
      return loss, metrics
    errors = jnp.sum(scan_errors(slices, drawn, batch))
    weight = last
    if settings.anneal_steps:
      done = jnp.minimum(step / settings.anneal_steps, 1)
      weight = first + (last - first) * done
    return loss + weight * errors, metrics | {"reconstruction": errors}

  def apply(params, batch_stats, slices, batch, dropout_key):
    """Returns what the objective asks of the model, and running averages."""
    variables = {"params": params, "batch_stats": batch_stats}
    method = OBJECTIVES[settings.objective]
    if settings.chunk_slices:
      slices, batch_stats = microbatch.encode_in_chunks(
        model,
        variables,
        slices,
        batch["owner"] < settings.num_rows,
        chunk_slices=settings.chunk_slices,
        unroll=settings.unroll,
      )
      method = "classify_packed"
    outputs, updated = model.apply(
      variables,
      slices,
      *model_inputs(batch),
      num_rows=settings.num_rows,
      max_length=settings.max_length,
      train=True,
      row_ids=batch["draw"],
      mutable=["batch_stats"],
      rngs={"dropout": dropout_key},
      method=method,
    )
    return outputs, updated.get("batch_stats", batch_stats)

  def sums_of(state: TrainState, batch: Batch):
    """Returns of packs the gradient, metrics, and how averages are moved."""
    root = jax.random.key(settings.seed)
    step_key = jax.random.fold_in(root, state.step)
    augment_key, dropout_key = jax.random.split(step_key)
    mix_key = jax.random.fold_in(step_key, 2)  # not 0 or 1: those of the split
    slices = dequantise(batch, settings.zero_code, settings.standard)
    if settings.augment is not None:
      slices = augment.vary_batch(slices, batch, augment_key, settings.augment)

    def loss_fn(params):
      params = rates_lib.stop_gradients(params, settings.rates)
      outputs, batch_stats = apply(
        params, state.batch_stats, slices, batch, dropout_key
      )
      loss, metrics = loss_of(outputs, slices, batch, state.step, mix_key)
      return loss / settings.scans_per_step, (metrics, batch_stats)

    grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(
      state.params
    )
    num_slices = jnp.sum(batch["length"]).astype(jnp.float32)
    metrics |= {"scans": jnp.sum(batch["weight"]), "slices": num_slices}
    moves = microbatch.weighted_moves(
      state.batch_stats, batch_stats, num_slices
    )
    return grads, metrics, moves

  def train_step(state: TrainState, batch: Batch):
    sums = microbatch.sum_over_parts(
      functools.partial(sums_of, state),
      batch,
      settings.accumulation,
      unroll=settings.unroll,
    )
    if settings.axis_name is not None:
      sums = jax.lax.psum(sums, settings.axis_name)
    grads, metrics, moves = sums
    batch_stats = microbatch.move_by(
      state.batch_stats, moves, metrics["slices"]
    )
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
      grads, state.opt_state, state.params, step=state.step
    )
    params = optax.apply_updates(state.params, updates)
    finite = jnp.isfinite(metrics["loss"])
    finite &= jnp.isfinite(optax.tree.norm(grads))

    def keep(new, old):
      return jnp.where(finite, new, old)

    new_state = state.replace(
      step=state.step + 1,
      params=jax.tree.map(keep, params, state.params),
      batch_stats=jax.tree.map(keep, batch_stats, state.batch_stats),
      opt_state=jax.tree.map(keep, opt_state, state.opt_state),
    )
    if isinstance(state, AveragedState):
      averages = average(
        state.averages,
        {"params": params, "batch_stats": batch_stats},
        settings.ema_decay,
        state.step,
      )
      averages = jax.tree.map(keep, averages, state.averages)
      new_state = new_state.replace(averages=averages)
    return new_state, metrics | {"finite": finite.astype(jnp.float32)}

  return train_step


def scan_errors(slices: jax.Array, drawn: jax.Array, batch: Batch) -> jax.Array:
  """Returns f32[G,B], the mean squared error of each scan over its brain.

  Args:
    slices: f32[G,N,H,W,C] intensities.
    drawn: f32[G,N,H,W,C] reconstructions.
    batch: Whose slices they are.
  """
  sums = jax.vmap(autoencoder.squared_errors)(slices, drawn)
  num_rows = batch["weight"].shape[1]

  @jax.vmap
  def of_scans(sums, owner):
    return jax.ops.segment_sum(sums, owner, num_rows + 1)[:num_rows]

  errors, counts = jnp.moveaxis(of_scans(sums, batch["owner"]), -1, 0)
  return errors / jnp.maximum(counts, 1)


def dequantise(
  batch: Batch,
  zero_code: int,
  standard: standardise.Standard | None = None,
) -> jax.Array:
  """Returns f32[G,N,H,W,C] z-scores, or what a standard scale makes of them.

  Filler slices are exactly 0, and so are channels of a modality that a scan
  lacks, whatever their codes are.

  Args:
    batch: Packed scans; for a standard scale with landmarks.
    zero_code: Code whose value is 0. Static.
    standard: The scale; None for z-scores. Static.
  """
  owner = batch["owner"]
  scale = jnp.take_along_axis(batch["scale"], owner, axis=1)
  codes = batch["slices"].astype(jnp.float32) - zero_code
  scale = scale[:, :, None, None, None]
  if "present" in batch:
    present = jnp.take_along_axis(batch["present"], owner[:, :, None], axis=1)
    scale *= present[:, :, None, None, :].astype(scale.dtype)
  if standard is None:
    return codes * scale
  landmarks = jax.vmap(lambda rows, index: rows[index])(
    batch["landmarks"], owner
  )
  brain = (batch["slices"] != standard.background_code) & (scale > 0)
  z = standardise.standardise(codes * scale, landmarks, standard)
  return jnp.where(brain, z, 0)


def model_inputs(batch: Batch) -> tuple[jax.Array, ...]:
  """Returns what the model takes besides the slices."""
  return batch["owner"], batch["position"], batch["positions_mm"]
