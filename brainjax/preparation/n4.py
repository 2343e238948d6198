"""N4 on arrays, in JAX: for CPU cores and accelerators, many volumes at once.

On a regular grid ITK's fit of a B-spline to scattered points is separable: its
sums over the voxels are a small matrix product along each axis. All of them
are over voxels of the mask alone, so the box around it may be padded.

Source: Tustison et al. 2010, IEEE Trans. Med. Imaging 29:1310; Sled et al.
  1998, IEEE Trans. Med. Imaging 17:87 (the sharpening); Lee et al. 1997, IEEE
  Trans. Vis. Comput. Graph. 3:228 (the fit). It follows ITK 5.4, N4BiasField-
  CorrectionImageFilter, and where its loops in single precision decide what
  comes out, those too: log fields of real heads differ by 1e-6, by 5e-5 where
  ITK's own changes by 1e-4 with the unit of intensity.
"""

import contextlib
import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainjax.preparation.bias_field import ORDER, mesh_points, spline_basis

_BINS = 200  # of the histogram
_PADDED = 512  # as ITK pads it: twice the next power of two
_FWHM = 0.15  # of the log field's distribution
_WIENER_NOISE = 0.01
_NO_WEIGHT = 1.1920929e-8  # ITK takes it for zero: a tenth of f32's epsilon
_N3_PASSES = 8  # of the fit: a single one takes up a part of the field alone
_SHAPE_STEP = 8  # boxes are padded to multiples, so that few are compiled


class _Axis(NamedTuple):
  """What the fit needs along one axis, at each level; of numpy or jax.

  Attributes:
    basis: f32[L,n,M], the B-splines; rows of padding are zero.
    cubes: f32[L,n,M], their cubes over the sum of their squares at the voxel.
    refine: f32[L,M,M], a lattice -> the same field on the next level's mesh.
  """

  basis: Any
  cubes: Any
  refine: Any


class _Volumes(NamedTuple):
  """Padded boxes around the masks, of numpy or jax; all lead with V.

  Attributes:
    log: f32[V,x,y,z], log intensities.
    inside: bool[V,x,y,z], the mask.
    later: bool[V,x,y,z], the mask but for its first voxel.
    share: f32[V,x*y*z], one over the number of voxels of the mask up to this
      one; 0 outside. ITK's order: the first axis is the fastest.
    axes: Three, of the box.
  """

  log: Any
  inside: Any
  later: Any
  share: Any
  axes: tuple[_Axis, ...]


def on_cpu() -> contextlib.AbstractContextManager[Any]:
  """Fits on the CPU within, unless JAX_PLATFORMS names others alone."""
  platforms = os.environ.get("JAX_PLATFORMS")
  if platforms and "cpu" not in platforms.split(","):
    return contextlib.nullcontext()
  return jax.default_device(jax.local_devices(backend="cpu")[0])


