"""What models say of one scan, and the slices they say it for.

Several models, such as the folds of a cross-validation, answer together, with
the mean of their probabilities.

Which slices matter is asked by leaving out one at a time: the contribution of
a slice is the log-probability of the answer with all slices minus that without
the slice. The encoder sees each slice once; the head, whatever it is, reads
S + 1 masked sequences. An encoder of volumes sees S + 1 masked volumes. Limits:
slices next to each other look alike, so that leaving out one of them may change
little where all of them together decide; a convolutional head also sees the gap
that a slice leaves.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainjax.input import packing, plan
from brainjax.metrics import calibration
from brainjax.models.classifier import Classifier
from brainjax.records import Record
from brainjax.training import intensity, standardise, step
from brainjax.training.trained import Trained

_SLOTS = 8  # slices are padded to a multiple, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Answer:
  """What models say of a scan.

  Attributes:
    label: The class of the highest probability.
    probabilities: By class, the mean over the models.
    of_models: The same, of each model.
    contributions: f64[S] of each slice, in nats.
    called: The class at the operating point that was chosen on validation,
      and the probability of the positive class from which on it is that;
      None if the task is not binary, or a model was not calibrated.
  """

  label: str
  probabilities: dict[str, float]
  of_models: tuple[dict[str, float], ...]
  contributions: np.ndarray
  called: tuple[str, float] | None


def answer_scan(models: Sequence[Trained], record: Record) -> Answer:
  """Asks models of the same classes and preparation about a scan."""
  length = len(record.slices)
  slots = -(-length // _SLOTS) * _SLOTS

  def ask(model: Trained) -> jax.Array:
    scale = model.facts["intensity"]
    batch = packing.pack_batch(
      np.zeros((1, 1), np.int32),
      lambda _: record,
      np.array([-1], np.int32),
      plan.PackShape(1, slots, 1, slots, 1),
      slice_shape=record.slices.shape[1:],
      dtype=record.slices.dtype,
      landmarks=scale is not None,
    )
    return leave_one_out(
      model.variables,
      batch,
      model=model.model,
      zero_code=record.zero_code,
      standard=intensity.standard_of(
        scale, model.facts["modalities"], record.slices.dtype
      ),
    )

  outputs = [ask(model) for model in models]
  log_probabilities = np.array(jax.device_get(outputs), np.float64)[
    :, : length + 1
  ]
  calibrations = [model.calibration for model in models]
  for i, fitted in enumerate(calibrations):
    if fitted:
      log_probabilities[i] = calibration.apply_temperature(
        log_probabilities[i], fitted["temperature"]
      )
  log_mean = np.logaddexp.reduce(log_probabilities, axis=0) - np.log(
    len(models)
  )
  classes = models[0].facts["classes"]
  index = int(np.argmax(log_mean[0]))

  def by_class(log_probabilities: np.ndarray) -> dict[str, float]:
    values = np.exp(log_probabilities).tolist()
    return dict(zip(classes, values, strict=True))

  return Answer(
    label=classes[index],
    probabilities=by_class(log_mean[0]),
    of_models=tuple(by_class(log[0]) for log in log_probabilities),
    contributions=log_mean[0, index] - log_mean[1:, index],
    called=_called(models[0].facts, calibrations, by_class(log_mean[0])),
  )


def _called(
  facts: Mapping[str, Any],
  calibrations: Sequence[Mapping[str, Any] | None],
  probabilities: Mapping[str, float],
) -> tuple[str, float] | None:
  """Holds a mean of probabilities against the mean of the thresholds."""
  thresholds = [fitted["threshold"] for fitted in calibrations if fitted]
  if len(thresholds) < len(calibrations) or None in thresholds:
    return None
  threshold = float(np.mean(thresholds))
  positive = facts["positive"]
  (negative,) = (name for name in facts["classes"] if name != positive)
  called = positive if probabilities[positive] >= threshold else negative
  return called, threshold


@functools.partial(jax.jit, static_argnames=("model", "zero_code", "standard"))
def leave_one_out(
  variables: Mapping[str, Any],
  batch: step.Batch,
  *,
  model: Classifier,
  zero_code: int,
  standard: standardise.Standard | None = None,
) -> jax.Array:
  """Classifies a scan with all its slices, and with each one left out.

  Args:
    variables: Of the model.
    batch: One pack of one scan; see `packing.pack_batch`.
    model: The classifier. Static.
    zero_code: Code whose value is 0. Static.
    standard: Scale of the intensities; None for z-scores. Static.

  Returns:
    f32[N+1,K] log-probabilities: with all slices, then without slot 0, 1, ...
  """
  valid = batch["owner"][0] == 0
  masks = valid[None] & ~jnp.eye(len(valid), dtype=bool)
  masks = jnp.concatenate([valid[None], masks])
  places = jnp.broadcast_to(batch["positions_mm"], masks.shape)
  slices = step.dequantise(batch, zero_code, standard)
  if model.reads_volumes:
    slots = jnp.arange(len(valid))
    logits: Any = model.apply(
      variables,
      jnp.broadcast_to(slices, (len(masks), *slices.shape[1:])),
      jnp.where(masks, 0, 1),
      jnp.where(masks, slots, len(slots) + slots),
      places,
      num_rows=1,
      max_length=len(slots),
      train=False,
    )
    return jax.nn.log_softmax(logits[:, 0])
  z: Any = model.apply(
    variables,
    slices[0],
    valid,
    packs=1,
    train=False,
    method="encode",
  )
  # A scan alone in its pack: slots are places, and nothing is scattered.
  logits = model.apply(
    variables,
    jnp.broadcast_to(z, (len(masks), *z.shape)),
    masks,
    places,
    train=False,
    method="classify",
  )
  return jax.nn.log_softmax(logits)
