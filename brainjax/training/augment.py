"""Random flips and small in-plane affine maps, on the device.

One draw a scan, applied to all its slices; the draw is a pure function of
(key of the step, record index), so neither the batch nor the devices matter.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class AugmentRanges:
  """Ranges of the random draw.

  Attributes:
    flip: Mirror left-right with probability one half.
    rotation_degrees: Uniform in +-, in-plane.
    scale: Uniform in 1 +- scale, isotropic in-plane.
    translation: Uniform in +-, as a fraction of the image's side.
  """

  flip: bool
  rotation_degrees: float
  scale: float
  translation: float


def draw_maps(
  key: jax.Array, record_index: jax.Array, ranges: AugmentRanges
) -> jax.Array:
  """Draws one affine map a scan, from output to input pixels.

  Args:
    key: Key of the step.
    record_index: i32[...] identifies the scan.
    ranges: Of the draw. Static.

  Returns:
    f32[...,2,3] acting on (row, column, 1) in units of the image's longer side,
    with the origin at the image's centre.
  """
  flat = jax.vmap(
    lambda index: _draw_map(jax.random.fold_in(key, index), ranges)
  )
  maps = flat(record_index.reshape(-1))
  return maps.reshape(*record_index.shape, 2, 3)


def warp_slices(slices: jax.Array, maps: jax.Array) -> jax.Array:
  """Resamples each slice bilinearly; outside the image is 0.

  Args:
    slices: f[N,H,W,C].
    maps: f32[N,2,3] of `draw_maps`.

  Returns:
    f[N,H,W,C].
  """
  _, height, width, _ = slices.shape
  side = max(height, width)
  rows = (jnp.arange(height) - (height - 1) / 2) / side
  columns = (jnp.arange(width) - (width - 1) / 2) / side
  target = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)
  source = jnp.einsum("nij,hwj->nhwi", maps[:, :, :2], target)
  source = (source + maps[:, None, None, :, 2]) * side
  centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
  source = source + centre[None, None, None]
  return jax.vmap(_sample_bilinear)(slices, source)


def _draw_map(key: jax.Array, ranges: AugmentRanges) -> jax.Array:
  keys = jax.random.split(key, 4)

  def signed(k, shape=()):
    return jax.random.uniform(k, shape, minval=-1, maxval=1)

  angle = jnp.deg2rad(ranges.rotation_degrees) * signed(keys[0])
  zoom = 1 + ranges.scale * signed(keys[1])
  shift = ranges.translation * signed(keys[2], (2,))
  flip = ranges.flip & jax.random.bernoulli(keys[3])
  mirror = jnp.where(flip, -1.0, 1.0)
  cosine, sine = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
  return jnp.array(
    [
      [cosine, -sine * mirror, shift[0]],
      [sine, cosine * mirror, shift[1]],
    ]
  )


def _sample_bilinear(image: jax.Array, source: jax.Array) -> jax.Array:
  height, width, channels = image.shape
  flat = image.reshape(height * width, channels)
  low = jnp.floor(source).astype(jnp.int32)
  fraction = (source - low).astype(image.dtype)
  total = jnp.zeros_like(image)
  for down in (0, 1):
    for right in (0, 1):
      row, column = low[..., 0] + down, low[..., 1] + right
      inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
      weight = jnp.abs(1 - down - fraction[..., 0])
      weight = weight * jnp.abs(1 - right - fraction[..., 1])
      index = jnp.clip(row, 0, height - 1) * width
      index = index + jnp.clip(column, 0, width - 1)
      total += jnp.where(inside, weight, 0)[..., None] * flat[index]
  return total
