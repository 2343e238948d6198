"""Where a participant moved between two images, or lies beside a template.

A rigid motion is looked for that makes the mutual information of the two
largest, from none at all or from the centres of mass laid upon each other, on
grids of 8, 4 and 2 millimetres.

Source: Mattes et al. 2003, IEEE Trans. Med. Imaging 22:120, as in SimpleITK.
"""

import numpy as np
import SimpleITK as sitk

from brainjax.preparation.volume import Volume

MOST_MM = 40.0  # somebody may move by within a session, centre of the head
MOST_DEGREES = 30.0
_GRIDS_MM = (8.0, 4.0, 2.0)
_BINS = 32
_ITERATIONS = 100


def register(
  moving: Volume, fixed: Volume, *, centred: bool = False
) -> np.ndarray | None:
  """Finds the rigid motion between two volumes; the same on every call.

  Args:
    moving: The volume that is to be brought onto the other.
    fixed: The other.
    centred: Start with the centres of mass upon each other, and bound the
      motion from there; for images that are not of one session.

  Returns:
    f64[4,4], millimetres in `fixed` to millimetres in `moving`; None if there
    is none that somebody can have made.
  """
  threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
  # Of its own number the metric knows nothing; and several would add up the
  # same terms in another order each time.
  sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
  try:
    return _register(moving, fixed, centred)
  finally:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _register(
  moving: Volume, fixed: Volume, centred: bool
) -> np.ndarray | None:
  """As `register`, with the threads that are set."""
  images = [_image(volume) for volume in (fixed, moving)]
  centre = images[0].TransformContinuousIndexToPhysicalPoint(
    [(n - 1) / 2 for n in images[0].GetSize()]
  )
  motion = sitk.Euler3DTransform()
  motion.SetCenter(centre)
  if centred:
    motion = sitk.Euler3DTransform(
      sitk.CenteredTransformInitializer(
        *(_coarse(image, _GRIDS_MM[0]) for image in images),
        motion,
        sitk.CenteredTransformInitializerFilter.MOMENTS,
      )
    )
  start_mm = np.array(motion.GetTranslation())
  method = sitk.ImageRegistrationMethod()
  method.SetMetricAsMattesMutualInformation(_BINS)
  method.SetMetricSamplingStrategy(method.NONE)
  method.SetInterpolator(sitk.sitkLinear)
  method.SetOptimizerAsRegularStepGradientDescent(
    learningRate=2.0, minStep=1e-3, numberOfIterations=_ITERATIONS
  )
  method.SetOptimizerScalesFromPhysicalShift()
  method.SetInitialTransform(motion, inPlace=True)
  for grid_mm in _GRIDS_MM:
    try:
      method.Execute(*(_coarse(image, grid_mm) for image in images))
    except RuntimeError:
      return None  # they do not overlap, or no longer do
  angles = np.degrees(motion.GetParameters()[:3])
  shift_mm = np.linalg.norm(motion.GetTranslation() - start_mm)
  if np.abs(angles).max() > MOST_DEGREES or shift_mm > MOST_MM:
    return None
  matrix = np.eye(4)
  matrix[:3, :3] = np.array(motion.GetMatrix()).reshape(3, 3)
  matrix[:3, 3] = motion.TransformPoint((0.0, 0.0, 0.0))
  return matrix


def _image(volume: Volume) -> sitk.Image:
  """Returns a volume in its own millimetres, which are RAS."""
  assert volume.affine is not None
  image = sitk.GetImageFromArray(volume.array.T)
  image.SetSpacing(volume.spacing_mm.tolist())
  image.SetOrigin(volume.affine[:3, 3].tolist())
  directions = volume.affine[:3, :3] / volume.spacing_mm
  image.SetDirection(directions.ravel().tolist())
  return image


def _coarse(image: sitk.Image, grid_mm: float) -> sitk.Image:
  """Returns means over blocks; an axis keeps at least eight voxels."""
  factors = [
    int(max(1, min(round(grid_mm / spacing), size // 8)))
    for spacing, size in zip(image.GetSpacing(), image.GetSize(), strict=True)
  ]
  return sitk.BinShrink(image, factors)
