"""What a trained model is asked, as pure functions: `step(state, batch)`."""

from collections.abc import Callable
from typing import Any

import jax

from brainjax.models.classifier import Classifier, attention_weights
from brainjax.training.state import TrainState
from brainjax.training.step import (
  OBJECTIVES,
  Batch,
  StepSettings,
  dequantise,
  model_inputs,
  scan_errors,
)


def make_eval_step(
  model: Classifier, settings: StepSettings
) -> Callable[[TrainState, Batch], jax.Array]:
  """Returns `step(state, batch)`, of what validation looks at.

  That is f32[G,B,K] log-probabilities, or f32[G,B,1] mean squared errors if
  the objective is to reconstruct.
  """

  def eval_step(state: TrainState, batch: Batch):
    slices = dequantise(batch, settings.zero_code, settings.standard)
    reconstructs = settings.objective == "reconstruct"
    outputs: Any = model.apply(
      state.variables,
      slices,
      *model_inputs(batch),
      num_rows=settings.num_rows,
      max_length=settings.max_length,
      train=False,
      method=OBJECTIVES["reconstruct" if reconstructs else "classify"],
    )
    if reconstructs:
      return scan_errors(slices, outputs[0], batch)[..., None]
    return jax.nn.log_softmax(outputs)

  return eval_step


def make_attention_step(
  model: Classifier, settings: StepSettings
) -> Callable[[TrainState, Batch], dict[str, jax.Array]]:
  """Returns `step(state, batch) -> {name: f32[G,N,...]}`.

  That is what the model's attention has to say of every slice, by the names of
  `distance_attention.py` for the plane, "slice_axis" for f32[G,N] factors of
  slices and "head" for f32[G,N] weights in the head; nothing if it has none.
  """

  def attention_step(state: TrainState, batch: Batch):
    owner, position = batch["owner"], batch["position"]
    outputs: Any = model.apply(
      state.variables,
      dequantise(batch, settings.zero_code, settings.standard),
      *model_inputs(batch),
      num_rows=settings.num_rows,
      max_length=settings.max_length,
      train=False,
      mutable=["intermediates"],
    )

    @jax.vmap
    def of_slots(rows, owner, position):
      return rows.at[owner, position].get(mode="fill", fill_value=0)

    sown = outputs[1].get("intermediates", {})
    found = {
      name: value.reshape(*owner.shape, *value.shape[1:])
      for name, value in attention_weights(sown, "place_weights").items()
    }
    for name, value in attention_weights(sown, "slice_weights").items():
      rows = value.reshape(*batch["weight"].shape, -1)
      found[name] = of_slots(rows, owner, position)
    return found

  return attention_step


def make_reconstruction_step(
  model: Classifier, settings: StepSettings
) -> Callable[[TrainState, Batch], dict[str, jax.Array]]:
  """Returns `step(state, batch)`, which draws slices from their codes.

  That is `{"drawn": f32[G,N,H,W,C], "embedding": f32[G,N,D]}`.
  """

  def reconstruction_step(state: TrainState, batch: Batch):
    drawn, embedding = model.apply(
      state.variables,
      dequantise(batch, settings.zero_code, settings.standard),
      *model_inputs(batch),
      num_rows=settings.num_rows,
      max_length=settings.max_length,
      train=False,
      method=OBJECTIVES["reconstruct"],
    )
    return {"drawn": drawn, "embedding": embedding}

  return reconstruction_step
