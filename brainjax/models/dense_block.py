"""The dense block, as pure functions.

A dense layer only appends channels, and a channel's batch mean and variance
are the same for every later norm that reads it. So they are computed once per
block, channel and group, and shared; only scale and bias differ. The block has
its own backward pass, which keeps the features that the block returns, small
vectors and, unless memory is short, the bottlenecks, and computes the rest
again; what autodiff would keep is every normalised copy of every feature.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from brainjax.models import batch_norm
from brainjax.models.batch_norm import Statistics, normalise

RESIDUALS = ("fast", "small")


@functools.partial(jax.jit, static_argnames="stride")
def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
  """Convolves f[N,H,W,I] with f[h,w,I,O], padded by half the kernel.

  A 1x1 kernel is written as a matrix product, which XLA runs faster and can
  fuse with what comes before.
  """
  kernel = kernel.astype(x.dtype)
  height, width, inputs, outputs = kernel.shape
  if (height, width, stride) == (1, 1, 1):
    # Of matrices: with more dimensions to sum over, XLA on a CPU would
    # transpose both operands of the kernel's gradient.
    y = x.reshape(-1, inputs) @ kernel[0, 0]
    return y.reshape(*x.shape[:-1], outputs)
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    # Explicit, because "SAME" pads even sizes unevenly and torch does not.
    padding=[(height // 2, height // 2), (width // 2, width // 2)],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


@jax.jit
def _convolve_vjp(
  x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the gradients of `convolve` by its arguments."""
  return jax.vjp(convolve, x, kernel)[1](cotangent)


class _Options(NamedTuple):
  """What a block is compiled for; see `dense_block`."""

  groups: int
  residuals: str
  axis_name: str | None


def dense_block(
  x: jax.Array,
  layers: Sequence[Mapping[str, Any]],
  weight: jax.Array,
  *,
  groups: int,
  residuals: str = "fast",
  axis_name: str | None = None,
) -> tuple[jax.Array, Statistics, list[dict[str, Statistics]]]:
  """Runs a dense block with the statistics of the batch.

  Args:
    x: f[N,H,W,C] features, finite.
    layers: Parameters `{"norm1", "conv1", "norm2", "conv2"}` of each layer;
      kernels are f[1,1,C_i,4k] and f[3,3,4k,k], i layers deep.
    weight: f[N], 0 for filler slices; it gets no gradient.
    groups: Statistics are shared within each of this many groups. Static.
    residuals: "fast" keeps the bottlenecks for the backward pass, "small"
      computes them again. Static.
    axis_name: Of a mapped axis (pmap, shard_map) that shares its statistics;
      the gradients of parameters are still to be summed over it. Static.

  Returns:
    f[N,H,W,C + k * len(layers)] features, their statistics for the next norm,
    and those that `norm1` and `norm2` of each layer saw, for the running
    averages: they pass on no gradient.

  Source: Huang et al. 2017, arXiv:1608.06993, section 3 (DenseNet-BC).
  """
  options = _Options(groups, residuals, axis_name)
  return _dense_block(options, x, list(layers), weight)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense_block(options, x, layers, weight):
  return _forward(options, x, layers, weight)[0]


def _forward(options, x, layers, weight):
  axis_name = options.axis_name
  share = batch_norm.shares(weight, x.dtype, options.groups, axis_name)
  growth = layers[0]["conv2"]["kernel"].shape[-1]
  end = x.shape[-1]
  # One buffer, to which layers append in place.
  features = jnp.pad(x, [(0, 0)] * 3 + [(0, growth * len(layers))])
  statistics = batch_norm.statistics_of_shares(x, share, axis_name)
  seen, bottlenecks = [], []
  for layer in layers:
    y = normalise(features[..., :end], statistics, layer["norm1"], weight)
    y = convolve(y, layer["conv1"]["kernel"])
    bottleneck = batch_norm.statistics_of_shares(y, share, axis_name)
    seen.append({"norm1": statistics, "norm2": bottleneck})
    bottlenecks.append(y if options.residuals == "fast" else None)
    y = normalise(y, bottleneck, layer["norm2"], weight)
    y = convolve(y, layer["conv2"]["kernel"])
    appended = batch_norm.statistics_of_shares(y, share, axis_name)
    features = lax.dynamic_update_slice_in_dim(features, y, end, 3)
    statistics = {
      name: jnp.concatenate([statistics[name], appended[name]], -1)
      for name in statistics
    }
    end += growth
  residuals = features, layers, weight, statistics, seen, bottlenecks
  return (features, statistics, seen), residuals


def _backward(options, residuals, cotangents):
  """Goes through the layers from the last to the first.

  `gradient` is that of the channels below the current layer, complete but for
  what comes through their statistics: that is gathered in `towards` and paid
  out once, when a channel is done with.
  """
  features, layers, weight, statistics, seen, bottlenecks = residuals
  gradient, towards, _ = cotangents
  axis_name = options.axis_name
  share = batch_norm.shares(weight, features.dtype, options.groups, axis_name)
  growth = layers[0]["conv2"]["kernel"].shape[-1]
  end = features.shape[-1]
  towards = {
    name: batch_norm.summed(t, axis_name) for name, t in towards.items()
  }
  gradients = []
  for layer, given, y in zip(
    reversed(layers), reversed(seen), reversed(bottlenecks), strict=True
  ):
    start = end - growth
    own = {name: t[:, start:] for name, t in towards.items()}
    towards = {name: t[:, :start] for name, t in towards.items()}
    last = batch_norm.add_through_statistics(
      gradient[..., start:],
      features[..., start:end],
      {name: s[:, start:end] for name, s in statistics.items()},
      own,
      share,
    )
    x = features[..., :start]
    a1 = normalise(x, given["norm1"], layer["norm1"], weight)
    if y is None:
      y = convolve(a1, layer["conv1"]["kernel"])
    a2 = normalise(y, given["norm2"], layer["norm2"], weight)
    d_a2, d_conv2 = _convolve_vjp(a2, layer["conv2"]["kernel"], last)
    d_y, d_norm2, of_bottleneck = batch_norm.normalise_vjp(
      d_a2, a2, y, given["norm2"], layer["norm2"], axis_name
    )
    d_y = batch_norm.add_through_statistics(
      d_y, y, given["norm2"], of_bottleneck, share
    )
    d_a1, d_conv1 = _convolve_vjp(a1, layer["conv1"]["kernel"], d_y)
    d_x, d_norm1, of_inputs = batch_norm.normalise_vjp(
      d_a1, a1, x, given["norm1"], layer["norm1"], axis_name
    )
    towards = {name: t + of_inputs[name] for name, t in towards.items()}
    gradient = gradient[..., :start] + d_x
    kernels = {"conv1": d_conv1, "conv2": d_conv2}
    gradients.append(
      {"norm1": d_norm1, "norm2": d_norm2}
      | {
        name: {"kernel": d.astype(layer[name]["kernel"].dtype)}
        for name, d in kernels.items()
      }
    )
    end = start
  below = {name: s[:, :end] for name, s in statistics.items()}
  d_x = batch_norm.add_through_statistics(
    gradient, features[..., :end], below, towards, share
  )
  return d_x, gradients[::-1], jnp.zeros_like(weight)


_dense_block.defvjp(_forward, _backward)
