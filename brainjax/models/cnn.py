"""The comparator among slice encoders: a plain 2-D CNN."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models import batch_norm, densenet, image_pooling
from brainjax.models.dense_block import convolve


class CNN(nn.Module):
  """Convolutions of 3x3, each followed by BatchNorm, ReLU and max-pooling.

  Attributes:
    widths: Channels of each convolution.
    dtype: Of the computation; statistics and the embedding are at least f32.
    param_dtype: Of the parameters and the running averages.
    axis_name: Of a mapped axis (pmap, shard_map) that shares its batch
      statistics.

  Source: the small CNNs that are trained from scratch on slices of brain
    tumours, such as Badza and Barjaktarovic 2020, Applied Sciences 10:1999.
  Differs: none of them is followed layer by layer. There are norms, without
    which the rate must be found first, and the last map is averaged over
    places, in the place of fully connected layers, so that slices may have
    any size.
  """

  widths: tuple[int, ...]
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  axis_name: str | None = None

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
      groups: Batch statistics are shared within each of this many runs of
        N / groups slices; only for `train`. Static.
      train: Use and record batch statistics. Static: a change recompiles.

    Returns:
      f32[N,D]; rows of weight 0 are zero.
    """
    # Masked here, filler cannot reach the gradient of a kernel either.
    x = jnp.where(weight[:, None, None, None] > 0, slices, 0)
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths, 1):
      shape = (3, 3, x.shape[-1], width)
      conv = self.param(f"conv{i}", densenet.init_conv, shape, self.param_dtype)
      x = convolve(x, conv["kernel"])
      norm = self.param(f"norm{i}", densenet.init_norm, width, self.param_dtype)
      averages = self.variable(
        "batch_stats", f"norm{i}", densenet.init_running, norm
      )
      if train:
        statistics = batch_norm.batch_statistics(
          x, weight, groups=groups, axis_name=self.axis_name
        )
        if not self.is_initializing():
          averages.value = batch_norm.update_running(
            averages.value, statistics, weight
          )
      else:
        statistics = jax.tree.map(lambda a: a[None], averages.value)
      x = batch_norm.normalise(x, statistics, norm, weight)
      x = image_pooling.max_pool(x)
    return densenet.pool_maps(x)
