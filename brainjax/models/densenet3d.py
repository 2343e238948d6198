"""The comparator that reads a scan as a volume: a 3-D DenseNet-BC.

Volumes f[R,S,H,W,C] are kept as slices f[R*S,H,W,C], and a convolution over
three slices is one over a slice and its neighbours, laid side by side as
channels. So what normalises, pools and convolves slices does so here too, and
a slice beyond the end of its scan is one of weight 0.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models import batch_norm, densenet, image_pooling
from brainjax.models.dense_block import convolve


class DenseNet3D(nn.Module):
  """DenseNet-BC with kernels of 3x3x3, without its classifier.

  The parameter tree has the names of `densenet.DenseNet`, which are MONAI's.

  Attributes:
    growth_rate: Channels a layer appends.
    block_config: Layers of each block.
    num_init_features: Channels of the stem.
    dtype: Of the computation; statistics and the embedding are at least f32.
    param_dtype: Of the parameters and the running averages.
    residuals: "fast", or "small" to compute the inside of every layer again
      in the backward pass.
    axis_name: Of a mapped axis (pmap, shard_map) that shares its batch
      statistics.

  Source: Huang et al. 2017, arXiv:1608.06993, Table 1, with a third axis, as
    MONAI's DenseNet121(spatial_dims=3).
  Differs: along the slices, transitions average the last one of an odd number
    alone instead of leaving it out, so that scans may have few slices.
  """

  growth_rate: int
  block_config: tuple[int, ...]
  num_init_features: int
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  residuals: str = "fast"
  axis_name: str | None = None

  @property
  def num_features(self) -> int:
    """Size D of an embedding."""
    return densenet.embedding_size(
      self.growth_rate, self.block_config, self.num_init_features
    )

  @nn.compact
  def __call__(
    self, volumes: jax.Array, mask: jax.Array, *, groups: int, train: bool
  ) -> jax.Array:
    """Embeds every scan.

    Args:
      volumes: f[R,S,H,W,C] intensities.
      mask: bool[R,S], True where a slice is; what the others hold changes
        nothing.
      groups: Batch statistics are shared within each of this many runs of
        R / groups scans, in which each slice counts alike; only for `train`.
        Static.
      train: Use and record batch statistics. Static: a change recompiles.

    Returns:
      f32[R,D], the means over the places of all slices; zeros for a scan
      without a slice.

    Raises:
      ValueError: Slices are too small.
    """
    _, _, height, width, channels = volumes.shape
    densenet.check_size(height, width, len(self.block_config))
    dtype, features = self.param_dtype, self.num_init_features
    statistics_of = functools.partial(
      batch_norm.batch_statistics, groups=groups, axis_name=self.axis_name
    )

    def declare(name, init, *args) -> tuple[Any, Any]:
      """Returns parameters with norms, and their running averages."""
      params = self.param(name, init, *args, dtype)
      averages = self.variable(
        "batch_stats", name, densenet.init_running, params
      )
      return params, averages

    def move(averages, statistics, weight) -> None:
      if train and not self.is_initializing():
        averages.value = batch_norm.update_running(
          averages.value, statistics, weight
        )

    def of_batch(averages, x, weight):
      """Returns the statistics of a norm on its own."""
      if not train:
        return _one_group(averages.value)
      found = statistics_of(x, weight)
      move(averages, found, weight)
      return found

    x = jnp.where(mask[..., None, None, None], volumes, 0).astype(self.dtype)
    shape = (7, 7, 7, channels, features)
    conv0 = self.param("conv0", densenet.init_conv, shape, dtype)
    x = _convolve(_Slices(x, mask), conv0["kernel"], stride=2)
    norm0, averages = declare("norm0", densenet.init_norm, features)
    x = x.normalised(of_batch(averages, x.flat, x.weight), norm0)
    x = _max_pool(x)
    for b, num_layers in enumerate(self.block_config, 1):
      layers, averages = declare(
        f"denseblock{b}",
        functools.partial(densenet.init_block, size=(3, 3, 3)),
        features,
        num_layers,
        self.growth_rate,
      )
      given = None if train else _one_group(averages.value)
      layer_of = functools.partial(_layer, statistics_of)
      if self.residuals == "small":
        layer_of = jax.checkpoint(layer_of)
      known, seen = (statistics_of(x.flat, x.weight) if train else None), {}
      for i in range(1, num_layers + 1):
        name = f"denselayer{i}"
        old = given and given[name]
        appended, known, seen[name] = layer_of(x, layers[name], known, old)
        x = x.replaced(jnp.concatenate([x.values, appended], -1))
      move(averages, seen, x.weight)
      features = x.values.shape[-1]
      if b < len(self.block_config):
        name = f"transition{b}"
        transition, averages = declare(name, densenet.init_transition, features)
        seen = {"norm": known} if train else _one_group(averages.value)
        move(averages, seen, x.weight)
        x = _average_pool(x.normalised(seen["norm"], transition["norm"]))
        x = _convolve(x, transition["conv"]["kernel"][None])
        features = x.values.shape[-1]
    norm5, averages = declare("norm5", densenet.init_norm, features)
    seen = known if train else _one_group(averages.value)
    move(averages, seen, x.weight)
    x = x.normalised(seen, norm5)
    z = densenet.pool_maps(x.flat).reshape(*x.mask.shape, features)
    count = x.mask.sum(1, keepdims=True)  # the other slices are zero
    return z.sum(1) / jnp.maximum(count, 1).astype(z.dtype)


class _Slices(NamedTuple):
  """Feature maps; where the mask is False they are zero, or do not matter."""

  values: jax.Array  # f[R,S,H,W,C]
  mask: jax.Array  # bool[R,S]

  @property
  def flat(self) -> jax.Array:
    """f[R*S,H,W,C]."""
    return self.values.reshape(-1, *self.values.shape[2:])

  @property
  def weight(self) -> jax.Array:
    """f32[R*S]."""
    return self.mask.reshape(-1).astype(jnp.float32)

  def replaced(self, values: jax.Array) -> "_Slices":
    """Returns other maps of the same slices, f[R,S,...] or f[R*S,...]."""
    shape = (*self.mask.shape, *values.shape[-3:])
    return _Slices(values.reshape(shape), self.mask)

  def normalised(self, statistics, norm) -> "_Slices":
    """Returns them normalised and rectified, and zero beyond the mask."""
    return self.replaced(
      batch_norm.normalise(self.flat, statistics, norm, self.weight)
    )


def _layer(statistics_of, x: _Slices, layer, known, given):
  """Returns what a dense layer appends, and the statistics of all channels.

  Args:
    statistics_of: As `batch_norm.batch_statistics`, of maps and weights.
    x: What came before.
    layer: Its parameters.
    known: The statistics of x; None to use `given`.
    given: Running averages of both norms; None to use those of the batch.

  Returns:
    f[R,S,H,W,k]; the statistics with those of it, and those that both norms
    saw; None where they were given.
  """
  train = given is None
  y = x.normalised(known if train else given["norm1"], layer["norm1"])
  y = _convolve(y, layer["conv1"]["kernel"][None])
  middle = statistics_of(y.flat, y.weight) if train else given["norm2"]
  y = _convolve(y.normalised(middle, layer["norm2"]), layer["conv2"]["kernel"])
  if not train:
    return y.values, None, None
  # A channel's statistics are those of all later norms that read it.
  own = statistics_of(y.flat, y.weight)
  both = {name: jnp.concatenate([known[name], own[name]], -1) for name in own}
  return y.values, both, {"norm1": known, "norm2": middle}


def _convolve(x: _Slices, kernel: jax.Array, *, stride: int = 1) -> _Slices:
  """Convolves with f[d,h,w,I,O], padded by half the kernel.

  What lies beyond the mask must be zero, as it is beyond the last slice.
  """
  depth, height, width, inputs, outputs = kernel.shape
  kernel = jnp.moveaxis(kernel, 0, 2)
  kernel = kernel.reshape(height, width, depth * inputs, outputs)
  values = jnp.concatenate(_neighbours(x.values, depth, stride), -1)
  mask = x.mask if stride == 1 else _halve(x.mask)
  maps = convolve(values.reshape(-1, *values.shape[2:]), kernel, stride=stride)
  return _Slices(maps.reshape(*mask.shape, *maps.shape[1:]), mask)


def _max_pool(x: _Slices) -> _Slices:
  """Takes the maximum over 3x3x3, two apart, of what is zero or more."""
  values = x.replaced(image_pooling.max_pool(x.flat)).values
  first, *others = _neighbours(values, 3, 2)
  return _Slices(functools.reduce(jnp.maximum, others, first), _halve(x.mask))


def _average_pool(x: _Slices) -> _Slices:
  """Averages over 2x2 places and the slices of a pair that there are."""
  values = x.replaced(image_pooling.average_pool(x.flat)).values
  _, first, second = _neighbours(values, 3, 2)
  _, here, next_one = _neighbours(x.mask.astype(values.dtype), 3, 2)
  count = jnp.maximum(here + next_one, 1)[..., None, None, None]
  return _Slices((first + second) / count, _halve(x.mask))


def _neighbours(x: jax.Array, taps: int, stride: int) -> list[jax.Array]:
  """Returns, for every `stride`-th slice of [R,S,...], it and its neighbours.

  There are zeros beyond both ends.
  """
  half, length = taps // 2, x.shape[1]
  padding = [(0, 0), (half, half)] + [(0, 0)] * (x.ndim - 2)
  padded = jnp.pad(x, padding)
  return [padded[:, tap : tap + length : stride] for tap in range(taps)]


def _halve(mask: jax.Array) -> jax.Array:
  """Returns whether either slice of a pair is there."""
  _, first, second = _neighbours(mask, 3, 2)
  return first | second


def _one_group(averages: Any) -> Any:
  """Returns running averages as statistics of a single group."""
  return jax.tree.map(lambda a: a[None], averages)
