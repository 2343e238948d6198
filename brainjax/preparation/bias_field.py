"""The bias field: slow changes of intensity that come from the coil.

The model is image = tissue * field. N4 estimates the logarithm of the field
on a coarse grid, as a cubic B-spline; its control points (the lattice) give
the field at every voxel of the volume. `n4.py` does so in JAX; SimpleITK is
the alternative, and what that is tested against.

Source: Tustison et al. 2010, IEEE Trans. Med. Imaging 29:1310 (N4), after
  Sled et al. 1998, IEEE Trans. Med. Imaging 17:87 (N3).
Differs: the field is evaluated where the voxels of the volume lie in the
  coarse grid; stretching it over the volume would shift it by half a coarse
  voxel.
"""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from brainjax.preparation.brain_mask import tissue_mask
from brainjax.preparation.volume import Volume

ORDER = 3  # of the splines
_FEWEST = ORDER + 1  # coarse voxels along an axis, for a cubic


def fit_bias_field(
  volume: Volume,
  *,
  method: str,
  grid_mm: float,
  iterations: Sequence[int],
  tolerance: float,
) -> np.ndarray:
  """Estimates the bias field of a volume.

  Args:
    volume: The volume; not 2-D images.
    method: "jax", on the CPU wherever there is another device too, so that
      the bytes are those of `workers.py` (JAX_PLATFORMS=cuda leaves the GPU
      alone); "n3", the same with N3's update on N4's meshes; or "sitk",
      which is SimpleITK in one thread.
    grid_mm: Voxel size of the coarse grid, at least; millimetres.
    iterations: At most so many at each level; every level doubles the mesh.
      A volume of few slices has fewer levels.
    tolerance: Change of the field, as a coefficient of variation, at which a
      level ends.

  Returns:
    f32[l,m,n], the lattice of the log field; zeros, which change nothing, for
    a volume of fewer than four slices.
  """
  small, tissue = coarse(volume, grid_mm)
  fewest = min(small.shape)
  if fewest < _FEWEST or not tissue.any():
    return np.zeros((_FEWEST,) * 3, np.float32)
  levels = [n for k, n in enumerate(iterations) if 2**k + ORDER <= fewest]
  if method == "sitk":
    return sitk_lattice(small, tissue, iterations=levels, tolerance=tolerance)
  from brainjax.preparation import n4  # imports jax, which takes a second

  with n4.on_cpu():
    return n4.fit_lattices(
      [small],
      [tissue],
      iterations=levels,
      tolerance=tolerance,
      update="n3" if method == "n3" else "n4",
    )[0]


def coarse(volume: Volume, grid_mm: float) -> tuple[np.ndarray, np.ndarray]:
  """Returns f32[l,m,n], the coarse grid, and bool[l,m,n], the tissue on it."""
  small = _block_means(volume.array, _factors(volume, grid_mm))
  # Darker voxels hold noise, whose logarithm says nothing of the coil.
  return small, tissue_mask(small) & (small > 0)


def sitk_lattice(
  image: np.ndarray,
  mask: np.ndarray,
  *,
  iterations: Sequence[int],
  tolerance: float,
  threads: int = 1,
) -> np.ndarray:
  """Estimates the lattice of a log field by SimpleITK; see `n4`."""
  n4 = sitk.N4BiasFieldCorrectionImageFilter()
  n4.SetNumberOfThreads(threads)
  n4.SetMaximumNumberOfIterations(iterations)
  n4.SetConvergenceThreshold(tolerance)
  volume = sitk.GetImageFromArray(image.T)
  n4.Execute(volume, sitk.GetImageFromArray(mask.T.astype(np.uint8)))
  field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(volume)).T
  # The field is such a spline, so its lattice is found exactly.
  size = 2 ** (len(iterations) - 1) + ORDER
  inverses = [
    np.linalg.pinv(spline_basis(mesh_points(n), n, size)) for n in field.shape
  ]
  return tensor_product(inverses, field.astype(np.float64)).astype(np.float32)


def bias_field(
  lattice: np.ndarray, volume: Volume, *, grid_mm: float
) -> np.ndarray:
  """Evaluates the field of `fit_bias_field`; image / field is corrected.

  Args:
    lattice: f32[l,m,n] of the log field.
    volume: The volume it was estimated on.
    grid_mm: As it was then.

  Returns:
    f32[X,Y,Z] field, around 1; constant beyond the centres of the outermost
    coarse voxels.
  """
  bases = []
  factors = _factors(volume, grid_mm)
  for n, factor, size in zip(
    volume.array.shape, factors, lattice.shape, strict=True
  ):
    coarse = n // factor
    centre = (np.arange(n) - (factor - 1) / 2) / factor
    basis = spline_basis(centre.clip(0, coarse - 1), coarse, size)
    bases.append(basis.astype(np.float32))
  return np.exp(tensor_product(bases, lattice)).astype(np.float32)


def _factors(volume: Volume, grid_mm: float) -> list[int]:
  """Returns how many voxels of the volume a coarse one spans."""
  # A header may lie about the spacing: no axis is shrunk below 16 voxels.
  return [
    int(max(1, min(round(grid_mm / s), n // 16)))
    for n, s in zip(volume.array.shape, volume.spacing_mm, strict=True)
  ]


def _block_means(array: np.ndarray, factors: Sequence[int]) -> np.ndarray:
  """Returns f32 means of whole blocks; what is left at the end is cut off."""
  for axis, factor in enumerate(factors):
    blocks = array.shape[axis] // factor
    along = np.moveaxis(array, axis, 0)[: blocks * factor]
    means = along.reshape(blocks, factor, *along.shape[1:]).mean(1)
    array = np.moveaxis(means, 0, axis)
  return array


def mesh_points(length: int) -> np.ndarray:
  """Returns f64[length], voxel centres where ITK's fit takes them to be.

  It keeps the last one off the mesh's end.
  """
  return np.arange(length, dtype=np.float64).clip(max=length - 1 - 1e-3)


def spline_basis(points: np.ndarray, length: int, size: int) -> np.ndarray:
  """Returns f64[P,size], the cubic B-splines at points in [0, length - 1].

  The mesh of `size` control points spans the voxel centres.
  """
  spans = size - ORDER
  u = np.asarray(points, np.float64) * spans / max(length - 1, 1)
  distance = np.abs(u[:, None] - (np.arange(size) - 1))
  inner = 2 / 3 - distance**2 + distance**3 / 2
  outer = np.maximum(2 - distance, 0) ** 3 / 6
  return np.where(distance < 1, inner, outer)


def tensor_product(
  matrices: Sequence[np.ndarray], array: np.ndarray
) -> np.ndarray:
  """Applies a matrix f[n_i,m_i] along each axis i of f[m_0,m_1,m_2]."""
  for axis, matrix in enumerate(matrices):
    product = np.tensordot(matrix, array, (1, axis))
    array = np.moveaxis(product, 0, axis)
  return array
