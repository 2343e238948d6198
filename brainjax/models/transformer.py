"""The attentive sequence head: every slice attends to every other."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models.pooling import masked_mean, masked_softmax

# Of the sinusoids that tell a position, millimetres. The shortest still tells
# slices 5 mm apart; a quarter of the longest spans half a head, so that no two
# places of a brain look alike.
SHORTEST_WAVELENGTH_MM = 10.0
LONGEST_WAVELENGTH_MM = 400.0
_FEEDFORWARD_RATIO = 2  # features of the hidden layer, in features of the model


class Transformer(nn.Module):
  """Transformer encoder whose features are averaged over the valid slices.

  A slice is told by where it lies in the brain and not by its index, so that
  the spacing of a scan does not matter. The weights of each layer,
  f[B,num_heads,S,S] (from slice, to slice), are sown as "attention" in
  "intermediates".

  Attributes:
    head_size: Features of an attention head; the model has num_heads times
      as many, F.
    num_heads: Attention heads.
    num_layers: Layers.

  Source: Vaswani et al. 2017, arXiv:1706.03762, normalised before each part
    as in Xiong et al. 2020, arXiv:2002.04745.
  Differs: positions in millimetres; no bias in queries, keys and values.
  """

  head_size: int
  num_heads: int
  num_layers: int

  def __post_init__(self):
    for field in ("num_heads", "num_layers"):
      if getattr(self, field) < 1:
        raise ValueError(f"{field} is {getattr(self, field)}; at least 1")
    super().__post_init__()

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
    del train
    features = self.num_heads * self.head_size
    z = jnp.where(mask[..., None], z, 0)
    positions_mm = jnp.where(mask, positions_mm, 0)
    x = nn.Dense(features, name="embed")(z)
    x += position_features(positions_mm, features)
    for i in range(1, self.num_layers + 1):
      y = nn.LayerNorm(name=f"layer{i}_norm1")(x)
      x += self._attend(y, mask, f"layer{i}")
      y = nn.LayerNorm(name=f"layer{i}_norm2")(x)
      y = nn.Dense(_FEEDFORWARD_RATIO * features, name=f"layer{i}_dense1")(y)
      y = nn.gelu(y, approximate=False)
      x += nn.Dense(features, name=f"layer{i}_dense2")(y)
    return masked_mean(nn.LayerNorm(name="norm_last")(x), mask)

  def _attend(self, x: jax.Array, mask: jax.Array, name: str) -> jax.Array:
    """Attention of f[B,S,F] among the valid slices."""
    features = x.shape[-1]
    qkv = nn.Dense(3 * features, use_bias=False, name=f"{name}_qkv")(x)
    qkv = qkv.reshape(*x.shape[:2], 3, self.num_heads, self.head_size)
    query, key, value = jnp.moveaxis(qkv, 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    scores /= math.sqrt(self.head_size)
    weights = masked_softmax(scores, mask[:, None, None])
    self.sow("intermediates", "attention", weights)
    x = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return nn.Dense(features, name=f"{name}_out")(x.reshape(*x.shape[:2], -1))


def position_features(positions_mm: jax.Array, features: int) -> jax.Array:
  """Returns f[B,S,features], sines and then cosines of f[B,S] millimetres.

  Wavelengths grow geometrically from the shortest to the longest.
  """
  count = -(-features // 2)
  wavelengths = jnp.geomspace(
    SHORTEST_WAVELENGTH_MM, LONGEST_WAVELENGTH_MM, count
  )
  angles = 2 * jnp.pi * positions_mm[..., None] / wavelengths[None, None]
  waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
  return waves[..., :features]
