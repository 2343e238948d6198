"""The comparator among slice encoders: a plain 2-D CNN."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models import image_pooling
from brainjax.models.dense_block import convolve
from brainjax.models.densenet import init_conv, pool_maps


class CNN(nn.Module):
  """Convolutions of 3x3 with a ReLU, each followed by max-pooling.

  It has no norms, so no slice is seen together with another one.

  Attributes:
    widths: Channels of each convolution.
    dtype: Of the computation; the embedding is at least f32.
    param_dtype: Of the parameters.

  Source: the small CNNs that are trained from scratch on slices of brain
    tumours, such as Badza and Barjaktarovic 2020, Applied Sciences 10:1999.
  Differs: none of them is followed layer by layer. The last map is averaged
    over places, in the place of fully connected layers, so that slices may
    have any size.
  """

  widths: tuple[int, ...]
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @property
  def num_features(self) -> int:
    """Size D of an embedding."""
    return self.widths[-1]

  @nn.compact
  def __call__(
    self, slices: jax.Array, weight: jax.Array, *, groups: int, train: bool
  ) -> jax.Array:
    """Embeds every slice.

    Args:
      slices: f[N,H,W,C] intensities.
      weight: f[N], 0 for filler slices, whose content changes nothing.
      groups: Without effect: nothing is shared among slices.
      train: Without effect.

    Returns:
      f32[N,D]; rows of weight 0 are zero.
    """
    del groups, train
    # Masked here, filler cannot reach the gradient of a kernel either.
    x = jnp.where(weight[:, None, None, None] > 0, slices, 0)
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths, 1):
      conv = self.param(f"conv{i}", self._init, x.shape[-1], width)
      bias = conv["bias"].astype(x.dtype)[None, None, None]
      x = jax.nn.relu(convolve(x, conv["kernel"]) + bias)
      x = image_pooling.max_pool(x)
    return jnp.where(weight[:, None] > 0, pool_maps(x), 0)

  def _init(self, key, inputs: int, outputs: int) -> dict[str, jax.Array]:
    kernel = init_conv(key, (3, 3, inputs, outputs), self.param_dtype)
    return kernel | {"bias": jnp.zeros(outputs, self.param_dtype)}
