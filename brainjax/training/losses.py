"""Classification losses: sums over scans, divided by a constant.

A constant divisor makes packs, devices and accumulated steps simply add.
"""

import jax
import jax.numpy as jnp
import numpy as np


def scan_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of each scan.

  Args:
    logits: f32[...,K].
    labels: i32[...], class index; -1 = unknown.

  Returns:
    f32[...]; 0 where the label is unknown.
  """
  log_probabilities = jax.nn.log_softmax(logits)
  known = labels >= 0
  picked = jnp.take_along_axis(
    log_probabilities, jnp.where(known, labels, 0)[..., None], axis=-1
  )[..., 0]
  return jnp.where(known, -picked, 0.0)


def class_weights(labels: np.ndarray, num_classes: int, kind: str) -> tuple:
  """Weights that make classes count alike.

  Args:
    labels: i64[n] of the training participants, each in 0..num_classes-1.
    num_classes: K.
    kind: "inverse" for w_c = n / (K n_c), "none" for 1.

  Returns:
    K floats, whose mean over the participants is 1.
  """
  if kind == "none":
    return (1.0,) * num_classes
  counts = np.bincount(labels, minlength=num_classes)
  return tuple(float(w) for w in len(labels) / (num_classes * counts))
