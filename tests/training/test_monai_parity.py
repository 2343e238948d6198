"""Augmentation against MONAI, given the same change, matrix, field or exponent.

MONAI is no dependency of brainjax; where it is installed, this runs.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.training import appearance, warp

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("monai", reason="needs MONAI: pip install monai")
from monai.networks.blocks import Warp  # noqa: E402
from monai.transforms import (  # noqa: E402
  AdjustContrast,
  Affine,
  RandBiasField,
)

H, W, C = 14, 11, 2
SIDE = max(H, W)
STILL = {
  "angle": 0.0,
  "shear": (0.0, 0.0),
  "scale": (1.0, 1.0),
  "mirror": 1.0,
  "shift": (0.0, 0.0),
  "tilt": (0.0, 0.0),
  "window_side": 1.0,
  "window_centre": (0.0, 0.0),
}
CHANGES = {
  "flip": {"mirror": -1.0},
  "rotation": {"angle": 0.4},
  "scale": {"scale": (1.2, 1.2)},
  "stretch": {"scale": (1.3, 0.8)},
  # One at a time: of two, MONAI does the second after the first.
  "shear of rows": {"shear": (0.3, 0.0)},
  "shear of columns": {"shear": (0.0, -0.2)},
  "translation": {"shift": (0.2, -0.07)},
  "crop": {"window_side": 0.6, "window_centre": (0.1, -0.15)},
  "all of them": {
    "angle": -0.3,
    "shear": (0.1, 0.05),
    "scale": (1.1, 0.9),
    "mirror": -1.0,
    "shift": (0.05, 0.1),
    "window_side": 0.8,
    "window_centre": (0.1, 0.05),
  },
}

# The same to MONAI, which says where a place is taken from, in pixels.
IN_MONAI = {
  "flip": {"scale_params": (1, -1)},
  "rotation": {"rotate_params": 0.4},
  "scale": {"scale_params": (1 / 1.2, 1 / 1.2)},
  "stretch": {"scale_params": (1 / 1.3, 1 / 0.8)},
  "shear of rows": {"shear_params": (np.tan(0.3), 0)},
  "shear of columns": {"shear_params": (0, np.tan(-0.2))},
  "translation": {"translate_params": (0.2 * SIDE, -0.07 * SIDE)},
  "crop": {
    "scale_params": (0.6, 0.6),
    "translate_params": (0.1 * SIDE, -0.15 * SIDE),
  },
}


def random_image():
  return np.random.default_rng(0).normal(size=(H, W, C)).astype(np.float32)


def compose(changes):
  arguments = {**STILL, **changes}
  return warp.compose_map(
    **{name: jnp.array(value) for name, value in arguments.items()}
  )


def ours(image, coordinates):
  rows = np.zeros(1, int)
  return np.array(warp.sample_slices(image[None], coordinates, rows))[0]


def by_monai(image, **change):
  """Resamples f32[H,W,C]."""
  transform = Affine(
    **change, mode="bilinear", padding_mode="zeros", image_only=True
  )
  moved = transform(torch.tensor(image).permute(2, 0, 1))
  return np.asarray(moved).transpose(1, 2, 0)


def in_pixels(matrix):
  """A matrix f[3,3] from the outcome to the source, of centred places."""
  units = np.array([SIDE, SIDE, 1.0])
  return np.asarray(matrix, np.float64) * units[:, None] / units


@pytest.mark.parametrize("name", CHANGES)
def test_affine_maps(name):
  image, matrix = random_image(), compose(CHANGES[name])
  coordinates = warp.source_coordinates(matrix[None], H, W)
  found = ours(image, coordinates)
  change = IN_MONAI.get(name, {"affine": in_pixels(matrix)})
  np.testing.assert_allclose(found, by_monai(image, **change), atol=2e-5)
  assert np.abs(found - image).max() > 0.1


def test_the_fill_value_is_where_monai_sees_nothing():
  matrix = compose(CHANGES["translation"])
  coordinates = warp.source_coordinates(matrix[None], H, W)
  white = np.ones((H, W, 1), np.float32)
  seen = by_monai(white, **IN_MONAI["translation"])[..., 0]
  np.testing.assert_allclose(warp.coverage(coordinates)[0], seen, atol=2e-5)
  assert 0.05 < seen.mean() < 0.95


@pytest.mark.filterwarnings("ignore:.*PyTorch native grid_sample")
def test_a_deformation():
  image = random_image()
  field = np.random.default_rng(1).normal(size=(2, H, W)).astype(np.float32)
  still = warp.source_coordinates(compose({})[None], H, W)
  found = ours(image, still + field[None])
  moved = Warp(mode="bilinear", padding_mode="zeros")(
    torch.tensor(image).permute(2, 0, 1)[None], torch.tensor(field)[None]
  )
  expected = moved[0].permute(1, 2, 0).numpy()
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma(gamma):
  """MONAI keeps the darkest place as it is, we keep 0, the brain's mean."""
  scan = random_image()[None]
  scan[0, 0, 0] = 0
  low, high = (bound((0, 1, 2))[None] for bound in (scan.min, scan.max))
  found = appearance.reshade(
    jnp.array(scan), low, high, log_bias=None, gamma=jnp.array([gamma])
  )
  for channel in range(C):
    one = torch.tensor(scan[..., channel])
    expected = AdjustContrast(gamma=gamma)(one).numpy()
    expected -= expected[0, 0, 0]
    np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)


def test_bias_field():
  """MONAI sums products of Legendre polynomials; ours are of powers."""
  depth = 5
  rng = np.random.default_rng(2)
  coefficients = rng.uniform(-1, 1, len(appearance.EXPONENTS))
  found = appearance.log_bias_fields(
    jnp.tile(jnp.array(coefficients, jnp.float32), (depth, 1)),
    jnp.linspace(-1, 1, depth),
    H,
    W,
  )
  size = appearance.ORDER + 1
  powers = np.zeros((size, size, size))
  powers[tuple(appearance.EXPONENTS.T)] = coefficients
  to_legendre = np.stack(
    [
      np.pad(np.polynomial.legendre.poly2leg(row[: i + 1]), (0, size - 1 - i))
      for i, row in enumerate(np.eye(size))
    ],
    axis=1,
  )
  legendre = np.einsum(
    "ai,bj,ck,ijk->abc", to_legendre, to_legendre, to_legendre, powers
  )
  wanted = [
    legendre[i, j, k]
    for i in range(size)
    for j in range(size - i)
    for k in range(size - i - j)
  ]
  field = RandBiasField(degree=appearance.ORDER)._generate_random_field(
    (H, W, depth), appearance.ORDER, wanted
  )
  expected = field.transpose(2, 0, 1)
  np.testing.assert_allclose(np.array(found)[..., 0], expected, atol=1e-5)
