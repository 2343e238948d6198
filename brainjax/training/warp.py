"""Geometry of augmentation, without chance: maps, and one resampling.

A place is (row, column). A map f32[3,3] leads from a pixel of the outcome to
the place of the source that it is taken from, in homogeneous coordinates, in
units of the image's longer side and with the origin at the image's centre.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


def compose_map(
  *,
  angle: jax.Array,
  shear: jax.Array,
  scale: jax.Array,
  mirror: jax.Array,
  shift: jax.Array,
  tilt: jax.Array,
  window_side: jax.Array,
  window_centre: jax.Array,
) -> jax.Array:
  """Composes one map; a place goes through the arguments from last to first.

  Args:
    angle: f32[], radians.
    shear: f32[2], radians that columns and that rows lean by.
    scale: f32[2], how much larger things become along rows and columns.
    mirror: f32[], -1 to exchange left and right, else 1.
    shift: f32[2], of the source.
    tilt: f32[2], relative change of scale from the centre to the lower and to
      the right edge: a perspective.
    window_side: f32[], of the window that is cut out and shown at full size.
    window_centre: f32[2].

  Returns:
    f32[3,3].
  """
  one, zero = jnp.ones(()), jnp.zeros(())
  cosine, sine = jnp.cos(angle), jnp.sin(angle)
  lean = jnp.tan(shear)

  def matrix(*entries):
    return jnp.array(entries, jnp.float32).reshape(3, 3)

  moved = matrix(
    *(cosine, -sine, shift[0]), *(sine, cosine, shift[1]), *(zero, zero, one)
  )
  sheared = matrix(*(one, lean[0], zero), *(lean[1], one, zero), 0, 0, 1)
  scaled = matrix(
    *(1 / scale[0], zero, zero), *(zero, mirror / scale[1], zero), 0, 0, 1
  )
  tilted = matrix(1, 0, 0, 0, 1, 0, 2 * tilt[0], 2 * tilt[1], 1)
  window = matrix(
    *(window_side, zero, window_centre[0]),
    *(zero, window_side, window_centre[1]),
    *(zero, zero, one),
  )
  # Not at the precision of an accelerator's matrix units: at 16 bits a pixel
  # would be sought half a pixel away.
  multiply = functools.partial(jnp.matmul, precision="highest")
  return functools.reduce(multiply, (moved, sheared, scaled, tilted, window))


def source_coordinates(maps: jax.Array, height: int, width: int) -> jax.Array:
  """Says where each pixel of the outcome is taken from.

  Args:
    maps: f32[B,3,3].
    height: H, pixels.
    width: W, pixels.

  Returns:
    f32[B,2,H,W] rows and columns of the source, pixels; exact for the identity
    and its mirror image.
  """
  side = max(height, width)
  units = np.array([side, side, 1], np.float32)
  maps = maps * units[None, :, None] / units[None, None, :]
  maps = maps[..., None, None]
  centre = (height - 1) / 2, (width - 1) / 2
  rows = (jnp.arange(height) - centre[0])[None, :, None]
  columns = (jnp.arange(width) - centre[1])[None, None, :]
  row, column, depth = (
    maps[:, i, 0] * rows + maps[:, i, 1] * columns + maps[:, i, 2]
    for i in range(3)
  )
  return jnp.stack([row / depth + centre[0], column / depth + centre[1]], 1)


def field_margin(sigma: float) -> int:
  """Returns how far beyond the image `smooth_field` wants noise, pixels."""
  return math.ceil(3 * sigma)


def smooth_field(noise: jax.Array, sigma: float) -> jax.Array:
  """Smooths white noise by a Gaussian, and leaves its variance as it was.

  Args:
    noise: f32[...,H+2M,W+2M], M being `field_margin(sigma)`.
    sigma: Standard deviation of the Gaussian, pixels. Static.

  Returns:
    f32[...,H,W].

  Source: Simard, Steinkraus and Platt 2003, ICDAR, section 2.
  Differs: noise is normal, and drawn beyond the image, so that a field is as
  strong at an edge as in the middle.
  """
  margin = field_margin(sigma)
  taps = np.exp(-np.square(np.arange(-margin, margin + 1) / sigma) / 2)
  taps /= np.sqrt(np.square(taps).sum())

  def kernel(size):
    """Returns f32[size,size+2M], a convolution as a matrix."""
    matrix = np.zeros((size, size + 2 * margin), np.float32)
    for i in range(size):
      matrix[i, i : i + len(taps)] = taps
    return matrix

  height, width = (size - 2 * margin for size in noise.shape[-2:])
  return jnp.einsum("hi,...ij,wj->...hw", kernel(height), noise, kernel(width))


def sample_slices(
  slices: jax.Array, coordinates: jax.Array, rows: jax.Array
) -> jax.Array:
  """Resamples slices bilinearly, each along its scan's map; outside is 0.

  Args:
    slices: f[N,H,W,C].
    coordinates: f32[B,2,H,W] of `source_coordinates`.
    rows: i32[N], whose map a slice takes.

  Returns:
    f[N,H,W,C].
  """
  _, height, width, channels = slices.shape
  # A frame of zeros: what lies further out is moved onto it.
  framed = jnp.pad(slices, ((0, 0), (1, 1), (1, 1), (0, 0)))
  stride = width + 2

  def sample(image, place):
    pixels = image.reshape(-1, channels)
    row = jnp.clip(place[0], -1, height)
    column = jnp.clip(place[1], -1, width)
    above = jnp.minimum(jnp.floor(row), height - 1)
    left = jnp.minimum(jnp.floor(column), width - 1)
    corner = ((above + 1) * stride + left + 1).astype(jnp.int32)
    down = (row - above).astype(image.dtype)[..., None]
    right = (column - left).astype(image.dtype)[..., None]

    def pixel(offset):
      return pixels.at[corner + offset].get(mode="clip")

    top = (1 - right) * pixel(0) + right * pixel(1)
    bottom = (1 - right) * pixel(stride) + right * pixel(stride + 1)
    return (1 - down) * top + down * bottom

  return jax.vmap(sample)(framed, coordinates[rows])


def coverage(coordinates: jax.Array) -> jax.Array:
  """Returns f32[B,H,W], the part of each sample that lies on the image.

  Args:
    coordinates: f32[B,2,H,W] of `source_coordinates`.
  """
  sizes = np.array(coordinates.shape[2:], np.float32)[None, :, None, None]
  inside = jnp.minimum(coordinates + 1, sizes - coordinates)
  return jnp.prod(jnp.clip(inside, 0, 1), axis=1)
