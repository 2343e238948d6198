"""Random variation of the training scans, on the device.

One draw a scan, applied to all its slices: maps and a deformation, composed
into one resampling (`warp.py`), then bias field and contrast (`appearance.py`)
and noise. All is a pure function of (key of the step, draw of the scan), so
neither the batch nor the devices matter.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from brainjax.training import appearance, warp

# What a scan's key is split for. Order matters: whoever adds a name adds it at
# the end, so that a run from before goes on with the same draws.
_DRAWS = (
  "rotation",
  "scale",
  "translation",
  "flip",
  "stretch",
  "shear",
  "perspective",
  "crop",
  "elastic",
  "bias_field",
  "gamma",
  "noise",
)


# Of what `draw_scan` returns, what changes intensities.
_INTENSITIES = ("bias", "gamma", "noise", "noise_key")


@dataclasses.dataclass(frozen=True)
class AugmentRanges:
  """Ranges of the random draws, all uniform. What is off costs nothing.

  Lengths are fractions of the image's longer side.

  Attributes:
    flip: Mirror left-right with probability one half.
    rotation_degrees: Angle in +-, in-plane.
    scale: Things become larger by 1 +- scale.
    translation: In +-, down and to the right.
    stretch: Height against width, 1 +- stretch.
    shear_degrees: Rows, and columns, lean by an angle in +-.
    perspective: Scale at an edge against that at the centre, 1 +- perspective,
      of either pair of edges.
    crop: A window of 1 - crop to 1 of either side, anywhere on the image, is
      shown at full size.
    elastic_alpha: The largest displacement of a deformation, in 0 to this.
    elastic_sigma: Standard deviation of the Gaussian that smooths it.
    fill_value: z-score outside the image.
    bias_field: The largest magnitude of a bias field's logarithm, in 0 to this.
    gamma: From and to, exponents of the intensity.
    noise: Standard deviation of normal noise, in 0 to this, in those of the
      brain's intensity.
  """

  flip: bool
  rotation_degrees: float
  scale: float
  translation: float
  # Off unless said, for the configs of runs from before these existed.
  stretch: float = 0.0
  shear_degrees: float = 0.0
  perspective: float = 0.0
  crop: float = 0.0
  elastic_alpha: float = 0.0
  elastic_sigma: float = 0.0625
  fill_value: float = 0.0
  bias_field: float = 0.0
  gamma: tuple[float, float] = (1.0, 1.0)
  noise: float = 0.0

  @property
  def moves(self) -> bool:
    """Whether slices are resampled."""
    return any(
      (
        *(self.flip, self.rotation_degrees, self.scale, self.translation),
        *(self.stretch, self.shear_degrees, self.perspective, self.crop),
        self.elastic_alpha,
      )
    )

  @property
  def bends(self) -> bool:
    """Whether the contrast changes."""
    return tuple(self.gamma) != (1, 1)

  @property
  def changes_anything(self) -> bool:
    """Whether a scan can come out other than it was."""
    return self.moves or self.bends or bool(self.bias_field or self.noise)


def vary_batch(
  slices: jax.Array,
  batch: Mapping[str, jax.Array],
  key: jax.Array,
  ranges: AugmentRanges,
) -> jax.Array:
  """Varies the scans of a batch.

  The background, see `appearance.background`, stays exactly 0, and so do
  filler slices and modalities that a scan lacks.

  Args:
    slices: f32[G,N,H,W,C] z-scores.
    batch: Whose slices they are; see `input/packing.py`.
    key: Key of the step.
    ranges: Of the draws. Static.

  Returns:
    f32[G,N,H,W,C].
  """
  names = ("owner", "position", "length", "draw", "present")
  facts = {name: batch[name] for name in names if name in batch}
  # vmap over packs, not a reshape: a pack stays on its device.
  return jax.vmap(lambda s, f: _vary_pack(s, f, key, ranges))(slices, facts)


def draw_scan(
  key: jax.Array, ranges: AugmentRanges, height: int, width: int
) -> dict[str, Any]:
  """Draws how one scan is varied; nothing of what is off.

  Args:
    key: Of the scan.
    ranges: Of the draws. Static.
    height: H, pixels.
    width: W, pixels.

  Returns:
    map: f32[3,3], see `warp.py`.
    displacement: f32[2,H,W] along rows and columns, pixels.
    bias: f32[K], see `appearance.EXPONENTS`.
    gamma: f32[].
    noise: f32[], its standard deviation; and `noise_key`, of the scan.
  """
  keys = dict(zip(_DRAWS, jax.random.split(key, len(_DRAWS)), strict=True))
  drawn = {}
  if ranges.moves:
    drawn["map"] = _draw_map(keys, ranges, height, width)
  if ranges.elastic_alpha:
    drawn["displacement"] = _draw_displacement(
      keys["elastic"], ranges, height, width
    )
  if ranges.bias_field:
    polynomial_key, size_key = jax.random.split(keys["bias_field"])
    coefficients = _signed(polynomial_key, (len(appearance.EXPONENTS),))
    size = ranges.bias_field * jax.random.uniform(size_key)
    drawn["bias"] = size * appearance.normalise_polynomial(coefficients)
  if ranges.bends:
    low, high = ranges.gamma
    drawn["gamma"] = jax.random.uniform(keys["gamma"], minval=low, maxval=high)
  if ranges.noise:
    drawn["noise_key"], size_key = jax.random.split(keys["noise"])
    drawn["noise"] = ranges.noise * jax.random.uniform(size_key)
  return drawn


def _vary_pack(slices, facts, key, ranges):
  """Varies f32[N,H,W,C] of one pack."""
  _, height, width, _ = slices.shape
  owner, draws = facts["owner"], facts["draw"]
  num_rows = len(draws)
  rows = jnp.minimum(owner, num_rows - 1)  # filler is 0 under every draw
  drawn = jax.vmap(
    lambda draw: draw_scan(jax.random.fold_in(key, draw), ranges, height, width)
  )(draws)
  varied, coordinates = slices, None
  if ranges.moves:
    coordinates = warp.source_coordinates(drawn["map"], height, width)
    if ranges.elastic_alpha:
      coordinates += drawn["displacement"]
    varied = warp.sample_slices(slices, coordinates, rows)
  if ranges.bias_field or ranges.bends or ranges.noise:
    # Of the unmoved slices, so that no part of a scan is out of sight.
    low, high = appearance.intensity_ranges(slices, owner, num_rows)
    of_slices = {n: drawn[n][rows] for n in _INTENSITIES if n in drawn}
    of_slices |= {"low": low[rows], "high": high[rows]}
    last = jnp.maximum(facts["length"][rows] - 1, 1)
    places = jnp.clip(2 * facts["position"] / last - 1, -1, 1)
    varied = jnp.where(
      appearance.background(varied),
      0,
      _vary_intensities(varied, of_slices, facts["position"], places),
    )
  if ranges.fill_value and coordinates is not None:
    outside = 1 - warp.coverage(coordinates)[rows][..., None]
    there = (owner < num_rows)[:, None]
    if "present" in facts:
      there = facts["present"][owner]  # it has a row of zeros for filler
    varied += ranges.fill_value * outside * there[:, None, None, :]
  return varied


def _vary_intensities(slices, drawn, position, places):
  """Varies f32[N,H,W,C] by what was drawn for the scan of each slice."""
  _, height, width, _ = slices.shape
  varied = slices
  if "bias" in drawn or "gamma" in drawn:
    log_bias = None
    if "bias" in drawn:
      log_bias = appearance.log_bias_fields(
        drawn["bias"], places, height, width
      )
    varied = appearance.reshade(
      slices,
      drawn["low"],
      drawn["high"],
      log_bias=log_bias,
      gamma=drawn.get("gamma"),
    )
  if "noise" in drawn:
    keys = jax.vmap(jax.random.fold_in)(drawn["noise_key"], position)
    noise = jax.vmap(lambda key: jax.random.normal(key, slices.shape[1:]))
    varied += drawn["noise"][:, None, None, None] * noise(keys)
  return varied


def _draw_map(keys, ranges, height, width) -> jax.Array:
  """Returns f32[3,3]."""
  one = jnp.ones(())

  def within(limit, name, shape=()):
    """Draws in +-limit; what is off is not even compiled."""
    return limit * _signed(keys[name], shape) if limit else jnp.zeros(shape)

  mirror, window_side, window_centre = one, one, jnp.zeros(2)
  if ranges.flip:
    mirror = jnp.where(jax.random.bernoulli(keys["flip"]), -1.0, 1.0)
  if ranges.crop:
    side_key, centre_key = jax.random.split(keys["crop"])
    window_side = 1 - ranges.crop * jax.random.uniform(side_key)
    free = (1 - window_side) / 2 / max(height, width)
    window_centre = (
      free * jnp.array([height, width]) * _signed(centre_key, (2,))
    )
  stretch = jnp.sqrt(1 + within(ranges.stretch, "stretch"))
  return warp.compose_map(
    angle=jnp.deg2rad(within(ranges.rotation_degrees, "rotation")),
    shear=jnp.deg2rad(within(ranges.shear_degrees, "shear", (2,))),
    scale=(1 + within(ranges.scale, "scale"))
    * jnp.stack([stretch, 1 / stretch]),
    mirror=mirror,
    shift=within(ranges.translation, "translation", (2,)),
    tilt=within(ranges.perspective, "perspective", (2,)),
    window_side=window_side,
    window_centre=window_centre,
  )


def _draw_displacement(key, ranges, height, width) -> jax.Array:
  """Returns f32[2,H,W], pixels."""
  field_key, size_key = jax.random.split(key)
  side = max(height, width)
  sigma = ranges.elastic_sigma * side
  margin = 2 * warp.field_margin(sigma)
  noise = jax.random.normal(field_key, (2, height + margin, width + margin))
  field = warp.smooth_field(noise, sigma)
  largest = jnp.sqrt(jnp.max(jnp.sum(field**2, axis=0)))
  size = ranges.elastic_alpha * side * jax.random.uniform(size_key)
  return size * field / largest


def _signed(key, shape=()) -> jax.Array:
  """Draws f32, uniform in +-1."""
  return jax.random.uniform(key, shape, minval=-1, maxval=1)
