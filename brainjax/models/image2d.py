"""The sequence head that reads the embeddings of a scan as one image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainjax.models.convolutional import dense_blocks
from brainjax.models.pooling import masked_mean


class Image2D(nn.Module):
  """A 2-D DenseNet-BC on the embeddings of a scan, as an image of S x D.

  DenseNet-DenseNet taken at its word. Neighbours along D have no order, so
  what kernels see there is arbitrary; `permute_channels` is the control: if
  the accuracy stays, the image carried no information.

  Attributes:
    growth_rate: Channels a layer appends.
    block_config: Layers of each block.
    num_init_features: Channels of the stem.
    permute_channels: Shuffles D, in the same way for every slice and scan.
    permutation_seed: Chooses the permutation.

  Source: Huang et al. 2017, arXiv:1608.06993, Table 1; a sequence of features
    as an image after Zhou et al. 2018, doi:10.1007/978-3-030-11723-8_21.
  Differs: the stem is 3x3 with stride 2 along D alone and no pooling follows,
    since S is short; each slice is normalised over all it holds (Ba et al.
    2016, arXiv:1607.06450).
  """

  growth_rate: int
  block_config: tuple[int, ...]
  num_init_features: int
  permute_channels: bool = False
  permutation_seed: int = 0

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
    if self.permute_channels:
      rng = np.random.default_rng(self.permutation_seed)
      z = z[..., rng.permutation(z.shape[-1])]
    stem = _Convolution2D(self.num_init_features, stride=2, name="conv0")
    x = stem(z[..., None], mask)
    x, mask = dense_blocks(
      x, mask, self.growth_rate, self.block_config, _Convolution2D
    )
    return masked_mean(x.mean(2), mask)


class _Convolution2D(nn.Module):
  """3x3 convolution of f[B,S,E,C] along S and E; masked slices are 0."""

  features: int
  stride: int = 1  # along E

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    kernel = self.param(
      "kernel",
      nn.initializers.he_normal(),
      (3, 3, x.shape[-1], self.features),
    )
    # Shifted copies, as along S alone, take three times as long: E is long.
    return lax.conv_general_dilated(
      jnp.where(mask[..., None, None], x, 0),
      kernel,
      window_strides=(1, self.stride),
      padding=[(1, 1), (1, 1)],
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
