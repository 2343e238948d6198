"""Attention by distance, in the plane and along the slices, and its controls.

A module of `IN_PLANE` weighs the places of the encoder's last feature map

    (maps f[N,h,w,C], slices f[N,H,W,C'], weight f[N]) -> (maps, weights)

where `slices` is what the encoder was given: its background is exactly 0, so
it tells where the brain is. Slices of weight 0 are filler; what they hold
changes nothing, and they come out as zeros. `weights` are arrays by name:

    in_plane         f[N,h,w], what each place was multiplied by
    in_plane_offset  f[N,2], rows and columns from the brain's centre to the
                     centre of attention, pixels of the input

A module that has no such thing leaves it out. `SliceAttention` weighs the
slices of a scan. All of them change nothing at initialisation, and compute in
at least f32 whatever the dtype of the maps is.

Modules of `IN_PLANE` have about equal size, so that they can be compared: with
C = 1024 channels (93), distance has 4110 (386) parameters, distance_fixed 4105
(381), se 4097 (373), cbam 4115 (391), coordconv 4102 (378).
"""

import math
import types
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models.pooling import masked_softmax

_SIGMA = 0.25  # of distance_fixed, in radii of the brain
_SLICE_SIGMA_MM = 30.0  # at the start; a brain is about 130 mm high
Weights = dict[str, jax.Array]


class Distance(nn.Module):
  """Weighs a place by its distances from the tumour and from the brain.

  Where the tumour is, is found softly: its centre c_t is the mean place under
  a softmax of scores. With c_b the centre of the brain, and distances in units
  of its radius, half the diagonal of its box,

      A(p) = sigmoid(w0 + w1 d_t + w2 d_t^2 + w3 d_b + w4 |c_t - c_b|)
      F'(p) = F(p) (1 + gamma A(p)),  d_t = |p - c_t|,  d_b = |p - c_b|.

  Attributes:
    hidden: Features that the scores are found from.

  Source: the idea of Ranjbarzadeh et al. 2021, Sci Rep 11:10930.
  Differs: the equations are ours.
  """

  hidden: int = 4

  @nn.compact
  def __call__(
    self, maps: jax.Array, slices: jax.Array, weight: jax.Array
  ) -> tuple[jax.Array, Weights]:
    """Returns the weighed maps, and both weights; see the module."""
    x = _valid(maps, weight)
    place, radius = brain_offsets(slices, x)
    scores = jnp.tanh(nn.Dense(self.hidden, name="hidden")(x))
    # A bias would shift all scores, which changes no weight.
    scores = nn.Dense(1, use_bias=False, name="score")(scores)[..., 0]
    soft = nn.softmax(scores, (1, 2))[..., None]
    # Sums and not matrix products, which are less than f32 on some devices.
    centre = (soft * place).sum((1, 2))
    to_tumour = _length(place - centre[:, None, None])
    between = _length(centre)[:, None, None]
    attention = self._weigh(to_tumour, _length(place), between)
    factor = 1 + self.param("gamma", nn.initializers.zeros, ()) * attention
    valid = weight > 0
    return (x * factor[..., None]).astype(maps.dtype), {
      "in_plane": jnp.where(valid[:, None, None], factor, 0),
      "in_plane_offset": jnp.where(valid[:, None], centre * radius[:, None], 0),
    }

  def _weigh(
    self, to_tumour: jax.Array, to_brain: jax.Array, between: jax.Array
  ) -> jax.Array:
    """Returns A, f[N,h,w]; `between` is f[N,1,1]."""
    # Falls with the distance from the tumour, or no gradient would reach the
    # scores at first.
    start = nn.initializers.constant(jnp.array([0.0, -1.0, 0.0, 0.0, 0.0]))
    w = self.param("distance_weights", start, (5,))
    near = w[1] * to_tumour + w[2] * jnp.square(to_tumour)
    return nn.sigmoid(w[0] + near + w[3] * to_brain + w[4] * between)


class FixedDistance(Distance):
  """`Distance` with A(p) = exp(-d_t^2 / (2 sigma^2)), sigma = 0.25 radii."""

  def _weigh(
    self, to_tumour: jax.Array, to_brain: jax.Array, between: jax.Array
  ) -> jax.Array:
    del to_brain, between
    return jnp.exp(-jnp.square(to_tumour) / (2 * _SIGMA**2))


