"""Convolutional sequence heads: kernels that slide along the slices."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models.pooling import masked_mean

_BOTTLENECK_WIDTH = 4  # channels of a 1x1 convolution, in growth rates
_COMPRESSION = 0.5  # channels a transition keeps
_STRIDE = 2  # slices, of a layer of SeqConv


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
    x, mask = dense_blocks(
      x, mask, self.growth_rate, self.block_config, _Convolution
    )
    return masked_mean(x, mask)


class SeqConv(nn.Module):
  """Strided convolutions, without pooling between them.

  A position of a layer stands for the two below it that the kernel steps
  over, and is valid if either is; so every slice counts and padding adds no
  valid position.

  Attributes:
    filters: Channels of each layer.
    kernel_size: Slices a kernel sees.

  Source: Zhang et al. 2017, arXiv:1708.04729, section 2.1: the encoder.
  Differs: S varies, so edges are padded with zeros, and the last kernel is
    as wide as the others and averaged over its positions, where theirs spans
    the whole sequence; each slice is normalised over its channels before the
    ReLU (Ba et al. 2016, arXiv:1607.06450).
  """

  filters: tuple[int, ...]
  kernel_size: int

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
    x = z
    for i, features in enumerate(self.filters, 1):
      x = _Convolution(
        features, self.kernel_size, stride=_STRIDE, name=f"conv{i}"
      )(x, mask)
      x = _normalise(x, f"norm{i}")
      mask = _pairs(mask).any(2)
    return masked_mean(x, mask)


class TCN(nn.Module):
  """Temporal convolutional network: residual blocks, ever wider apart.

  Attributes:
    channels: Channels of every convolution.
    dilations: Slices between the taps of a kernel, of each block.
    kernel_size: Taps of a kernel.
    dropout: Rate after every convolution, in training.

  Source: Bai et al. 2018, arXiv:1803.01271, Figure 1.
  Differs: slices have no past, so kernels are centred, not causal, and the
    mean over slices is read out, not the last; each slice is normalised over
    its channels (Ba et al. 2016, arXiv:1607.06450) instead of the weights.
  """

  channels: int
  dilations: tuple[int, ...]
  kernel_size: int
  dropout: float

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
    del positions_mm
    x = jnp.where(mask[..., None], z, 0)
    for b, dilation in enumerate(self.dilations, 1):
      y = x
      for i in (1, 2):
        y = _Convolution(
          self.channels,
          self.kernel_size,
          dilation=dilation,
          name=f"block{b}_conv{i}",
        )(y, mask)
        y = _normalise(y, f"block{b}_norm{i}")
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
      if x.shape[-1] != self.channels:
        x = nn.Dense(self.channels, name=f"block{b}_residual")(x)
      x = nn.relu(x + y)
    return masked_mean(x, mask)


class _Convolution(nn.Module):
  """Convolution along S, f[B,S,C] -> f[B,S/stride,F]; masked slices are 0.

  Output i is centred on slice `i * stride`, whatever S is. Shifted copies
  side by side make it one matrix product.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  dilation: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    kernel = self.param(
      "kernel",
      nn.initializers.he_normal(),
      (self.kernel_size, x.shape[-1], self.features),
    )
    x = jnp.where(mask[..., None], x, 0)
    reach, length = self.dilation * (self.kernel_size // 2), x.shape[1]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    starts = [self.dilation * k for k in range(self.kernel_size)]
    shifted = [padded[:, k : k + length : self.stride] for k in starts]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, self.features)


def dense_blocks(
  x: jax.Array,
  mask: jax.Array,
  growth_rate: int,
  block_config: tuple[int, ...],
  convolution: type[nn.Module],
) -> tuple[jax.Array, jax.Array]:
  """Runs dense blocks, with a transition between each two, on f[B,S,...,C].

  Returns:
    f[B,S',...,C'] normalised, and bool[B,S'] where its slices are valid.
  """
  for b, num_layers in enumerate(block_config, 1):
    for i in range(1, num_layers + 1):
      name = f"denseblock{b}_denselayer{i}"
      y = _normalise(x, f"{name}_norm1")
      width = _BOTTLENECK_WIDTH * growth_rate
      y = nn.Dense(width, use_bias=False, name=f"{name}_conv1")(y)
      y = _normalise(y, f"{name}_norm2")
      y = convolution(growth_rate, name=f"{name}_conv2")(y, mask)
      x = jnp.concatenate([x, y], -1)
    if b < len(block_config):
      x = _normalise(x, f"transition{b}_norm")
      features = int(x.shape[-1] * _COMPRESSION)
      x = nn.Dense(features, use_bias=False, name=f"transition{b}_conv")(x)
      x, mask = _pool_pairs(x, mask)
  return _normalise(x, "norm_last"), mask


def _normalise(x: jax.Array, name: str) -> jax.Array:
  """Normalises each slice of f[B,S,...,C] over all it holds; then ReLU."""
  axes = tuple(range(2, x.ndim))
  return nn.relu(nn.LayerNorm(reduction_axes=axes, name=name)(x))


def _pool_pairs(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Averages the valid of each two slices; of f[B,S,E,C], each two of E too."""
  if x.ndim == 4:
    odd = x.shape[2] % 2
    x = jnp.pad(x, ((0, 0), (0, 0), (0, odd), (0, 0)), mode="edge")
    x = x.reshape(*x.shape[:2], -1, 2, x.shape[-1]).mean(3)
  pairs, valid = _pairs(x.reshape(*mask.shape, -1)), _pairs(mask)
  pooled = masked_mean(
    pairs.reshape(-1, 2, pairs.shape[-1]), valid.reshape(-1, 2)
  )
  return pooled.reshape(*valid.shape[:2], *x.shape[2:]), valid.any(2)


def _pairs(x: jax.Array) -> jax.Array:
  """Puts neighbours together, [B,S,...] -> [B,S/2,2,...]; pads with zeros."""
  padding = [(0, 0), (0, x.shape[1] % 2)] + [(0, 0)] * (x.ndim - 2)
  return jnp.pad(x, padding).reshape(len(x), -1, 2, *x.shape[2:])
