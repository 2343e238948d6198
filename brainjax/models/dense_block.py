"""The dense block and its batch statistics, as pure functions.

A dense layer only appends channels, and a channel's batch mean and variance
are the same for every later norm that reads it. So they are computed once per
block, channel and group, and shared; only scale and bias differ.

Norms, statistics and running averages are dicts: `{"scale", "bias"}`,
`{"mean", "var"}` of f32[groups,C], and `{"mean", "var"}` of f32[C].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5  # added to the variance, as torchvision does
MOMENTUM = 0.9  # of the running averages; torch calls it 0.1

Statistics = dict[str, jax.Array]


def batch_statistics(
  x: jax.Array, weight: jax.Array, *, groups: int
) -> Statistics:
  """Returns the mean and the biased variance of each channel and group.

  The sums run over a slice first and over slices second, and the variance is
  that of the centred values, so f32 is enough for any mean.

  Args:
    x: f[N,H,W,C] features; groups are runs of N / groups slices.
    weight: f[N] of each slice; what a slice of weight 0 holds, NaN included,
      changes neither values nor gradients.
    groups: Number of groups. Static.

  Returns:
    `{"mean", "var"}`, each f32[groups,C]; zeros for a group without weight.
  """
  x = jnp.where(weight[:, None, None, None] > 0, x, 0)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  weight = weight.astype(x.dtype).reshape(groups, -1, 1)
  total = weight.sum(1)
  share = weight / jnp.where(total > 0, total, 1)[:, None]

  def average(values: jax.Array) -> jax.Array:
    per_slice = values.mean((1, 2)).reshape(*share.shape[:2], -1)
    return (share * per_slice).sum(1)

  mean = average(x)
  # The variance does not change with the mean to first order, so no gradient
  # needs to pass here.
  centred = x - _per_slice(lax.stop_gradient(mean), len(x))
  return {"mean": mean, "var": average(jnp.square(centred))}


def update_running(running: Any, statistics: Any, weight: jax.Array) -> Any:
  """Moves running averages towards the statistics of a batch.

  Args:
    running: Any tree of f32[C].
    statistics: The same tree of f32[groups,C].
    weight: f[N] of each slice; groups count by their total weight.

  Returns:
    The tree of `running`, unchanged if no slice has weight.

  Differs from one norm over the batch: with more than one group, the variance
  is the mean of the groups' variances.
  """

  def update(average: jax.Array, value: jax.Array) -> jax.Array:
    total = weight.astype(value.dtype).reshape(len(value), -1).sum(1)
    mean = (total[:, None] * value).sum(0) / total.sum()
    moved = MOMENTUM * average + (1 - MOMENTUM) * mean
    return jnp.where(total.sum() > 0, moved, average)

  return jax.tree.map(update, running, statistics)


def normalise(
  x: jax.Array,
  statistics: Statistics,
  norm: Mapping[str, jax.Array],
  weight: jax.Array,
) -> jax.Array:
  """Normalises, applies the norm's scale and bias, and rectifies.

  Args:
    x: f[N,H,W,C] features, finite.
    statistics: `{"mean", "var"}`, each f32[groups,C].
    norm: `{"scale", "bias"}`, each f32[C].
    weight: f[N]; slices of weight 0 come out as zeros. Their next convolution
      is then zero too, so nothing can grow where nothing is normalised.

  Returns:
    f[N,H,W,C] in the dtype of `x`.
  """
  mean, var = statistics["mean"], statistics["var"]
  scale = norm["scale"][None] * lax.rsqrt(var + EPSILON)
  # One product and one sum an element, and two sums in its gradient, where
  # subtracting the mean first would need one more of each.
  bias = norm["bias"][None] - mean * scale
  valid = (weight > 0).astype(mean.dtype)[:, None, None, None]
  y = x.astype(mean.dtype) * (_per_slice(scale, len(x)) * valid)
  y = y + _per_slice(bias, len(x)) * valid
  return jax.nn.relu(y).astype(x.dtype)


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
  """Convolves f[N,H,W,I] with f[h,w,I,O], padded by half the kernel.

  A 1x1 kernel is written as a matrix product, which XLA runs faster and can
  fuse with what comes before.
  """
  kernel = kernel.astype(x.dtype)
  height, width, _, _ = kernel.shape
  if (height, width, stride) == (1, 1, 1):
    return x @ kernel[0, 0]
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    # Explicit, because "SAME" pads even sizes unevenly and torch does not.
    padding=[(height // 2, height // 2), (width // 2, width // 2)],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def dense_block(
  x: jax.Array,
  layers: Sequence[Mapping[str, Any]],
  weight: jax.Array,
  *,
  groups: int,
) -> tuple[jax.Array, Statistics, list[dict[str, Statistics]]]:
  """Runs a dense block with the statistics of the batch.

  Args:
    x: f[N,H,W,C] features, finite.
    layers: Parameters `{"norm1", "conv1", "norm2", "conv2"}` of each layer;
      kernels are f[1,1,C_i,4k] and f[3,3,4k,k], i layers deep.
    weight: f[N], 0 for filler slices.
    groups: Statistics are shared within each of this many groups. Static.

  Returns:
    f[N,H,W,C + k * len(layers)] features, their statistics for the next norm,
    and those that `norm1` and `norm2` of each layer saw.

  Source: Huang et al. 2017, arXiv:1608.06993, section 3 (DenseNet-BC).
  """
  statistics = batch_statistics(x, weight, groups=groups)
  seen = []
  for layer in layers:
    y = normalise(x, statistics, layer["norm1"], weight)
    y = convolve(y, layer["conv1"]["kernel"])
    bottleneck = batch_statistics(y, weight, groups=groups)
    seen.append({"norm1": statistics, "norm2": bottleneck})
    y = normalise(y, bottleneck, layer["norm2"], weight)
    y = convolve(y, layer["conv2"]["kernel"])
    appended = batch_statistics(y, weight, groups=groups)
    x = jnp.concatenate([x, y], -1)
    statistics = {
      name: jnp.concatenate([statistics[name], appended[name]], -1)
      for name in statistics
    }
  return x, statistics, seen


def dense_block_inference(
  x: jax.Array,
  layers: Sequence[Mapping[str, Any]],
  statistics: Sequence[Mapping[str, Statistics]],
  weight: jax.Array,
) -> jax.Array:
  """Runs a dense block whose norms use given statistics, one set a layer."""
  for layer, given in zip(layers, statistics, strict=True):
    y = normalise(x, given["norm1"], layer["norm1"], weight)
    y = convolve(y, layer["conv1"]["kernel"])
    y = normalise(y, given["norm2"], layer["norm2"], weight)
    y = convolve(y, layer["conv2"]["kernel"])
    x = jnp.concatenate([x, y], -1)
  return x


def _per_slice(values: jax.Array, num_slices: int) -> jax.Array:
  """Repeats f[groups,C] into f[num_slices,1,1,C]."""
  groups, channels = values.shape
  shape = (groups, num_slices // groups, channels)
  values = jnp.broadcast_to(values[:, None], shape)
  return values.reshape(num_slices, 1, 1, channels)
