"""Sequence heads that ignore the order of slices; none has parameters."""

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
    largest = jnp.where(mask[..., None], z, -jnp.inf).max(1)
    return jnp.where(mask.any(1, keepdims=True), largest, 0)


def masked_mean(z: jax.Array, mask: jax.Array) -> jax.Array:
  """Averages f[B,S,D] over the True of bool[B,S] into f[B,D], or zeros."""
  total = jnp.where(mask[..., None], z, 0).sum(1)
  count = mask.sum(1, keepdims=True)
  return total / jnp.maximum(count, 1).astype(z.dtype)
