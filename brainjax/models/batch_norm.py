"""Batch normalisation of slices in groups, and its backward pass, in parts.

The parts are what a network needs that computes the statistics of a channel
once and normalises it many times. Statistics, norms and running averages are
dicts: `{"mean", "var"}` of f32[groups,C], `{"scale", "bias"}`, and
`{"mean", "var"}` of f32[C].

Networks call them hundreds of times, with few different shapes. So they are
jitted: each is then traced once a shape, which takes a third off the time in
which a training step of DenseNet-121 is traced.

Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5  # added to the variance, as torchvision does
MOMENTUM = 0.9  # of the running averages; torch calls it 0.1

Statistics = dict[str, jax.Array]


def batch_statistics(
  x: jax.Array,
  weight: jax.Array,
  *,
  groups: int,
  axis_name: str | None = None,
) -> Statistics:
  """Returns the mean and the biased variance of each channel and group.

  The sums run over a slice first and over slices second, and the variance is
  that of the centred values, so f32 is enough for any mean.

  Args:
    x: f[N,H,W,C] features, finite; groups are runs of N / groups slices.
    weight: f[N] of each slice; what a slice of weight 0 holds changes neither
      values nor gradients.
    groups: Number of groups. Static.
    axis_name: Of a mapped axis (pmap, shard_map) that shares its statistics.

  Returns:
    `{"mean", "var"}`, each f32[groups,C]; zeros for a group without weight.
  """
  share = shares(weight, x.dtype, groups, axis_name)
  return statistics_of_shares(x, share, axis_name)


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
  return jax.tree.map(
    lambda average, value: _moved(average, value, weight), running, statistics
  )


@jax.jit
def _moved(
  average: jax.Array, value: jax.Array, weight: jax.Array
) -> jax.Array:
  """Returns f32[C], moved towards f32[groups,C]; see `update_running`."""
  total = weight.astype(value.dtype).reshape(len(value), -1).sum(1)
  mean = (total[:, None] * value).sum(0) / total.sum()
  moved = MOMENTUM * average + (1 - MOMENTUM) * mean
  return jnp.where(total.sum() > 0, moved, average)


@jax.jit
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
  scale, bias = _affine(statistics, norm)
  valid = (weight > 0).astype(scale.dtype)[:, None, None, None]
  y = x.astype(scale.dtype) * (_per_slice(scale, len(x)) * valid)
  y = y + _per_slice(bias, len(x)) * valid
  return jax.nn.relu(y).astype(x.dtype)


@functools.partial(jax.jit, static_argnames="axis_name")
def statistics_of_shares(
  x: jax.Array, share: jax.Array, axis_name: str | None
) -> Statistics:
  """Returns `batch_statistics`, from what `shares` returned."""
  _, height, width, channels = x.shape
  x = x.astype(share.dtype)

  def average(values: jax.Array) -> jax.Array:
    means = _slice_sums(values) / (height * width)
    means = means.reshape(*share.shape, channels)
    return summed((share[..., None] * means).sum(1), axis_name)

  mean = average(x)
  # The variance does not change with the mean to first order, so no gradient
  # needs to pass here.
  centred = x - _per_slice(lax.stop_gradient(mean), len(x))
  return {"mean": mean, "var": average(jnp.square(centred))}


def shares(
  weight: jax.Array, dtype: Any, groups: int, axis_name: str | None
) -> jax.Array:
  """Returns f32[groups,N / groups], of the group's weight what a slice has."""
  weight = weight.astype(jnp.promote_types(dtype, jnp.float32))
  weight = weight.reshape(groups, -1)
  total = summed(weight.sum(1, keepdims=True), axis_name)
  return weight / jnp.where(total > 0, total, 1)


