import functools

import jax
import numpy as np
import pytest
import tiny_head

from brainjax.preparation import bias_field, n4, reading
from brainjax.preparation.volume import volume_of

TOLERANCE = 1e-3


def _phantom(spacing_mm=(8.0, 8.0, 8.0), seed=0):
  """A stripped head under a smooth field, its mask, and the log field."""
  array, brain, _ = tiny_head.tiny_head(spacing_mm, stripped=True, seed=seed)
  x, y, z = np.meshgrid(
    *(np.linspace(-1, 1, n) for n in array.shape), indexing="ij"
  )
  log_field = 0.25 * x - 0.15 * y**2 + 0.1 * z
  image = (array * np.exp(log_field)).astype(np.float32)
  return image, brain, log_field


def _field(lattice, shape):
  """The log field at every voxel."""
  bases = [
    bias_field.spline_basis(bias_field.mesh_points(n), n, size)
    for n, size in zip(shape, lattice.shape, strict=True)
  ]
  return bias_field.tensor_product(bases, lattice)


def _fit(image, mask, iterations=(20, 20), **options):
  (lattice,) = n4.fit_lattices(
    [image], [mask], iterations=iterations, tolerance=TOLERANCE, **options
  )
  return _field(lattice, image.shape)


def _itk(image, mask, iterations=(20, 20)):
  lattice = bias_field.sitk_lattice(
    image, mask, iterations=iterations, tolerance=TOLERANCE
  )
  return _field(lattice, image.shape)


def test_it_is_the_field_of_simpleitk():
  image, mask, _ = _phantom()
  found = _fit(image, mask)
  assert np.ptp(found) > 0.2
  np.testing.assert_allclose(found, _itk(image, mask), atol=5e-6)


def test_the_first_voxel_may_be_the_darkest():
  """It is what ITK never takes for the darkest."""
  image, mask, _ = _phantom()
  first = tuple(np.argwhere(mask.T)[0][::-1])
  image[first] = 0.7 * image[mask].min()
  found = _fit(image, mask)
  np.testing.assert_allclose(found, _itk(image, mask), atol=5e-6)


def _sharpened_by_loops(values):
  """ITK's sharpening of f32 values, voxel by voxel where it matters."""
  low, high = values[1:].min(), values.max()
  width = (high - low) / np.float32(199)
  histogram = np.zeros(200)
  for place in (values - low) / width:
    if place == np.floor(place):
      histogram[int(place)] += 1
    elif place < 199:
      share = place - np.floor(place)
      histogram[int(place) : int(place) + 2] += 1 - share, share
  distance = np.minimum(np.arange(512), 512 - np.arange(512)) * width / 0.15
  gaussian = np.exp(-4 * np.log(2) * distance**2) * width / 0.15
  gaussian *= 2 * np.sqrt(np.log(2) / np.pi)
  response = np.fft.fft(gaussian).real
  wiener = response / (response**2 + 0.01)
  padded = np.fft.fft(np.pad(histogram, 156))
  sharp = np.maximum(np.fft.ifft(padded * wiener).real, 0)
  centres = low + (np.arange(512) - 156) * width

  def blurred(array):
    return np.fft.ifft(np.fft.fft(array) * response).real

  expected = (blurred(centres * sharp) / blurred(sharp))[156:-156]
  places = (values - low) / width
  return np.interp(places, np.arange(200), expected)


@pytest.mark.parametrize("rounded_up", [False, True])
def test_sharpening_is_that_of_itk(rounded_up):
  """Also where rounding puts the brightest voxel beyond the last bin."""
  rng = np.random.default_rng(0)
  values = np.concatenate([rng.normal(5, 0.1, 500), rng.normal(6, 0.05, 300)])
  values = values.astype(np.float32)
  values[9] = values.min()

  def place(high):
    reach = high - values.min()
    return reach / (reach / np.float32(199))

  tops = np.float32(6.5) + np.arange(1000, dtype=np.float32) / 2**16
  values[7] = next(top for top in tops if (place(top) > 199) == rounded_up)
  inside = np.ones((8, 10, 10), bool)
  later = inside.copy()
  later[0, 0, 0] = False
  values = values.reshape(inside.shape, order="F")
  found = jax.jit(n4._unsharpness)(values, inside, later)
  wanted = _sharpened_by_loops(values.ravel(order="F"))
  wanted = values - wanted.reshape(inside.shape, order="F")
  np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_change_of_the_field_has_the_rounding_of_itk():
  """Its running mean all but stops on the way through a large mask."""
  shape = (24, 40, 50)
  rng = np.random.default_rng(0)
  inside = rng.random(shape) < 0.8
  trend = np.linspace(-1e-3, 1e-3, 50) + rng.normal(0, 2e-4, shape)
  new = np.where(inside, trend, 9).astype(np.float32)
  ordered = inside.ravel(order="F")
  share = ordered / np.maximum(np.cumsum(ordered), 1)
  ratios = np.exp(-new.ravel(order="F")[ordered])
  mean, squares = np.float32(0), 0.0
  for n, ratio in enumerate(ratios):
    squares += float(ratio - mean) ** 2 * n / (n + 1)
    mean = np.float32(float(mean) * (1 - 1 / (n + 1)) + float(ratio) / (n + 1))
  wanted = np.sqrt(squares / (len(ratios) - 1)) / mean
  assert wanted > 1.02 * np.std(ratios, dtype=np.float64)
  found = jax.jit(n4._change)(np.zeros_like(new), new, share.astype(np.float32))
  np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_volumes_of_a_batch_do_not_meet():
  """Nor does their padding change anything but rounding."""
  volumes = [_phantom(), _phantom((9.0, 7.0, 12.0), seed=1)]
  lattices = n4.fit_lattices(
    [image for image, _, _ in volumes],
    [mask for _, mask, _ in volumes],
    iterations=(20, 20),
    tolerance=TOLERANCE,
  )
  for lattice, (image, mask, _) in zip(lattices, volumes, strict=True):
    alone = _fit(image, mask)
    np.testing.assert_allclose(_field(lattice, image.shape), alone, atol=2e-6)


