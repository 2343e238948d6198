"""The decoder of the auto-encoder, and how far a reconstruction is off.

The encoder is the DenseNet of `densenet.py`: its last feature map is squeezed
into a code of few channels, from which the decoder draws the slice again.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models import batch_norm
from brainjax.models.dense_block import convolve
from brainjax.models.densenet import init_conv, init_norm, init_running


class Decoder(nn.Module):
  """Draws slices from the last feature map of their encoder.

  A 1x1 convolution gives the code; then as often as the encoder halved the
  slice: nearest neighbours twice as large, a 3x3 convolution, BatchNorm and
  ReLU; at last a 3x3 convolution with a bias, into intensities.

  Attributes:
    code_channels: Channels of the code, all that the decoder knows of a slice.
    widths: Channels after each enlargement. There may be more than are
      needed: the last ones are used.
    axis_name: Of a mapped axis (pmap, shard_map) that shares its batch
      statistics.

  Source: the auto-encoder of Zhou et al. 2018, whose text does not give the
    decoder; resize and convolve after Odena et al. 2016 (doi
    10.23915/distill.00003), without the checkerboard of strided transposed
    convolutions.
  """

  code_channels: int
  widths: Sequence[int]
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    maps: jax.Array,
    weight: jax.Array,
    *,
    slice_shape: tuple[int, int, int],
    groups: int,
    train: bool,
  ) -> jax.Array:
    """Draws every slice.

    Args:
      maps: f[N,h,w,D] of the encoder.
      weight: f[N], 0 for filler slices, whose content changes nothing.
      slice_shape: H, W and C of a slice. Static.
      groups: Batch statistics are shared within each of this many runs of
        N / groups slices; only for `train`. Static.
      train: Use and record batch statistics. Static.

    Returns:
      f32[N,H,W,C] intensities.

    Raises:
      ValueError: A slice is not as large as the feature map made larger some
        whole number of times, or `widths` are too few.
    """
    height, width, channels = slice_shape
    stages = self._stages(maps.shape[1:3], (height, width))
    x = self._convolve("code", maps, 1, self.code_channels)
    for i, features in enumerate(self.widths[-stages:], 1):
      x = x.repeat(2, axis=1).repeat(2, axis=2)
      x = self._convolve(f"conv{i}", x, 3, features)
      x = self._normalise(f"norm{i}", x, weight, groups=groups, train=train)
    x = self._convolve("image", x, 3, channels)
    bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
    return x.astype(bias.dtype) + bias[None, None, None]

  def _stages(self, small: tuple[int, ...], large: tuple[int, ...]) -> int:
    stages = max(round(large[0] / small[0]).bit_length() - 1, 1)
    if tuple(size << stages for size in small) != large:
      raise ValueError(
        f"slices of {large[0]}x{large[1]} pixels cannot be drawn from feature"
        f" maps of {small[0]}x{small[1]}; use multiples of {1 << stages}"
      )
    if stages > len(self.widths):
      raise ValueError(
        f"the decoder has widths {tuple(self.widths)}, but {stages} are needed"
      )
    return stages

  def _convolve(
    self, name: str, x: jax.Array, size: int, features: int
  ) -> jax.Array:
    shape = (size, size, x.shape[-1], features)
    return convolve(
      x, self.param(name, init_conv, shape, jnp.float32)["kernel"]
    )

  def _normalise(
    self,
    name: str,
    x: jax.Array,
    weight: jax.Array,
    *,
    groups: int,
    train: bool,
  ) -> jax.Array:
    norm = self.param(name, init_norm, x.shape[-1], jnp.float32)
    running = self.variable("batch_stats", name, init_running, norm)
    if not train:
      given = jax.tree.map(lambda average: average[None], running.value)
      return batch_norm.normalise(x, given, norm, weight)
    seen = batch_norm.batch_statistics(
      x, weight, groups=groups, axis_name=self.axis_name
    )
    if not self.is_initializing():
      running.value = batch_norm.update_running(running.value, seen, weight)
    return batch_norm.normalise(x, seen, norm, weight)


def squared_errors(slices: jax.Array, drawn: jax.Array) -> jax.Array:
  """Sums the squared errors of each slice over its brain.

  The brain is what is not exactly 0, which is background, or a modality that
  is not there. Dividing by the second number gives the mean.

  Args:
    slices: f[N,H,W,C] intensities.
    drawn: f[N,H,W,C] reconstructions.

  Returns:
    f[N,2]: the sum, and of how many values.
  """
  brain = slices != 0
  errors = jnp.where(brain, slices - drawn, 0)
  return jnp.stack(
    [
      jnp.square(errors).sum((1, 2, 3)),
      brain.sum((1, 2, 3)).astype(errors.dtype),
    ],
    axis=-1,
  )