class SqueezeExcitation(nn.Module):
  """Weighs channels by what they are on average.

  Attributes:
    hidden: Features between the two layers.

  Source: Hu et al. 2018, arXiv:1709.01507, equations 2 to 4.
  Differs: F (1 + gamma s) instead of F s, which would not begin as identity;
    tanh instead of ReLU.
  """

  hidden: int = 2

  @nn.compact
  def __call__(
    self, maps: jax.Array, slices: jax.Array, weight: jax.Array
  ) -> tuple[jax.Array, Weights]:
    """Returns the weighed maps; a place has no weight."""
    del slices
    x = _valid(maps, weight)
    gate = nn.sigmoid(_bottleneck(self.hidden, x.shape[-1])(x.mean((1, 2))))
    gate = 1 + self.param("gamma", nn.initializers.zeros, ()) * gate
    return (x * gate[:, None, None]).astype(maps.dtype), {}


class CBAM(nn.Module):
  """Weighs channels, then places; "in_plane" is the mean over channels.

  Attributes:
    hidden: Features between the two layers that weigh channels.

  Source: Woo et al. 2018, arXiv:1807.06521, equations 2 and 3.
  Differs: F (1 + gamma Mc Ms) instead of F Mc Ms; tanh instead of ReLU; a 3x3
    kernel instead of 7x7, which would be larger than the map.
  """

  hidden: int = 2

  @nn.compact
  def __call__(
    self, maps: jax.Array, slices: jax.Array, weight: jax.Array
  ) -> tuple[jax.Array, Weights]:
    """Returns the weighed maps, and "in_plane"."""
    del slices
    x = _valid(maps, weight)
    shared = _bottleneck(self.hidden, x.shape[-1])
    channels = nn.sigmoid(shared(x.mean((1, 2))) + shared(x.max((1, 2))))
    y = x * channels[:, None, None]
    spatial = nn.Conv(1, (3, 3), use_bias=False, name="spatial")
    places = nn.sigmoid(spatial(jnp.stack([y.mean(-1), y.max(-1)], -1)))
    gamma = self.param("gamma", nn.initializers.zeros, ())
    factor = 1 + gamma * channels.mean(-1)[:, None, None] * places[..., 0]
    return (x + gamma * y * places).astype(maps.dtype), {
      "in_plane": jnp.where(weight[:, None, None] > 0, factor, 0)
    }


class CoordConv(nn.Module):
  """Adds what two 1x1 convolutions make of the maps and of where they are.

  Attributes:
    hidden: Features between the two convolutions.

  Source: Liu et al. 2018, arXiv:1807.03247, with the third channel r.
  Differs: coordinates are those that `Distance` has, of the brain and not of
    the image; residual, so that it begins as identity.
  """

  hidden: int = 2

  @nn.compact
  def __call__(
    self, maps: jax.Array, slices: jax.Array, weight: jax.Array
  ) -> tuple[jax.Array, Weights]:
    """Returns the maps with that added; a place has no weight."""
    x = _valid(maps, weight)
    place, _ = brain_offsets(slices, x)
    y = jnp.concatenate([x, place, _length(place)[..., None]], -1)
    add = _bottleneck(self.hidden, x.shape[-1], nn.initializers.zeros)
    return _valid(x + add(y), weight).astype(maps.dtype), {}


IN_PLANE: Mapping[str, type[nn.Module]] = types.MappingProxyType(
  {
    "distance": Distance,
    "distance_fixed": FixedDistance,
    "se": SqueezeExcitation,
    "cbam": CBAM,
    "coordconv": CoordConv,
  }
)


