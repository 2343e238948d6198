"""The slice encoder: one 2-D DenseNet-BC over every slice of a batch."""

import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from brainjax.models import batch_norm, image_pooling
from brainjax.models import dense_block as block

PRESETS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    "densenet121": types.MappingProxyType(
      {
        "growth_rate": 32,
        "block_config": (6, 12, 24, 16),
        "num_init_features": 64,
      }
    ),
    "densenet169": types.MappingProxyType(
      {
        "growth_rate": 32,
        "block_config": (6, 12, 32, 32),
        "num_init_features": 64,
      }
    ),
    "densenet201": types.MappingProxyType(
      {
        "growth_rate": 32,
        "block_config": (6, 12, 48, 32),
        "num_init_features": 64,
      }
    ),
    "densenet161": types.MappingProxyType(
      {
        "growth_rate": 48,
        "block_config": (6, 12, 36, 24),
        "num_init_features": 96,
      }
    ),
    "small": types.MappingProxyType(
      {
        "growth_rate": 16,
        "block_config": (6, 12, 24, 16),
        "num_init_features": 32,
      }
    ),
    "tiny": types.MappingProxyType(
      {
        "growth_rate": 12,
        "block_config": (4, 4, 4, 4),
        "num_init_features": 24,
      }
    ),
    "micro": types.MappingProxyType(
      {"growth_rate": 8, "block_config": (2, 1), "num_init_features": 8}
    ),
  }
)
_BOTTLENECK_WIDTH = 4  # channels of a 1x1 convolution, in growth rates
_COMPRESSION = 0.5  # channels a transition keeps