@pytest.mark.slow
def test_volumes_side_by_side_are_as_one_by_one():
  """As an accelerator takes them: the first to end waits for the last."""
  images, masks, _ = zip(*(_phantom(seed=i) for i in range(3)), strict=True)
  limits = np.array([20, 20], np.int32), np.float32(TOLERANCE)
  shape = (16, 24, 16)
  volumes = [
    n4._volume(image, mask, n4._box(mask), shape, 2)
    for image, mask in zip(images, masks, strict=True)
  ]
  stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *volumes)
  fit = functools.partial(n4._fit, update="n4")
  found = jax.jit(jax.vmap(fit, (0, None, None)))(stacked, *limits)
  alone = n4.fit_lattices(
    images, masks, iterations=limits[0], tolerance=TOLERANCE
  )
  np.testing.assert_allclose(found, alone, atol=2e-6)


def test_what_lies_outside_the_mask_changes_nothing():
  image, mask, _ = _phantom()
  noise = np.random.default_rng(0).normal(100, 50, image.shape)
  other = np.where(mask, image, noise).astype(np.float32)
  np.testing.assert_array_equal(_fit(image, mask), _fit(other, mask))


def test_it_removes_most_of_a_known_field():
  image, mask, log_field = _phantom()
  left = (log_field - _fit(image, mask))[mask]
  assert left.std() < 0.2 * log_field[mask].std()


def test_with_the_update_of_n3_the_field_is_fitted_anew():
  image, mask, log_field = _phantom()
  found = _fit(image, mask, update="n3")
  left = (log_field - found)[mask]
  assert left.std() < 0.2 * log_field[mask].std()
  # N4 goes on from the field that it has, and so comes closer.
  assert np.abs(found - _fit(image, mask))[mask].max() > 0.01


def test_a_constant_image_has_no_field():
  image, mask, _ = _phantom()
  assert not _fit(np.full_like(image, 7), mask).any()


@pytest.mark.parametrize(
  ("file", "atol"),
  [
    ("bids/sub-52/anat/sub-52_T1w.nii.gz", 1e-5),
    ("bids/sub-53/anat/sub-53_T1w.nii.gz", 1e-5),
    # SimpleITK's own field changes by so much with the unit of intensity.
    ("gbm_progression/01/Pre_Scan_T1.nii.gz", 1e-4),
    ("gbm_progression/01/Post_Scan_T1.nii.gz", 1e-4),
  ],
)
@pytest.mark.slow
def test_real_heads_have_the_field_of_simpleitk(data_root, file, atol):
  volume = reading.read_volume([data_root / file])
  image, mask = bias_field.coarse(volume, 4.0)
  found = _fit(image, mask, (50,) * 4)
  np.testing.assert_allclose(found, _itk(image, mask, (50,) * 4), atol=atol)


def test_a_volume_of_few_slices_has_fewer_levels():
  image, _, _ = _phantom((6.0, 6.0, 6.0))
  thin = volume_of(image[:, :, 8:14], np.diag([6.0, 6.0, 6.0, 1.0]))
  lattices = [
    bias_field.fit_bias_field(
      thin, method=method, grid_mm=6.0, iterations=(2,) * 4, tolerance=0.01
    )
    for method in ("jax", "sitk")
  ]
  assert lattices[0].shape == (5, 5, 5)
  np.testing.assert_allclose(*lattices, atol=1e-4)