class SliceAttention(nn.Module):
  """Weighs a slice by its distance from where the scores say to look.

  With scores q_t of the slices and t* = sum_t softmax(q)_t t, in millimetres,

      w_t = exp(-(t - t*)^2 / (2 sigma^2)),  z'_t = z_t (1 + gamma (w_t - 1)).

  Source: `Distance`, along the slice axis.
  """

  @nn.compact
  def __call__(
    self, z: jax.Array, mask: jax.Array, positions_mm: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Weighs the slices of every row.

    Args:
      z: f[B,S,D] slice embeddings.
      mask: bool[B,S], True where a slice is; the others change nothing.
      positions_mm: f[B,S] along the slice axis, millimetres.

    Returns:
      f[B,S,D] embeddings in the dtype of z, and f[B,S] what each slice was
      multiplied by; both are 0 where there is no slice.
    """
    dtype = jnp.promote_types(z.dtype, jnp.float32)
    x = jnp.where(mask[..., None], z, 0).astype(dtype)
    place = jnp.where(mask, positions_mm, 0).astype(x.dtype)
    scores = nn.Dense(1, use_bias=False, name="score")(x)[..., 0]
    centre = (masked_softmax(scores, mask) * place).sum(1, keepdims=True)
    # Its logarithm is what is learned: sigma stays positive.
    start = nn.initializers.constant(math.log(_SLICE_SIGMA_MM))
    log_sigma = self.param("log_sigma_mm", start, ())
    distance = (place - centre) * jnp.exp(-log_sigma)
    gamma = self.param("gamma", nn.initializers.zeros, ())
    less = jnp.expm1(-jnp.square(distance) / 2)  # w_t - 1
    factor = jnp.where(mask, 1 + gamma * less, 0)
    return (x * factor[..., None]).astype(z.dtype), factor


def brain_offsets(
  slices: jax.Array, maps: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Says where the cells of a map lie in the brain of each slice.

  Args:
    slices: f[N,H,W,C] intensities, exactly 0 outside the brain. A slice
      without brain counts as full of it.
    maps: f[N,h,w,C], of which only shape and dtype matter. Its cells are taken
      to divide the image evenly, which holds to 2 pixels where the sides are
      multiples of 32 (128, 224), and else to half a cell.

  Returns:
    f[N,h,w,2], rows and columns from the brain's centroid to the cells'
    centres, in radii; and the radius f[N], half the diagonal of the brain's
    box, in pixels.
  """
  brain = (slices != 0).any(-1)
  brain |= ~brain.any((1, 2), keepdims=True)
  offsets, sides = [], []
  for axis, num_cells in enumerate(maps.shape[1:3], start=1):
    num_pixels = brain.shape[axis]
    counts = brain.sum(3 - axis).astype(maps.dtype)
    pixels = jnp.arange(num_pixels, dtype=maps.dtype)
    centre = (counts * pixels[None]).sum(1) / counts.sum(1)
    step = num_pixels / num_cells
    cells = (jnp.arange(num_cells, dtype=maps.dtype) + 0.5) * step - 0.5
    offsets.append(cells[None] - centre[:, None])
    inside = counts > 0
    sides.append(num_pixels - inside.argmax(1) - inside[:, ::-1].argmax(1))
  radius = jnp.hypot(*[side.astype(maps.dtype) for side in sides]) / 2
  rows, columns = offsets
  rows, columns = jnp.broadcast_arrays(rows[:, :, None], columns[:, None])
  offsets = jnp.stack([rows, columns], -1) / radius[:, None, None, None]
  return offsets, radius


def _valid(maps: jax.Array, weight: jax.Array) -> jax.Array:
  """Returns f[N,h,w,C] in at least f32, zeros where the weight is 0."""
  maps = jnp.where(weight[:, None, None, None] > 0, maps, 0)
  return maps.astype(jnp.promote_types(maps.dtype, jnp.float32))


def _length(vectors: jax.Array) -> jax.Array:
  """Length of f[...,2]; its gradient at 0 is 0, and not NaN."""
  squares = jnp.square(vectors).sum(-1)
  some = squares > 0
  return jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0)


def _bottleneck(
  hidden: int,
  features: int,
  init: nn.initializers.Initializer = nn.linear.default_kernel_init,
) -> nn.Sequential:
  """Two layers without biases; `init` is the last's."""
  # With tanh between them, since all of so few ReLUs are often dead.
  return nn.Sequential(
    [
      nn.Dense(hidden, use_bias=False, name="reduce"),
      jnp.tanh,
      nn.Dense(features, use_bias=False, kernel_init=init, name="expand"),
    ]
  )
