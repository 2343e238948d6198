"""Sequence heads that ignore the order of slices."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Mean(nn.Module):
  """Mean of the valid slice embeddings; no parameters."""

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Averages each sequence.

    Args:
      z: f[B,S,D] slice embeddings.
      mask: bool[B,S], True where a slice is; what z holds elsewhere changes
        nothing.
      positions_mm: f[B,S]; unused.
      train: Unused.

    Returns:
      f[B,D]; zeros where no slice is valid.
    """
    del positions_mm, train
    total = jnp.where(mask[..., None], z, 0).sum(1)
    count = mask.sum(1, keepdims=True)
    return total / jnp.maximum(count, 1).astype(z.dtype)
