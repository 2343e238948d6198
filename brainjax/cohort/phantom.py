"""A synthetic cohort: T1-weighted heads with and without a tumour.

Every participant is the MNI152 template, deformed, given a skull and a scalp
and seen by one of three scanners. Patients carry a tumour; anyone may carry
what is mistaken for one: white-matter spots, cysts, wide ventricles, bright
vessels. Participant i is a pure function of (seed, i); label, scanner, anatomy
and tumour have random streams of their own, so that nothing but the tumour
follows the label. A score on this cohort says nothing about patients.
"""

import functools
import gzip
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel import orientations
from scipy import ndimage
from scipy.spatial import transform

from brainjax import InputError, __version__, records


class Lesion(NamedTuple):
  """One kind of lesion; a pair is the limits of a uniform distribution."""

  count: tuple[int, int]  # foci
  radius_mm: tuple[float, float]  # of a focus, without its oedema
  contrast: tuple[float, float]  # relative change of signal
  irregularity: float  # standard deviation of the logarithm of the radius
  mass_effect: float  # how far tissue is pushed, fraction of the distance


class Scanner(NamedTuple):
  """What a scanner does to every head; axes are in the order of RAS."""

  site: str
  orientation: str  # of its files
  spacing_mm: tuple[float, float, float]
  shape: tuple[int, int, int]
  gain: float  # stored value of white matter
  grey: float  # signal of grey matter, relative to the mean scanner's
  noise: float  # standard deviation in either channel, white matter being 1
  shading: float  # standard deviation of the receive field's logarithm


# Six participants in a row hold the exact shares.
LABELS = ("normal",) * 3 + ("glioma", "meningioma", "metastasis")
LESIONS = {
  "glioma": Lesion((1, 1), (9.0, 18.0), (0.10, 0.35), 0.3, 0.2),
  "meningioma": Lesion((1, 1), (9.0, 17.0), (0.10, 0.35), 0.05, 0.5),
  "metastasis": Lesion((2, 5), (3.5, 7.0), (0.15, 0.55), 0.05, 0.2),
  "cyst": Lesion((0, 1), (4.0, 9.0), (0.55, 0.75), 0.05, 0.4),
  "spot": Lesion((0, 8), (2.0, 4.0), (0.10, 0.35), 0.1, 0.0),
}
OEDEMA = (1.3, 1.9)  # radius, in radii of the focus
NECROSIS = (0.4, 0.85)  # the same, in a glioma
VESSELS = (0.0, 0.7)  # added signal, white matter being 1
AGES = (25, 80)  # years
VENTRICLES = (0.0, 0.4)  # widening at the highest age, as mass_effect
ATROPHY = 0.6  # log odds of fluid, from the lowest age to the highest
DEFORMATION_MM = {60.0: 5.0, 12.0: 1.5}  # {length: standard deviation}
SCANNERS = {
  "north-1.5T": Scanner(
    "north", "LAS", (3.0, 3.0, 5.0), (64, 80, 35), 420.0, 1.04, 0.05, 0.06
  ),
  "north-3T": Scanner(
    "north", "RAS", (2.8, 2.8, 4.0), (68, 85, 43), 1400.0, 0.97, 0.03, 0.12
  ),
  "south-3T": Scanner(
    "south", "PSR", (3.0, 3.0, 3.0), (64, 80, 58), 900.0, 1.0, 0.04, 0.09
  ),
}

# Template space is millimetres from the template's first voxel.
_TEMPLATE_SPACING_MM = 3
_CENTRE_MM = (98.0, 117.0, 81.0)  # of the field of view
_VENTRICLES_MM = (98.0, 119.0, 84.0)
_FIELD_MM = 130.0  # half the side of a random field
_EDGE_MM = 3.0  # over which one tissue gives way to the next


