"""Screening and typing with one model and two outputs."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class ScreenThenType(nn.Module):
  """Two linear classifiers in one: tumour or none, and which tumour.

  What it returns are the log-probabilities of all classes, so that their
  softmax is the composed distribution, and cross-entropy is the binary one of
  screening plus, for a tumour, that of typing:

      log p(negative) = log sigmoid(-t)
      log p(type) = log sigmoid(t) + log softmax(u)[type]

  Attributes:
    num_classes: Classes K, one of which is no tumour.
    negative: Index of that one.
  """

  num_classes: int
  negative: int

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    """Returns f[R,K] of f[R,F]."""
    t = nn.Dense(1, name="screening")(features)
    u = nn.Dense(self.num_classes - 1, name="typing")(features)
    typed = jax.nn.log_sigmoid(t) + jax.nn.log_softmax(u)
    before, after = typed[:, : self.negative], typed[:, self.negative :]
    return jnp.concatenate([before, jax.nn.log_sigmoid(-t), after], axis=1)
