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


def _fit(image, mask, iterations=(20, 20)):
  (lattice,) = n4.fit_lattices(
    [image], [mask], iterations=iterations, tolerance=TOLERANCE
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


def test_what_lies_outside_the_mask_changes_nothing():
  image, mask, _ = _phantom()
  noise = np.random.default_rng(0).normal(100, 50, image.shape)
  other = np.where(mask, image, noise).astype(np.float32)
  np.testing.assert_array_equal(_fit(image, mask), _fit(other, mask))


def test_it_removes_most_of_a_known_field():
  image, mask, log_field = _phantom()
  left = (log_field - _fit(image, mask))[mask]
  assert left.std() < 0.2 * log_field[mask].std()


def test_a_constant_image_has_no_field():
  image, mask, _ = _phantom()
  assert not _fit(np.full_like(image, 7), mask).any()


@pytest.mark.parametrize("participant", ["52", "53"])
@pytest.mark.slow
def test_real_heads_have_the_field_of_simpleitk(data_root, participant):
  name = f"sub-{participant}"
  volume = reading.read_volume(
    [data_root / f"bids/{name}/anat/{name}_T1w.nii.gz"]
  )
  found, wanted = (
    np.log(
      bias_field.bias_field(
        bias_field.fit_bias_field(
          volume,
          method=method,
          grid_mm=4.0,
          iterations=(50,) * 4,
          tolerance=TOLERANCE,
        ),
        volume,
        grid_mm=4.0,
      )
    )
    for method in ("jax", "sitk")
  )
  np.testing.assert_allclose(found, wanted, atol=1e-5)


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