def write_phantom_cohort(
  root: pathlib.Path,
  *,
  participants: int = 200,
  seed: int = 0,
  progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
  """Writes the cohort's images; started again, it goes on where it stopped.

  Args:
    root: Folder of `<participant_id>_{t1,mask}.nii.gz`; made if missing. The
      mask is of the whole tumour, oedema included; a normal's is all zero.
    participants: How many; half are normal, a sixth has each tumour.
    seed: Chooses the cohort.
    progress: Wraps the loop over participants, to show how far it is.

  Returns:
    The manifest's rows, with paths relative to `root`, and its columns.

  Raises:
    InputError: A number is out of range, or a file there is of another seed
      or version.
  """
  if participants < 1 or seed < 0:
    raise InputError(
      f"phantom: {participants} participants, seed {seed}: ask for at least 1"
      " participant and a seed of at least 0"
    )
  root.mkdir(parents=True, exist_ok=True)
  origin = f"brainjax {__version__} phantom, seed {seed}"
  indices = range(participants)
  rows = []
  for index in progress(indices) if progress else indices:
    row = describe(seed, index)
    files = [root / row[column] for column in ("t1", "mask")]
    if not all([_is_there(file, origin) for file in files]):
      arrays = render(seed, index, row["label"])
      for file, array in zip(files, arrays, strict=True):
        _write(file, array, SCANNERS[row["scanner"]], origin)
    rows.append(row)
  return rows, list(rows[0])


def describe(seed: int, index: int) -> dict[str, Any]:
  """Returns the manifest's row of participant `index`."""
  participant_id = f"phantom-{index:05d}"
  order = _stream(seed, index // 6, "labels").permutation(6)
  rng = _stream(seed, index, "participant")
  scanner = str(rng.choice(list(SCANNERS)))
  return {
    "participant_id": participant_id,
    "label": LABELS[order[index % 6]],
    "t1": f"{participant_id}_t1.nii.gz",
    "mask": f"{participant_id}_mask.nii.gz",
    "session_id": "",
    "group_id": participant_id,
    "source": "phantom",
    "site": SCANNERS[scanner].site,
    "scanner": scanner,
    "age": int(rng.integers(*AGES, endpoint=True)),
    "sex": str(rng.choice(["F", "M"])),
  }


def render(seed: int, index: int, label: str) -> tuple[np.ndarray, np.ndarray]:
  """Scans participant `index`, as if the diagnosis were `label`.

  Returns:
    i16[X,Y,Z] volume and u8[X,Y,Z] tumour mask, in the order of RAS.
  """
  row = describe(seed, index)
  scanner = SCANNERS[row["scanner"]]
  rng = _stream(seed, index, "anatomy")
  tumour_rng = _stream(seed, index, "tumour")
  scan_rng = _stream(seed, index, "scan")
  others = _choose_foci(rng, "cyst") + _choose_foci(rng, "spot")
  tumours = [] if label == "normal" else _choose_foci(tumour_rng, label)

  ageing = (row["age"] - AGES[0]) / (AGES[1] - AGES[0])
  head = _Head(rng, scanner, ageing, others + tumours)
  for focus in others:
    head.add_lesion(rng, focus)
  extent = np.zeros_like(head.signal)
  for focus in tumours:
    extent = np.maximum(extent, head.add_lesion(tumour_rng, focus))
  inside = head.add_skull_and_scalp(rng, ageing)

  head.signal *= np.exp(scanner.shading * head.field(scan_rng, 70))
  channels = scanner.noise * scan_rng.standard_normal((2, *inside.shape))
  channels[0] += head.signal
  gain = scanner.gain * np.exp(0.15 * scan_rng.standard_normal())
  volume = np.round(gain * np.hypot(*channels)).astype(np.int16)
  return volume, (np.minimum(extent, inside) > 0.5).astype(np.uint8)


class _Focus(NamedTuple):
  kind: str
  centre_mm: np.ndarray  # f32[3], in the template
  radius_mm: float


def _choose_foci(rng: np.random.Generator, kind: str) -> list[_Focus]:
  sites = _template()[f"{kind} sites"]
  lesion = LESIONS[kind]
  return [
    _Focus(kind, rng.choice(sites), rng.uniform(*lesion.radius_mm))
    for _ in range(rng.integers(*lesion.count, endpoint=True))
  ]


class _Head:
  """A head in the making, on a scanner's grid.

  Attributes:
    points: f32[3,X,Y,Z], where in the template each voxel lies, mm. Whatever
      is placed there is deformed with the head.
    signal: f32[X,Y,Z], white matter being 1.
    white: f32[X,Y,Z], fraction of white matter.
    grey: Signal of grey matter.
  """

  def __init__(
    self,
    rng: np.random.Generator,
    scanner: Scanner,
    ageing: float,
    foci: list[_Focus],
  ):
    self._axes_mm = [
      (np.arange(n, dtype=np.float32) - (n - 1) / 2) * spacing
      for n, spacing in zip(scanner.shape, scanner.spacing_mm, strict=True)
    ]
    angles = rng.normal(0, 4, 3)
    turn = transform.Rotation.from_euler("xyz", angles, degrees=True)
    matrix = turn.as_matrix() / rng.uniform(0.85, 1.0, 3)
    grid = np.stack(np.meshgrid(*self._axes_mm, indexing="ij"))
    self.points = np.tensordot(np.float32(matrix), grid, 1)
    for axis, centre_mm in enumerate(_CENTRE_MM):
      self.points[axis] += centre_mm + rng.normal(0, 2)
      for length_mm, deviation_mm in DEFORMATION_MM.items():
        self.points[axis] += deviation_mm * self.field(rng, length_mm)

    # Tissue is pushed aside by looking nearer to the centre.
    points = self.points.copy()
    widening = ageing * rng.uniform(*VENTRICLES)
    pushes = [(np.float32(_VENTRICLES_MM), 28.0, widening)]
    for kind, centre_mm, radius_mm in foci:
      pushes.append((centre_mm, 1.3 * radius_mm, LESIONS[kind].mass_effect))
    for centre_mm, reach_mm, strength in pushes:
      offset = points - centre_mm[:, None, None, None]
      squared = np.square(offset).sum(axis=0)
      points -= offset * (strength * np.exp(squared / (-2 * reach_mm**2)))
    grey, white = (_sample(name, points) for name in ("grey", "white"))
    fluid = np.clip(1 - grey - white, 0, 1)
    fluid *= np.exp(ATROPHY * (ageing - 0.5) + 0.3 * rng.standard_normal())
    total = grey + white + fluid
    self.white = white / total
    self.grey = rng.uniform(0.68, 0.8) * scanner.grey
    self.signal = (white + self.grey * grey) / total
    self.signal += rng.uniform(0.2, 0.32) * fluid / total
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
      field = np.tensordot(field, np.float32(weight), (0, 1))
    return field

  def paint(self, weight: np.ndarray, value: np.ndarray | float) -> None:
    """Replaces the signal where `weight` is 1."""
    self.signal += weight * (value - self.signal)

  def add_lesion(self, rng: np.random.Generator, focus: _Focus) -> np.ndarray:
    """Paints a focus; returns f32[X,Y,Z], how much of each voxel it is."""
    kind, centre_mm, radius_mm = focus
    contrast = rng.uniform(*LESIONS[kind].contrast)
    offset = self.points - centre_mm[:, None, None, None]
    distance_mm = np.sqrt(np.square(offset).sum(axis=0))
    shape = LESIONS[kind].irregularity * self.field(rng, 0.7 * radius_mm)
    distance_mm *= np.exp(shape)
    core = extent = _soft(radius_mm - distance_mm)
    if kind in ("glioma", "metastasis"):
      oedema = _soft(radius_mm * rng.uniform(*OEDEMA) - distance_mm)
      extent = np.maximum(core, oedema * self.white)
      self.signal *= 1 - contrast * extent
    if kind in ("cyst", "spot"):
      self.signal *= 1 - contrast * core
    else:
      self.paint(core, self.grey * (1 + contrast))
    if kind == "glioma":
      necrosis = _soft(radius_mm * rng.uniform(*NECROSIS) - distance_mm)
      self.paint(necrosis, self.grey * (1 - 1.5 * contrast))
    return extent

  def add_skull_and_scalp(
    self, rng: np.random.Generator, ageing: float
  ) -> np.ndarray:
    """Wraps the brain; returns f32[X,Y,Z], 1 within the skull."""
    brain_mm, skin_mm = (
      _sample(name, self.points) for name in ("brain_mm", "head_mm")
    )
    csf_mm = rng.uniform(1.5, 3.5) + 1.5 * ageing
    skull_mm = csf_mm + rng.uniform(4, 7) + 0.7 * self.field(rng, 60)
    fat_mm = rng.uniform(4, 9)
    skin_mm -= skull_mm + fat_mm + self.field(rng, 50)
    inside = _soft(csf_mm - brain_mm)
    outside = 0.5 + 0.1 * self.field(rng, 10)  # muscle
    outside += _soft(skin_mm + fat_mm) * (rng.uniform(0.9, 1.3) - outside)
    outside *= 1 - 0.8 * _soft(skull_mm - brain_mm)
    self.paint(1 - inside, outside * _soft(-skin_mm))
    return inside


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
  junction = (np.minimum(grey, white) > 0.3) & (brain_mm < -4) & (z_mm > 22)
  sites = {"glioma": deep, "meningioma": edge, "metastasis": junction}
  sites |= {"cyst": edge, "spot": deep}
  maps = {"brain_mm": brain_mm, "head_mm": head_mm}
  maps |= {"grey": grey * brain, "white": white * brain}
  for kind, where in sites.items():
    maps[f"{kind} sites"] = np.float32(
      _TEMPLATE_SPACING_MM * np.argwhere(where)
    )
  return maps


def _surface_distance_mm(mask: np.ndarray) -> np.ndarray:
  """Returns f32[X,Y,Z], the distance to a mask's surface, negative within."""
  outer = np.asarray(ndimage.distance_transform_edt(~mask))
  inner = np.asarray(ndimage.distance_transform_edt(mask))
  return np.float32(
    _TEMPLATE_SPACING_MM * ndimage.gaussian_filter(outer - inner, 1.0)
  )


def _is_there(file: pathlib.Path, origin: str) -> bool:
  """Whether the file was written; refuses one of another cohort."""
  if not file.exists():
    return False
  found = nib.Nifti1Image.from_filename(file).header["descrip"].item().decode()
  if found != origin:
    raise InputError(
      f"{file}: it is of {found!r}, not of {origin!r}; give another folder or"
      " delete this one"
    )
  return True


def _write(
  file: pathlib.Path, array: np.ndarray, scanner: Scanner, origin: str
) -> None:
  """Writes voxels in the order of RAS as the scanner would."""
  affine = np.diag((*scanner.spacing_mm, 1.0))
  affine[:3, 3] = -(np.array(array.shape) - 1) / 2 * scanner.spacing_mm
  image = nib.Nifti1Image(array, affine).as_reoriented(
    orientations.ornt_transform(
      orientations.axcodes2ornt("RAS"),
      orientations.axcodes2ornt(scanner.orientation),
    )
  )
  image.header["descrip"] = origin
  image.header.set_xyzt_units("mm")
  # The time in a gzip header would make equal images unequal files.
  with records.replacing(file) as partial:
    partial.write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))


def _stream(seed: int, index: int, name: str) -> np.random.Generator:
  """A random stream that shares nothing with one of another name."""
  return np.random.default_rng([seed, index, *name.encode()])