def fit_lattices(
  images: Sequence[np.ndarray],
  masks: Sequence[np.ndarray],
  *,
  iterations: Sequence[int],
  tolerance: float,
  update: str = "n4",
) -> np.ndarray:
  """Estimates the log bias field of each image on its own grid.

  Args:
    images: f32[l,m,n] each, positive inside the mask.
    masks: bool[l,m,n] each, where the field is fitted; not empty.
    iterations: At most so many at each level; every level doubles the mesh.
    tolerance: Change of the field, as a coefficient of variation, at which a
      level ends.
    update: "n4" adds the spline of what the corrected image still holds of a
      field; "n3" takes the spline of all that the image itself holds, as Sled
      et al. did, but on the same meshes and without their penalty.

  Returns:
    f32[V,M,M,M] lattices, M = 2^(levels - 1) + 3, on meshes that span the
    centres of the outermost voxels of an image.
  """
  boxes = [_box(mask) for mask in masks]
  sizes = np.array([[s.stop - s.start for s in box] for box in boxes])
  shape = -(-sizes.max(0) // _SHAPE_STEP) * _SHAPE_STEP
  volumes = [
    _volume(*each, shape, len(iterations))
    for each in zip(images, masks, boxes, strict=True)
  ]
  lattices = _fit_all(
    jax.tree.map(lambda *arrays: np.stack(arrays), *volumes),
    np.asarray(iterations, np.int32),
    np.float32(tolerance),
    update,
  )
  return np.asarray(lattices)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
  """Returns the box around a mask."""
  indices = [np.flatnonzero(mask.any(a)) for a in ((1, 2), (0, 2), (0, 1))]
  return tuple(slice(int(i[0]), int(i[-1]) + 1) for i in indices)


def _volume(image, mask, box, shape, num_levels) -> _Volumes:
  """Returns one volume, without V."""
  part = tuple(slice(s.stop - s.start) for s in box)
  log, inside = np.zeros(shape, np.float32), np.zeros(shape, bool)
  inside[part] = mask[box]
  log[part] = np.log(np.where(mask[box], image[box], 1))
  ordered = inside.T.ravel()
  number = np.cumsum(ordered)
  share = np.where(ordered, 1 / np.maximum(number, 1), 0).astype(np.float32)
  # ITK's loop takes its first voxel for the brightest so far, and never for
  # the darkest.
  later = (ordered & (number > 1)).reshape(inside.T.shape).T
  axes = tuple(
    _axis(*each, num_levels)
    for each in zip(image.shape, box, shape, strict=True)
  )
  return _Volumes(log, inside, later, share, axes)


def _axis(length: int, box: slice, padded: int, num_levels: int) -> _Axis:
  """Returns the matrices of an axis of `length` voxels in all."""
  points = mesh_points(length)[box]
  largest = 2 ** (num_levels - 1) + ORDER
  basis = np.zeros((num_levels, padded, largest), np.float32)
  cubes = np.zeros_like(basis)
  refine = np.zeros((num_levels, largest, largest), np.float32)
  for level in range(num_levels):
    size = 2**level + ORDER
    matrix = spline_basis(points, length, size)
    squares = (matrix**2).sum(1, keepdims=True)
    basis[level, : len(points), :size] = matrix
    cubes[level, : len(points), :size] = matrix**3 / squares
    for i in range(min(2 * size - ORDER, largest)):
      weights = np.array([1, 6, 1] if i % 2 else [4, 4]) / 8
      refine[level, i, i // 2 : i // 2 + len(weights)] = weights
  refine[-1] = np.eye(largest)
  return _Axis(basis, cubes, refine)


@functools.partial(jax.jit, static_argnames="update")
def _fit_all(
  volumes: _Volumes,
  iterations: jax.Array,
  tolerance: jax.Array,
  update: str,
) -> jax.Array:
  """Returns f32[V,M,M,M], the lattices."""

  def fit(volume: _Volumes) -> jax.Array:
    return _fit(volume, iterations, tolerance, update)

  # Side by side all volumes take as long as the slowest, which pays where one
  # does not fill the device.
  if jax.default_backend() == "cpu":
    return jax.lax.map(fit, volumes)
  return jax.vmap(fit)(volumes)


def _fit(
  volume: _Volumes,
  iterations: jax.Array,
  tolerance: jax.Array,
  update: str,
) -> jax.Array:
  """Returns f32[M,M,M], the lattice of one volume."""
  log, inside, later, share, axes = volume
  mask = inside.astype(log.dtype)
  weight = _along_axes_at_levels(
    [jnp.swapaxes(axis.basis, 1, 2) ** 2 for axis in axes], mask
  )
  inverse = jnp.where(weight > _NO_WEIGHT, 1 / weight, 0)

  def step(state):
    level, iteration, lattice, field = state
    of_level = [jax.tree.map(lambda a: a[level], axis) for axis in axes]
    residual = _unsharpness(log - field, inside, later)

    def fitted(residual):
      return inverse[level] * _along_axes(
        [axis.cubes.T for axis in of_level], residual * mask
      )

    def evaluated(lattice):
      return _along_axes([axis.basis for axis in of_level], lattice)

    if update == "n3":
      held = residual + field  # all that the image holds of a field
      lattice = jax.lax.fori_loop(
        0,
        _N3_PASSES,
        lambda _, found: found + fitted(held - evaluated(found)),
        jnp.zeros_like(lattice),
      )
    else:
      lattice += fitted(residual)
    new_field = evaluated(lattice)
    ended = (iteration + 1 >= iterations[level]) | ~(
      _change(field, new_field, share) > tolerance
    )
    refined = _along_axes([axis.refine for axis in of_level], lattice)
    return (
      level + ended,
      jnp.where(ended, 0, iteration + 1),
      jnp.where(ended, refined, lattice),
      new_field,
    )

  start = (0, 0, jnp.zeros(weight.shape[1:], log.dtype), jnp.zeros_like(log))
  return jax.lax.while_loop(lambda s: s[0] < len(iterations), step, start)[2]


def _change(field: jax.Array, new: jax.Array, share: jax.Array) -> jax.Array:
  """Returns the coefficient of variation of the fields' ratio in the mask.

  Order matters: ITK keeps a running mean in single precision. After some
  10,000 voxels it hardly moves any more, which makes the coefficient wrong by
  several per cent, and decides when a level ends.

  Args:
    field: f32[x,y,z] log field.
    new: f32[x,y,z], its successor.
    share: f32[x*y*z], of each voxel in the mean up to it.
  """

  def add(running, voxel):
    mean, squares = running
    ratio, share, earlier = voxel
    away = ratio - mean
    return (mean + away * share, squares + away**2 * earlier), None

  inside = share > 0
  ratio = jnp.exp(field - new).T.ravel()
  (mean, squares), _ = jax.lax.scan(
    add,
    (jnp.zeros_like(share[0]),) * 2,
    (ratio, share, jnp.where(inside, 1 - share, 0)),
    unroll=8 if jax.default_backend() == "cpu" else 128,  # speed only
  )
  return jnp.sqrt(squares / (inside.sum() - 1)) / mean


def _unsharpness(
  image: jax.Array, inside: jax.Array, later: jax.Array
) -> jax.Array:
  """Returns log intensities less what they are expected to be without a field.

  Args:
    image: f32[x,y,z] log intensities.
    inside: bool[x,y,z], what counts; elsewhere the result means nothing.
    later: bool[x,y,z], what may be the darkest.

  Source: Sled et al. 1998, equations 10 to 12.
  """
  low = jnp.where(inside & later, image, jnp.inf).min()
  high = jnp.where(inside, image, -jnp.inf).max()
  # Behind the barrier, for XLA multiplies by the reciprocal of a constant.
  last = jax.lax.optimization_barrier(jnp.asarray(_BINS - 1, image.dtype))
  width = jnp.where(high > low, (high - low) / last, 1)
  # What is darker than the darkest ITK does not count, and takes for bright.
  below = image < low
  place = jnp.where(below, _BINS - 1, (image - low) / width).clip(0, _BINS - 1)
  lower = jnp.minimum(place.astype(jnp.int32), _BINS - 2)
  share = place - lower
  # The brightest ITK does not count where its place is rounded up.
  lost = below | ((image == high) & ((high - low) / width > last))
  histogram = _histogram(lower, share, inside & ~lost)

  def gaussian(steps):
    return jnp.exp(-4 * jnp.log(2.0) * (steps * (width / _FWHM)) ** 2)

  # Whatever it is scaled by cancels but in the response.
  scale = 2 * jnp.sqrt(jnp.log(2.0) / jnp.pi) * width / _FWHM
  ring = jnp.minimum(jnp.arange(_PADDED), _PADDED - jnp.arange(_PADDED))
  response = scale * jnp.fft.rfft(gaussian(ring)).real  # it is symmetric
  wiener = response / (response**2 + _WIENER_NOISE)
  offset = (_PADDED - _BINS) // 2
  padded = jnp.pad(histogram, (offset, _PADDED - _BINS - offset))
  sharp = jnp.fft.irfft(jnp.fft.rfft(padded) * wiener, _PADDED)
  sharp = jnp.maximum(sharp, 0)
  # The expectation is a mean over the sharp histogram with weights that are
  # positive. Summed one by one: through a Fourier transform, single precision
  # loses it where the histogram is small.
  away = jnp.arange(_PADDED)[None] - (jnp.arange(_BINS) + offset)[:, None]
  near = jnp.minimum(jnp.abs(away), _PADDED - jnp.abs(away))
  weights = gaussian(near) * sharp[None]
  total = weights.sum(1)
  moved = jnp.where(total > 0, (weights * away).sum(1) / total, 0) * width
  found = moved[lower] * (1 - share) + moved[lower + 1] * share
  return -found - jnp.where(below, high - image, 0)


def _histogram(
  lower: jax.Array, share: jax.Array, counts: jax.Array
) -> jax.Array:
  """Returns f32[_BINS]; a voxel is shared by two neighbouring bins."""
  index = jnp.stack([lower, lower + 1]).ravel()
  weight = jnp.stack([1 - share, share]) * counts[None]
  return jnp.zeros(_BINS, weight.dtype).at[index].add(weight.ravel())


def _along_axes(matrices: Sequence[jax.Array], array: jax.Array) -> jax.Array:
  """Applies a matrix f[n_i,m_i] along each axis i of f[m_0,m_1,m_2]."""
  for matrix in matrices:
    # It puts the axis last, so the next is first, and three restore the order.
    # Otherwise an accelerator multiplies with three digits.
    array = jnp.tensordot(array, matrix, ((0,), (1,)), precision="highest")
  return array


def _along_axes_at_levels(
  matrices: Sequence[jax.Array], array: jax.Array
) -> jax.Array:
  """`_along_axes` for matrices f[L,n_i,m_i]; returns f[L,n_0,n_1,n_2]."""
  return jax.vmap(_along_axes, (0, None))(list(matrices), array)
