"""Sequence heads that ignore the order of slices."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Mean(nn.Module):
  """Mean of the valid slice embeddings."""

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns f[B,D], zeros where no slice is valid; see `heads.py`."""
    del positions_mm, train
    return masked_mean(z, mask)


class Max(nn.Module):
  """Largest value of each feature among the valid slice embeddings."""

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns f[B,D], zeros where no slice is valid; see `heads.py`."""
    del positions_mm, train
    return masked_max(z, mask)


class LogSumExp(nn.Module):
  """Smooth maximum: t log(mean(exp(z / t))) over the valid slices.

  Being a mean, it gives equal slices their value, however many they are.

  Attributes:
    temperature: t; towards 0 the maximum, large the mean.

  Source: Pinheiro and Collobert 2015, arXiv:1411.6228, with r = 1 / t.
  """

  temperature: float

  def __post_init__(self):
    if self.temperature <= 0:
      raise ValueError(f"temperature is {self.temperature}; more than 0")
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns f[B,D], zeros where no slice is valid; see `heads.py`."""
    del positions_mm, train
    largest = jax.lax.stop_gradient(masked_max(z, mask))
    excess = jnp.where(mask[..., None], z - largest[:, None], 0)
    mean = masked_mean(jnp.exp(excess / self.temperature), mask)
    mean = jnp.where(mask.any(1, keepdims=True), mean, 1)
    return largest + self.temperature * jnp.log(mean)


class GatedAttention(nn.Module):
  """Mean of the slices, weighted by a gated attention to each.

  The weights are sown in "intermediates" as "slice_weights":
  `{"head": f[B,S]}`.

  Attributes:
    attention_size: Features from which the weight of a slice is found.

  Source: Ilse et al. 2018, arXiv:1802.04712, equation 9.
  """

  attention_size: int

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns f[B,D], zeros where no slice is valid; see `heads.py`."""
    del positions_mm, train
    z = jnp.where(mask[..., None], z, 0)
    content = jnp.tanh(nn.Dense(self.attention_size, name="content")(z))
    gate = nn.sigmoid(nn.Dense(self.attention_size, name="gate")(z))
    # A bias would shift all scores, which changes no weight.
    scores = nn.Dense(1, use_bias=False, name="score")(content * gate)
    weights = masked_softmax(scores[..., 0], mask)
    self.sow("intermediates", "slice_weights", {"head": weights})
    return jnp.einsum("bs,bsd->bd", weights, z)


def masked_mean(z: jax.Array, mask: jax.Array) -> jax.Array:
  """Averages f[B,S,D] over the True of bool[B,S] into f[B,D], or zeros."""
  total = jnp.where(mask[..., None], z, 0).sum(1)
  count = mask.sum(1, keepdims=True)
  return total / jnp.maximum(count, 1).astype(z.dtype)


def masked_max(z: jax.Array, mask: jax.Array) -> jax.Array:
  """Largest of f[B,S,D] over the True of bool[B,S], f[B,D], or zeros."""
  largest = jnp.where(mask[..., None], z, -jnp.inf).max(1)
  return jnp.where(mask.any(1, keepdims=True), largest, 0)


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
  """Softmax along the last axis over the True of bool[...], else zeros."""
  # Not -inf, of which a row without a True has no softmax.
  scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  return jnp.where(mask, nn.softmax(scores), 0)
