"""Intensities of augmentation, without chance: bias field and contrast.

z-scores have lost the scanner's zero, so the darkest place of a scan's brain
is taken for it: u = (z - darkest) / (brightest - darkest) is what a bias field
b multiplies and a gamma g bends,

    z' = (brightest - darkest) ((u b)^g - u0^g),    u0 = u of z = 0,

so that without either z' = z, and the brain's mean stays about 0.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

ORDER = 3  # of the polynomial of a bias field
# Powers of row, column and slice in each of its terms. There is no constant:
# a brain that is brighter all over has the same z-scores.
EXPONENTS = np.array(
  [
    powers
    for powers in itertools.product(range(ORDER + 1), repeat=3)
    if 0 < sum(powers) <= ORDER
  ]
)
_LATTICE = 7  # points an axis that the size of a polynomial is judged at


def normalise_polynomial(coefficients: jax.Array) -> jax.Array:
  """Scales a polynomial so that its largest magnitude in the box is about 1.

  Args:
    coefficients: f32[...,K] of the terms of `EXPONENTS`.

  Returns:
    f32[...,K].
  """
  axis = np.linspace(-1, 1, _LATTICE)
  points = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 1, 3)
  terms = np.prod(points**EXPONENTS, axis=-1).astype(np.float32)
  values = jnp.einsum("...k,pk->...p", coefficients, terms)
  return coefficients / jnp.max(jnp.abs(values), axis=-1, keepdims=True)


def log_bias_fields(
  coefficients: jax.Array, places: jax.Array, height: int, width: int
) -> jax.Array:
  """Evaluates the logarithm of smooth bias fields, one of a scan, on slices.

  Args:
    coefficients: f32[N,K] of the terms of `EXPONENTS`, of each slice's scan.
    places: f32[N] of the slice in its scan, -1 = first, 1 = last.
    height: H, pixels.
    width: W, pixels.

  Returns:
    f32[N,H,W,1].

  Source: Van Leemput et al. 1999, IEEE Trans. Med. Imaging 18:885, a
  polynomial of logarithms.
  """
  rows = np.linspace(-1, 1, height)[:, None]
  columns = np.linspace(-1, 1, width)[None, :]
  in_plane = np.stack([rows**i * columns**j for i, j, _ in EXPONENTS])
  # An integer power for each term: 0^0 of floats is best not relied upon.
  along = jnp.stack([places ** int(k) for k in EXPONENTS[:, 2]], axis=1)
  return jnp.einsum(
    "nk,khw->nhw", coefficients * along, in_plane.astype(np.float32)
  )[..., None]


def intensity_ranges(
  slices: jax.Array, owner: jax.Array, num_rows: int
) -> tuple[jax.Array, jax.Array]:
  """Finds the darkest and the brightest intensity of each scan and modality.

  0, the background, counts; it lies between them as the mean of the brain.

  Args:
    slices: f[N,H,W,C] z-scores.
    owner: i32[N] scan of each slice; `num_rows` for filler.
    num_rows: B.

  Returns:
    f[B,C] and f[B,C]; both 0 for a scan that is not there.
  """
  low, high = slices.min((1, 2)), slices.max((1, 2))
  low = jax.ops.segment_min(low, owner, num_rows + 1)[:num_rows]
  high = jax.ops.segment_max(high, owner, num_rows + 1)[:num_rows]
  return jnp.minimum(low, 0), jnp.maximum(high, 0)


def background(slices: jax.Array) -> jax.Array:
  """Finds the background: exact zeros that touch another.

  A zero with other intensities all around is the brain's mean, rounded.

  Args:
    slices: f[N,H,W,C] z-scores.

  Returns:
    bool[N,H,W,C].
  """
  zero = slices == 0
  framed = jnp.pad(zero, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=True)
  above, below = framed[:, :-2, 1:-1], framed[:, 2:, 1:-1]
  left, right = framed[:, 1:-1, :-2], framed[:, 1:-1, 2:]
  return zero & (above | below | left | right)


def reshade(
  slices: jax.Array,
  low: jax.Array,
  high: jax.Array,
  *,
  log_bias: jax.Array | None,
  gamma: jax.Array | None,
) -> jax.Array:
  """Multiplies slices by bias fields and bends their contrast, see above.

  Args:
    slices: f[N,H,W,C] z-scores.
    low: f[N,C], the darkest intensity of each slice's scan.
    high: f[N,C], the brightest.
    log_bias: f[N,H,W,1], logarithms of the fields; None for none.
    gamma: f[N] exponents; None for none.

  Returns:
    f[N,H,W,C], meaningless where there is background.
  """
  low, high = low[:, None, None, :], high[:, None, None, :]
  span = jnp.where(high > low, high - low, 1)
  seen = jnp.maximum(slices - low, 0) / span
  at_zero = -low / span
  if log_bias is not None:
    seen *= jnp.exp(log_bias)
  if gamma is not None:
    seen = seen ** gamma[:, None, None, None]
    at_zero = at_zero ** gamma[:, None, None, None]
  return span * (seen - at_zero)
