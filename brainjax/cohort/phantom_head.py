"""The heads of the synthetic cohort: a deformed template, lesions, a skull.

Nothing here knows what a label is. Knobs of difficulty stand at the top: what
a tumour looks like, and what it may be mistaken for (white-matter spots,
cysts, wide ventricles, bright vessels).
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import transform


class Lesion(NamedTuple):
  """One kind of lesion; a pair is the limits of a uniform distribution."""

  count: tuple[int, int]  # foci
  radius_mm: tuple[float, float]  # of a focus, without its oedema
  contrast: tuple[float, float]  # relative change of signal
  mass_effect: float  # how far tissue is pushed aside, fraction of distance


LESIONS = {
  "glioma": Lesion((1, 1), (16.0, 26.0), (0.30, 0.60), 0.2),
  "meningioma": Lesion((1, 1), (14.0, 22.0), (0.30, 0.60), 0.5),
  "metastasis": Lesion((3, 6), (7.0, 11.0), (0.40, 0.75), 0.2),
  "cyst": Lesion((0, 1), (4.0, 9.0), (0.50, 0.75), 0.4),
  "spot": Lesion((0, 8), (2.0, 4.0), (0.10, 0.35), 0.0),
}
IRREGULARITY = 0.3  # standard deviation of the logarithm of a glioma's radius
OEDEMA = (1.3, 1.9)  # radius, in radii of the focus
NECROSIS = (0.4, 0.85)  # the same, in a glioma
VESSELS = (0.0, 0.7)  # added signal, white matter being 1
VENTRICLES = (0.0, 0.4)  # widening at the highest age, as mass_effect
ATROPHY = 0.6  # log odds of fluid, from the lowest age to the highest
DEFORMATION_MM = {60.0: 5.0, 12.0: 1.5}  # {length: standard deviation}

# Template space is millimetres from the template's first voxel.
_TEMPLATE_SPACING_MM = 3
_CENTRE_MM = (98.0, 117.0, 81.0)  # of the field of view
_VENTRICLES_MM = np.array((98.0, 119.0, 84.0), np.float32)
_VENTRICLES_REACH_MM = 28.0
_FIELD_MM = 130.0  # half the side of a random field
_EDGE_MM = 3.0  # over which one tissue gives way to the next


class Focus(NamedTuple):
  """Where one lesion lies."""

  kind: str
  centre_mm: np.ndarray  # f32[3], in the template
  radius_mm: float


def choose_foci(rng: np.random.Generator, kind: str) -> list[Focus]:
  """Chooses as many foci of a kind of lesion as it has."""
  sites = _template()[f"{kind} sites"]
  lesion = LESIONS[kind]
  return [
    Focus(kind, rng.choice(sites), rng.uniform(*lesion.radius_mm))
    for _ in range(rng.integers(*lesion.count, endpoint=True))
  ]


class Head:
  """A head in the making, on a scanner's grid.

  Lesions are placed in the template, so that they are deformed with the head.

  Attributes:
    points: f32[3,X,Y,Z], where in the template each voxel lies, mm.
    signal: f32[X,Y,Z], white matter being 1.
    white: f32[X,Y,Z], fraction of white matter.
    grey: Signal of grey matter.
  """

  def __init__(
    self,
    rng: np.random.Generator,
    axes_mm: list[np.ndarray],
    *,
    ageing: float,
    grey: float,
    foci: list[Focus],
  ):
    """Makes a brain.

    Args:
      rng: Decides everything else.
      axes_mm: f32[X], f32[Y], f32[Z] of the grid, 0 = centre, as RAS.
      ageing: From 0, youngest, to 1.
      grey: Signal of grey matter, relative to the mean scanner's.
      foci: Lesions that push tissue aside; `add_lesion` draws them.
    """
    self._axes_mm = axes_mm
    self._ageing = ageing
    self.points = self._deformed_grid(rng)
    grey_part, self.white, fluid_part = self._tissues(rng, foci)
    self.grey = grey * rng.uniform(0.68, 0.8)
    self.signal = self.white + self.grey * grey_part
    self.signal += rng.uniform(0.2, 0.32) * fluid_part
    self.signal *= 1 + 0.03 * self.field(rng, 12)
    # Two random surfaces meet in curves.
    squared = self.field(rng, 18) ** 2 + self.field(rng, 18) ** 2
    vessels = rng.uniform(*VESSELS) * np.exp(-squared / 0.03)
    self.signal += vessels * (1 - self.white)

  def field(self, rng: np.random.Generator, length_mm: float) -> np.ndarray:
    """Returns f32[X,Y,Z], a Gaussian random field of unit variance."""
    nodes = np.arange(-_FIELD_MM, _FIELD_MM + length_mm, length_mm)
    field = rng.standard_normal((len(nodes),) * 3, np.float32)
    for axis_mm in self._axes_mm:
      offset = (axis_mm[:, None] - nodes) / (0.7 * length_mm)
      weight = np.exp(-(offset**2) / 2)
      weight /= np.linalg.norm(weight, axis=1, keepdims=True)
      # The axis summed over leaves in front, the new one joins behind.
      field = np.tensordot(field, weight.astype(np.float32), (0, 1))
    return field

  def add_lesion(self, rng: np.random.Generator, focus: Focus) -> np.ndarray:
    """Draws a lesion.

    Args:
      rng: Decides contrast, outline, oedema and necrosis.
      focus: The lesion.

    Returns:
      f32[X,Y,Z], how much of each voxel is lesion or its oedema.
    """
    kind, centre_mm, radius_mm = focus
    contrast = rng.uniform(*LESIONS[kind].contrast)
    offset = self.points - centre_mm[:, None, None, None]
    distance_mm = np.sqrt(np.square(offset).sum(axis=0))
    if kind == "glioma":
      outline = IRREGULARITY * self.field(rng, 0.7 * radius_mm)
      distance_mm *= np.exp(outline)
    core = extent = _soft(radius_mm - distance_mm)
    if kind in ("cyst", "spot"):
      self.signal *= 1 - contrast * core
      return extent
    if kind != "meningioma":
      oedema = _soft(radius_mm * rng.uniform(*OEDEMA) - distance_mm)
      extent = np.maximum(core, oedema * self.white)
      self.signal *= 1 - contrast * extent
    self._paint(core, self.grey * (1 + contrast))
    if kind == "glioma":
      necrosis = _soft(radius_mm * rng.uniform(*NECROSIS) - distance_mm)
      self._paint(necrosis, self.grey * (1 - 1.5 * contrast))
    return extent

  def add_skull_and_scalp(self, rng: np.random.Generator) -> np.ndarray:
    """Wraps the brain; returns f32[X,Y,Z], 1 within the skull."""
    brain_mm = _sample("brain_mm", self.points)
    skin_mm = _sample("head_mm", self.points)
    csf_mm = rng.uniform(1.5, 3.5) + 1.5 * self._ageing
    skull_mm = csf_mm + rng.uniform(4, 7) + 0.7 * self.field(rng, 60)
    fat_mm = rng.uniform(4, 9)
    skin_mm -= skull_mm + fat_mm + self.field(rng, 50)
    inside = _soft(csf_mm - brain_mm)
    outside = 0.5 + 0.1 * self.field(rng, 10)  # muscle
    outside += _soft(skin_mm + fat_mm) * (rng.uniform(0.9, 1.3) - outside)
    outside *= 1 - 0.8 * _soft(skull_mm - brain_mm)
    self._paint(1 - inside, outside * _soft(-skin_mm))
    return inside

  def _deformed_grid(self, rng: np.random.Generator) -> np.ndarray:
    angles = rng.normal(0, 4, 3)
    turn = transform.Rotation.from_euler("xyz", angles, degrees=True)
    matrix = turn.as_matrix() / rng.uniform(0.85, 1.0, 3)
    grid = np.stack(np.meshgrid(*self._axes_mm, indexing="ij"))
    points = np.tensordot(matrix.astype(np.float32), grid, 1)
    for axis, centre_mm in enumerate(_CENTRE_MM):
      points[axis] += centre_mm + rng.normal(0, 2)
      for length_mm, deviation_mm in DEFORMATION_MM.items():
        points[axis] += deviation_mm * self.field(rng, length_mm)
    return points

  def _tissues(
    self, rng: np.random.Generator, foci: list[Focus]
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the fractions of grey matter, white matter and fluid."""
    widening = self._ageing * rng.uniform(*VENTRICLES)
    pushes = [(_VENTRICLES_MM, _VENTRICLES_REACH_MM, widening)]
    for kind, centre_mm, radius_mm in foci:
      if LESIONS[kind].mass_effect:
        pushes.append((centre_mm, 1.3 * radius_mm, LESIONS[kind].mass_effect))
    # Tissue is pushed aside by looking nearer to the centre.
    points = self.points.copy()
    for centre_mm, reach_mm, strength in pushes:
      offset = points - centre_mm[:, None, None, None]
      squared = np.square(offset).sum(axis=0)
      points -= offset * (strength * np.exp(squared / (-2 * reach_mm**2)))
    grey, white = _sample("grey", points), _sample("white", points)
    fluid = np.clip(1 - grey - white, 0, 1)
    fluid *= np.exp(ATROPHY * (self._ageing - 0.5) + rng.normal(0, 0.3))
    total = grey + white + fluid
    return grey / total, white / total, fluid / total

  def _paint(self, weight: np.ndarray, value: np.ndarray | float) -> None:
    self.signal += weight * (value - self.signal)