class DenseNet(nn.Module):
  """DenseNet-BC without its classifier.

  The parameter tree has torchvision's names, so its weights can be loaded:
  `conv0 norm0 denseblock1/denselayer1/{norm1,conv1,norm2,conv2} ...
  transition1/{norm,conv} ... norm5`.

  Attributes:
    growth_rate: Channels a layer appends.
    block_config: Layers of each block.
    num_init_features: Channels of the stem.
    dtype: Of the computation; statistics and the embedding are at least f32.
    param_dtype: Of the parameters and the running averages.
    residuals: What a dense block keeps for its backward pass, "fast" or
      "small"; see `dense_block.py`.
    axis_name: Of a mapped axis (pmap, shard_map) that shares its batch
      statistics.

  Source: Huang et al. 2017, arXiv:1608.06993, Table 1.
  Differs: statistics are computed once per channel, and a transition pools
    before its 1x1 convolution, which commutes and costs a quarter.
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
    return embedding_size(
      self.growth_rate, self.block_config, self.num_init_features
    )

  def map_size(self, height: int, width: int) -> tuple[int, int]:
    """Size of the last feature map, of slices of this size in pixels."""
    for _ in range(2):  # the stem and the max-pooling round up
      height, width = -(-height // 2), -(-width // 2)
    halvings = len(self.block_config) - 1  # transitions round down
    return height >> halvings, width >> halvings

  def __call__(
    self, slices: jax.Array, weight: jax.Array, *, groups: int, train: bool
  ) -> jax.Array:
    """Embeds every slice.

    Args:
      slices: See `feature_maps`, as for the others.
      weight: f[N].
      groups: Static.
      train: Static.

    Returns:
      f32[N,D] embeddings, the means over "norm5"; rows of weight 0 are zero.
    """
    maps = self.feature_maps(slices, weight, groups=groups, train=train)
    return pool_maps(maps["norm5"])

  @nn.compact
  def feature_maps(
    self, slices: jax.Array, weight: jax.Array, *, groups: int, train: bool
  ) -> dict[str, jax.Array]:
    """Describes every slice, place by place.

    Args:
      slices: f[N,H,W,C] intensities.
      weight: f[N], 0 for filler slices, whose content changes nothing.
      groups: Batch statistics are shared within each of this many runs of
        N / groups slices; only for `train`. Static.
      train: Use and record batch statistics. Static: a change recompiles.

    Returns:
      f[N,h,w,c] by name: "denseblock1", ..., what each block hands on, and
      "norm5", normalised and rectified, of D channels; zero where the weight
      is 0.

    Raises:
      ValueError: N is not a multiple of `groups`, or slices are too small.
    """
    num_slices, height, width, channels = slices.shape
    if num_slices % groups:
      raise ValueError(
        f"{num_slices} slices do not divide into {groups} groups"
      )
    check_size(height, width, len(self.block_config))
    dtype, features = self.param_dtype, self.num_init_features
    running: dict[str, nn.Variable] = {}
    statistics: dict[str, Any] = {}
    maps: dict[str, jax.Array] = {}

    def norm_params(name: str, init: Callable[..., Any], *args: Any) -> Any:
      """Declares parameters with norms, and their running averages."""
      params = self.param(name, init, *args, dtype)
      averages = self.variable("batch_stats", name, init_running, params)
      running[name] = averages
      if not train:
        statistics[name] = jax.tree.map(lambda a: a[None], averages.value)
      return params

    # Masked here, filler cannot reach the gradient of a kernel either.
    x = jnp.where(weight[:, None, None, None] > 0, slices, 0)
    conv0 = self.param("conv0", init_conv, (7, 7, channels, features), dtype)
    x = block.convolve(x.astype(self.dtype), conv0["kernel"], stride=2)
    norm0 = norm_params("norm0", init_norm, features)
    if train:
      batch = batch_norm.batch_statistics(
        x, weight, groups=groups, axis_name=self.axis_name
      )
      statistics["norm0"] = batch
    x = batch_norm.normalise(x, statistics["norm0"], norm0, weight)
    x = image_pooling.max_pool(x)
    last = len(self.block_config)
    for b, num_layers in enumerate(self.block_config, 1):
      name = f"denseblock{b}"
      layers = norm_params(
        name, init_block, features, num_layers, self.growth_rate
      )
      names = [f"denselayer{i}" for i in range(1, num_layers + 1)]
      ordered = [layers[layer] for layer in names]
      if train:
        x, batch, seen = block.dense_block(
          x,
          ordered,
          weight,
          groups=groups,
          residuals=self.residuals,
          axis_name=self.axis_name,
        )
        statistics[name] = dict(zip(names, seen, strict=True))
      else:
        given = [statistics[name][layer] for layer in names]
        x = block.dense_block_inference(x, ordered, given, weight)
      maps[name] = x
      features = x.shape[-1]
      if b < last:
        name = f"transition{b}"
        transition = norm_params(name, init_transition, features)
        if train:
          statistics[name] = {"norm": batch}
        x = batch_norm.normalise(
          x, statistics[name]["norm"], transition["norm"], weight
        )
        x = image_pooling.average_pool(x)
        x = block.convolve(x, transition["conv"]["kernel"])
        features = x.shape[-1]
    norm5 = norm_params("norm5", init_norm, features)
    if train:
      statistics["norm5"] = batch
    maps["norm5"] = batch_norm.normalise(x, statistics["norm5"], norm5, weight)
    if train and not self.is_initializing():
      for name, averages in running.items():
        averages.value = batch_norm.update_running(
          averages.value, statistics[name], weight
        )
    return maps


def check_size(height: int, width: int, num_blocks: int) -> None:
  """Raises `ValueError` if a block would be left without a pixel."""
  smallest = 2 ** (num_blocks + 1)
  if min(height, width) < smallest:
    raise ValueError(
      f"slices of {height}x{width} pixels are too small for"
      f" {num_blocks} blocks; use at least {smallest}"
    )


def embedding_size(
  growth_rate: int, block_config: tuple[int, ...], num_init_features: int
) -> int:
  """Returns D, the channels of the last feature map."""
  features = num_init_features
  for b, num_layers in enumerate(block_config, 1):
    features += num_layers * growth_rate
    if b < len(block_config):
      features = int(features * _COMPRESSION)
  return features


def pool_maps(maps: jax.Array) -> jax.Array:
  """Averages f[N,h,w,D] over places, into at least f32[N,D]."""
  return maps.mean((1, 2), dtype=jnp.promote_types(maps.dtype, jnp.float32))


def _init_kernels(key, shapes, dtype):
  """Draws Kaiming-normal kernels (He et al. 2015, equation 10).

  All come from one draw: compiling a draw for each of a hundred kernels takes
  most of a minute.
  """
  ends = np.cumsum([math.prod(shape) for shape in shapes])
  draws = jnp.split(jax.random.normal(key, (ends[-1],), dtype), ends[:-1])
  return [
    {"kernel": draw.reshape(shape) * math.sqrt(2 / math.prod(shape[:-1]))}
    for draw, shape in zip(draws, shapes, strict=True)
  ]


def init_conv(
  key: jax.Array, shape: tuple[int, ...], dtype: Any
) -> dict[str, jax.Array]:
  """Draws the `{"kernel"}` of a convolution, Kaiming-normal."""
  return _init_kernels(key, [shape], dtype)[0]


def init_norm(
  key: jax.Array | None, features: int, dtype: Any
) -> dict[str, jax.Array]:
  """Returns the `{"scale", "bias"}` of a norm that changes nothing."""
  del key
  return {
    "scale": jnp.ones(features, dtype),
    "bias": jnp.zeros(features, dtype),
  }


def init_block(
  key: jax.Array,
  features: int,
  num_layers: int,
  growth_rate: int,
  dtype: Any,
  size: tuple[int, ...] = (3, 3),
) -> dict[str, Any]:
  """Draws the layers of a block; `size` is of the larger kernels, in pixels."""
  width = _BOTTLENECK_WIDTH * growth_rate
  inputs = [features + i * growth_rate for i in range(num_layers)]
  shapes = [(1, 1, size, width) for size in inputs]
  shapes += [(*size, width, growth_rate)] * num_layers
  kernels = _init_kernels(key, shapes, dtype)
  return {
    f"denselayer{i + 1}": {
      "norm1": init_norm(None, inputs[i], dtype),
      "conv1": kernels[i],
      "norm2": init_norm(None, width, dtype),
      "conv2": kernels[num_layers + i],
    }
    for i in range(num_layers)
  }


def init_transition(
  key: jax.Array, features: int, dtype: Any
) -> dict[str, Any]:
  """Draws the norm and the 1x1 convolution of a transition."""
  outputs = int(features * _COMPRESSION)
  return {
    "norm": init_norm(None, features, dtype),
    "conv": init_conv(key, (1, 1, features, outputs), dtype),
  }


def init_running(params):
  """Returns `{"mean", "var"}` for each norm of a tree of parameters."""
  if "scale" in params:
    zeros = jnp.zeros_like(params["scale"])
    return {"mean": zeros, "var": zeros + 1}
  return {
    name: init_running(child)
    for name, child in params.items()
    if "kernel" not in child
  }