@functools.partial(jax.jit, static_argnames="axis_name")
def normalise_vjp(
  cotangent: jax.Array,
  output: jax.Array,
  x: jax.Array,
  statistics: Statistics,
  norm: Mapping[str, jax.Array],
  axis_name: str | None,
) -> tuple[jax.Array, dict[str, jax.Array], Statistics]:
  """Returns the gradients of `normalise` by x, the norm and the statistics.

  Args:
    cotangent: f[N,H,W,C] of its output.
    output: f[N,H,W,C], what it returned.
    x: f[N,H,W,C], as it was given; so are `statistics` and `norm`.
    statistics: `{"mean", "var"}`.
    norm: `{"scale", "bias"}`.
    axis_name: Of a mapped axis that shares the statistics.

  Returns:
    f[N,H,W,C], without what comes through the statistics; `{"scale", "bias"}`;
    and `{"mean", "var"}`, for `add_through_statistics`.
  """
  cotangent = jnp.where(output > 0, cotangent, 0)
  scale, _ = _affine(statistics, norm)
  mean, var = statistics["mean"], statistics["var"]

  def group_sums(values):
    sums = _slice_sums(values)
    return sums.reshape(len(mean), -1, sums.shape[-1]).sum(1)

  d_bias = group_sums(cotangent)
  d_scale = group_sums(cotangent * x) - mean * d_bias
  inverse = lax.rsqrt(var + EPSILON)
  d_norm = {"scale": (d_scale * inverse).sum(0), "bias": d_bias.sum(0)}
  d_norm = {name: d.astype(norm[name].dtype) for name, d in d_norm.items()}
  towards = {
    "mean": -d_bias * scale,
    "var": -0.5 * d_scale * scale * inverse**2,
  }
  towards = {name: summed(t, axis_name) for name, t in towards.items()}
  d_x = cotangent.astype(scale.dtype) * _per_slice(scale, len(x))
  return d_x.astype(x.dtype), d_norm, towards


@jax.jit
def add_through_statistics(
  gradient: jax.Array,
  x: jax.Array,
  statistics: Statistics,
  towards: Statistics,
  share: jax.Array,
) -> jax.Array:
  """Adds to a gradient by x what reaches x through its own statistics.

  Args:
    gradient: f[N,H,W,C] by x.
    x: f[N,H,W,C].
    statistics: `{"mean", "var"}` of x.
    towards: The gradient by them.
    share: Of `shares`.

  Returns:
    f[N,H,W,C] in the dtype of `x`.
  """
  height, width = x.shape[1:3]
  pixel = share.reshape(-1)[:, None, None, None] / (height * width)
  slope = 2 * towards["var"]
  offset = towards["mean"] - slope * statistics["mean"]
  dtype = slope.dtype
  through = (
    x.astype(dtype) * (_per_slice(slope, len(x)) * pixel)
    + _per_slice(offset, len(x)) * pixel
  )
  return (gradient.astype(dtype) + through).astype(x.dtype)


def _slice_sums(x: jax.Array) -> jax.Array:
  """Sums f[N,H,W,C] over pixels into f32[N,C].

  As a matrix product, which on a CPU is faster than a reduction.
  """
  num_slices, height, width, channels = x.shape
  pixels = x.reshape(num_slices, height * width, channels)
  return jnp.einsum(
    "np,npc->nc",
    jnp.ones((num_slices, height * width), x.dtype),
    pixels,
    precision=lax.Precision.HIGHEST,
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )


def _affine(
  statistics: Statistics, norm: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Returns scale and bias, f32[groups,C], of a norm and its statistics."""
  mean, var = statistics["mean"], statistics["var"]
  scale = norm["scale"][None] * lax.rsqrt(var + EPSILON)
  # One product and one sum an element, where subtracting the mean first would
  # need one more of each.
  return scale, norm["bias"][None] - mean * scale


def summed(values: jax.Array, axis_name: str | None) -> jax.Array:
  """Sums over a mapped axis, if there is one."""
  return values if axis_name is None else lax.psum(values, axis_name)


def _per_slice(values: jax.Array, num_slices: int) -> jax.Array:
  """Repeats f[groups,C] into f[num_slices,1,1,C]."""
  groups, channels = values.shape
  shape = (groups, num_slices // groups, channels)
  values = jnp.broadcast_to(values[:, None], shape)
  return values.reshape(num_slices, 1, 1, channels)
