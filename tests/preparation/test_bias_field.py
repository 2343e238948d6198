import jax
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny_head

from brainjax.preparation import bias_field, brain_mask, n4, reading
from brainjax.preparation.volume import volume_of

FAST = {
  "method": "sitk",
  "grid_mm": 6.0,
  "iterations": (30, 30),
  "tolerance": 1e-3,
}


def _head(spacing_mm=(3.0, 3.0, 5.0)):
  """A head of two tissues, a smooth field over it, and their product."""
  array, brain, _ = tiny_head.tiny_head(spacing_mm, stripped=True)
  grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in array.shape))
  x, y, z = (np.swapaxes(g, 0, 1) for g in grid)
  field = np.exp(0.25 * x - 0.15 * y**2 + 0.1 * z).astype(np.float32)
  return array, brain, field


def _volume(array, spacing_mm=(3.0, 3.0, 5.0)):
  return volume_of(array.astype(np.float32), np.diag([*spacing_mm, 1.0]))


def _estimate(volume, **options):
  settings = FAST | options
  lattice = bias_field.fit_bias_field(volume, **settings)
  grid_mm = settings["grid_mm"]
  return lattice, bias_field.bias_field(lattice, volume, grid_mm=grid_mm)


def test_it_removes_most_of_a_known_field():
  array, brain, field = _head()
  lattice, found = _estimate(_volume(array * field))
  assert lattice.dtype == found.dtype == np.float32
  assert lattice.shape == (5, 5, 5) and found.shape == array.shape
  left = np.log(field / found)[brain]
  assert left.std() < 0.3 * np.log(field)[brain].std()


def test_field_is_that_of_simpleitk_on_the_coarse_grid():
  array, _, field = _head((6.0, 6.0, 6.0))
  volume = _volume(array * field, (6.0, 6.0, 6.0))
  _, found = _estimate(volume)  # a coarse voxel is one of the volume
  n4 = sitk.N4BiasFieldCorrectionImageFilter()
  n4.SetMaximumNumberOfIterations(FAST["iterations"])
  n4.SetConvergenceThreshold(FAST["tolerance"])
  image = sitk.GetImageFromArray(volume.array.T)
  tissue = brain_mask.tissue_mask(volume.array) & (volume.array > 0)
  n4.Execute(image, sitk.GetImageFromArray(tissue.T.astype(np.uint8)))
  wanted = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
  assert np.ptp(wanted) > 0.1
  np.testing.assert_allclose(np.log(found), wanted, atol=2e-5)


def test_field_lies_right_on_a_finer_grid():
  """A voxel's field is the same, whether its grid was shrunk or not."""
  array, _, field = _head((6.0, 6.0, 6.0))
  coarse = _volume(array * field, (6.0, 6.0, 6.0))
  fine = coarse.array.repeat(2, 0).repeat(2, 1).repeat(2, 2)
  # Each voxel is cut into eight of half the size.
  _, found = _estimate(coarse)
  _, finer = _estimate(_volume(fine, (3.0, 3.0, 3.0)))
  blocks = np.log(finer).reshape(-1, 2, *finer.shape[1:]).mean(1)
  blocks = blocks.reshape(len(blocks), -1, 2, blocks.shape[2]).mean(2)
  blocks = blocks.reshape(*blocks.shape[:2], -1, 2).mean(3)
  inner = (slice(1, -1),) * 3  # it is held constant at the very edge
  np.testing.assert_allclose(blocks[inner], np.log(found)[inner], atol=1e-3)


@pytest.mark.parametrize(
  ("platforms", "number"), [("", 0), ("cuda,cpu", 0), ("cuda", 3)]
)
def test_it_is_fitted_on_the_cpu_unless_told_otherwise(
  platforms, number, monkeypatch
):
  used, updates = [], []

  def fit_lattices(images, *args, **options):
    used.append(jax.numpy.zeros(1).device)
    updates.append(options["update"])
    return np.zeros((1, 5, 5, 5), np.float32)

  monkeypatch.setattr(n4, "fit_lattices", fit_lattices)
  monkeypatch.setenv("JAX_PLATFORMS", platforms)
  other = jax.devices("cpu")[3]  # stands for an accelerator
  array, _, field = _head()
  with jax.default_device(other):
    for method in ("jax", "n3"):
      _estimate(_volume(array * field), method=method)
  assert updates == ["n4", "n3"]
  assert used == [jax.devices("cpu")[number]] * 2


def test_few_slices_have_fewer_levels():
  array, _, field = _head()
  thin = _volume((array * field)[:, :, 15:20])
  lattice, found = _estimate(thin, iterations=(2, 2, 2, 2))
  assert lattice.shape == (5, 5, 5)
  assert np.isfinite(found).all()
  lattice, found = _estimate(_volume((array * field)[:, :, 15:18]))
  assert not lattice.any() and (found == 1).all()


@pytest.mark.parametrize("number", ["52", "53"])
@pytest.mark.slow
def test_a_real_head_has_a_weak_field(data_root, number):
  file = data_root / f"bids/sub-{number}/anat/sub-{number}_T1w.nii.gz"
  volume = reading.read_volume([file])
  _, found = _estimate(volume, iterations=(50,) * 4)
  assert nib.load(file).shape == volume.file_shape
  brain = brain_mask.brain_mask(volume)
  assert 0.02 < np.log(found)[brain].std() < 0.3