def _soft(depth_mm: np.ndarray) -> np.ndarray:
  """Returns 1 at a depth, 0 outside, and a ramp between."""
  return np.clip(depth_mm / _EDGE_MM + 0.5, 0, 1)


def _sample(name: str, points: np.ndarray) -> np.ndarray:
  """Looks a map of the template up at f32[3,X,Y,Z] points, mm."""
  voxels = points / _TEMPLATE_SPACING_MM
  return ndimage.map_coordinates(
    _template()[name], voxels, order=1, mode="nearest"
  )


@functools.cache
def _template() -> dict[str, np.ndarray]:
  """Loads the MNI152 template that ships with nilearn.

  Returns:
    Maps f32[67,79,64] of grey and white matter and of the distance to the
    brain's and the head's surface (mm, negative within), and where each kind
    of focus may lie, f32[N,3], mm.

  Source: Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033.
  """
  from nilearn import datasets  # takes seconds, and only a phantom needs it

  grey, white, brain = (
    np.asarray(load(resolution=_TEMPLATE_SPACING_MM).dataobj, np.float32)
    for load in (
      datasets.load_mni152_gm_template,
      datasets.load_mni152_wm_template,
      datasets.load_mni152_brain_mask,
    )
  )
  # The skull does not follow the fissures.
  brain = ndimage.binary_closing(np.pad(brain > 0, 5), iterations=5)
  brain = np.array(brain)[5:-5, 5:-5, 5:-5]
  # Below its widest level the head does not narrow with the brain.
  head = np.maximum.accumulate(brain[:, :, ::-1], axis=2)[:, :, ::-1]
  brain_mm, head_mm = _surface_distance_mm(brain), _surface_distance_mm(head)

  z_mm = _TEMPLATE_SPACING_MM * np.arange(brain.shape[2])
  deep = (white > 0.8) & (brain_mm < -10) & (z_mm > 42)
  edge = (brain_mm < -2) & (brain_mm > -8) & (z_mm > 47)
  junction = np.minimum(grey, white) > 0.3
  junction &= (brain_mm < -4) & (brain_mm > -25) & (z_mm > 22)
  sites = {"glioma": deep, "meningioma": edge, "metastasis": junction}
  sites |= {"cyst": edge, "spot": deep}
  maps = {"brain_mm": brain_mm, "head_mm": head_mm}
  maps |= {"grey": grey * brain, "white": white * brain}
  for kind, where in sites.items():
    sites_mm = _TEMPLATE_SPACING_MM * np.argwhere(where)
    maps[f"{kind} sites"] = sites_mm.astype(np.float32)
  return maps


def _surface_distance_mm(mask: np.ndarray) -> np.ndarray:
  """Returns f32[X,Y,Z], the distance to a mask's surface, negative within."""
  outer = np.asarray(ndimage.distance_transform_edt(~mask))
  inner = np.asarray(ndimage.distance_transform_edt(mask))
  distance_mm = _TEMPLATE_SPACING_MM * (outer - inner)
  return ndimage.gaussian_filter(distance_mm, 1.0).astype(np.float32)
