"""Convolutional sequence heads: kernels that slide along the slices."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models.pooling import masked_mean

_BOTTLENECK_WIDTH = 4  # channels of a 1x1 convolution, in growth rates
_COMPRESSION = 0.5  # channels a transition keeps
_KERNEL_SIZE = 3  # slices


class DenseNet1D(nn.Module):
  """A 1-D DenseNet-BC along the slices, whose channels are the features.

  The second DenseNet of DenseNet-DenseNet. Between blocks, pairs of slices
  are averaged; after the last, all that are left.

  Attributes:
    growth_rate: Channels a layer appends.
    block_config: Layers of each block.
    num_init_features: Channels of the stem.

  Source: Huang et al. 2017, arXiv:1608.06993, with one axis; convolution
    along the sequence after Zhang et al. 2017, arXiv:1708.04729.
  Differs: each slice is normalised over its channels (Ba et al. 2016,
    arXiv:1607.06450), since a batch holds few sequences, of any length.
  """

  growth_rate: int
  block_config: tuple[int, ...]
  num_init_features: int

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns f[B,F], zeros where no slice is valid; see `heads.py`."""
    del positions_mm, train
    x = _Convolution(self.num_init_features, name="conv0")(z, mask)
    for b, num_layers in enumerate(self.block_config, 1):
      for i in range(1, num_layers + 1):
        name = f"denseblock{b}_denselayer{i}"
        y = _normalise(x, f"{name}_norm1")
        width = _BOTTLENECK_WIDTH * self.growth_rate
        y = nn.Dense(width, use_bias=False, name=f"{name}_conv1")(y)
        y = _normalise(y, f"{name}_norm2")
        y = _Convolution(self.growth_rate, name=f"{name}_conv2")(y, mask)
        x = jnp.concatenate([x, y], -1)
      if b < len(self.block_config):
        x = _normalise(x, f"transition{b}_norm")
        features = int(x.shape[-1] * _COMPRESSION)
        x = nn.Dense(features, use_bias=False, name=f"transition{b}_conv")(x)
        x, mask = _pool_pairs(x, mask)
    return masked_mean(_normalise(x, "norm_last"), mask)


class _Convolution(nn.Module):
  """Convolution along S, f[B,S,C] -> f[B,S,features]; masked slices are 0.

  Shifted copies side by side make it one matrix product.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    kernel = self.param(
      "kernel",
      nn.initializers.he_normal(),
      (_KERNEL_SIZE, x.shape[-1], self.features),
    )
    x = jnp.where(mask[..., None], x, 0)
    half, length = _KERNEL_SIZE // 2, x.shape[1]
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
    shifted = [padded[:, k : k + length] for k in range(_KERNEL_SIZE)]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, self.features)


def _normalise(x: jax.Array, name: str) -> jax.Array:
  return nn.relu(nn.LayerNorm(name=name)(x))


def _pool_pairs(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Averages the valid of each two neighbouring slices."""
  odd = x.shape[1] % 2
  x = jnp.pad(x, ((0, 0), (0, odd), (0, 0)))
  mask = jnp.pad(mask, ((0, 0), (0, odd)))
  pairs = (-1, 2, x.shape[-1])
  pooled = masked_mean(x.reshape(pairs), mask.reshape(-1, 2))
  return (
    pooled.reshape(len(x), -1, x.shape[-1]),
    mask.reshape(len(mask), -1, 2).any(-1),
  )
