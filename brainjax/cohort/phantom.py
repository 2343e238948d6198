"""A synthetic cohort: T1-weighted heads with and without a tumour.

Half of the participants are normal, the others carry a tumour, and each is
seen by one of three scanners; `phantom_head.py` draws them. Participant i is a
pure function of (seed, i). Label, scanner, anatomy and tumour have random
streams of their own, so that nothing but the tumour follows the label. A score
on this cohort says nothing about patients.
"""

import gzip
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel import orientations

from brainjax import InputError, __version__, records
from brainjax.cohort import phantom_head


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
AGES = (25, 80)  # years, first and last
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
CONFOUNDED = 0.9  # share whose scanner follows the label, if asked for
GAIN_SPREAD = 0.15  # standard deviation of the logarithm of the gain
_COLUMNS = (
  "participant_id",
  "label",
  "t1",
  "mask",
  "session_id",
  "group_id",
  "source",
  "site",
  "scanner",
  "age",
  "sex",
)


def write_phantom_cohort(
  root: str | os.PathLike[str],
  *,
  participants: int = 200,
  seed: int = 0,
  confounded: bool = False,
  progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> tuple[list[dict[str, str]], tuple[str, ...]]:
  """Writes the cohort's images; started again, it goes on where it stopped.

  Args:
    root: Folder of `<participant_id>_{t1,mask}.nii.gz`; made if missing. The
      mask is of the whole tumour, oedema included; a normal's is all zero.
    participants: How many; half are normal, a sixth has each tumour.
    seed: Chooses the cohort.
    confounded: See `describe`.
    progress: Wraps the loop over participants, to show how far it is.

  Returns:
    The manifest's rows, with absolute paths, and its columns.

  Raises:
    InputError: A number is out of range, or a file there is of another seed
      or version.
  """
  if participants < 1 or seed < 0:
    raise InputError(
      f"phantom: {participants} participants, seed {seed}: ask for at least 1"
      " participant and a seed of at least 0"
    )
  folder = pathlib.Path(os.path.abspath(root))
  folder.mkdir(parents=True, exist_ok=True)
  origin = f"brainjax {__version__} phantom, seed {seed}"
  origin += ", confounded" if confounded else ""
  indices = range(participants)
  rows = []
  for index in progress(indices) if progress else indices:
    row = describe(seed, index, confounded=confounded)
    name = row["participant_id"]
    files = [folder / f"{name}_{kind}.nii.gz" for kind in ("t1", "mask")]
    if not all([_is_there(file, origin) for file in files]):
      arrays = render(seed, index, row["label"], row["scanner"])
      for file, array in zip(files, arrays, strict=True):
        _write(file, array, SCANNERS[row["scanner"]], origin)
    rows.append(row | {"t1": str(files[0]), "mask": str(files[1])})
  return rows, _COLUMNS


def describe(
  seed: int, index: int, *, confounded: bool = False
) -> dict[str, str]:
  """Returns the manifest's row of participant `index`, without its files.

  Args:
    seed: Of the cohort.
    index: Of the participant.
    confounded: Nine of ten participants are scanned in the south if they have
      a tumour, and in the north if not: a fault for the audit to find.
  """
  participant_id = f"phantom-{index:05d}"
  order = _stream(seed, index // 6, "labels").permutation(6)
  rng = _stream(seed, index, "participant")
  scanner = str(rng.choice(list(SCANNERS)))
  label = LABELS[order[index % 6]]
  fault = _stream(seed, index, "confounded")
  if confounded and fault.random() < CONFOUNDED:
    site = "north" if label == "normal" else "south"
    legal = [name for name, scanner in SCANNERS.items() if scanner.site == site]
    scanner = str(fault.choice(legal))
  return {
    "participant_id": participant_id,
    "label": label,
    "session_id": "",
    "group_id": participant_id,
    "source": "phantom",
    "site": SCANNERS[scanner].site,
    "scanner": scanner,
    "age": str(rng.integers(*AGES, endpoint=True)),
    "sex": str(rng.choice(["F", "M"])),
  }


def render(
  seed: int, index: int, label: str, scanner_name: str = ""
) -> tuple[np.ndarray, np.ndarray]:
  """Scans participant `index`, as if the diagnosis were `label`.

  Args:
    seed: Of the cohort.
    index: Of the participant.
    label: One of `LABELS`.
    scanner_name: One of `SCANNERS`; the participant's own by default.

  Returns:
    i16[X,Y,Z] volume and u8[X,Y,Z] tumour mask, in the order of RAS.
  """
  row = describe(seed, index)
  scanner = SCANNERS[scanner_name or row["scanner"]]
  axes_mm = [
    (np.arange(n, dtype=np.float32) - (n - 1) / 2) * spacing
    for n, spacing in zip(scanner.shape, scanner.spacing_mm, strict=True)
  ]
  rng = _stream(seed, index, "anatomy")
  tumour_rng = _stream(seed, index, "tumour")
  scan_rng = _stream(seed, index, "scan")
  tumours = []
  if label != "normal":
    tumours = phantom_head.choose_foci(tumour_rng, label)
  others = phantom_head.choose_foci(rng, "cyst")
  others += phantom_head.choose_foci(rng, "spot")

  ageing = (int(row["age"]) - AGES[0]) / (AGES[1] - AGES[0])
  head = phantom_head.Head(
    rng, axes_mm, ageing=ageing, grey=scanner.grey, foci=others + tumours
  )
  for focus in others:
    head.add_lesion(rng, focus)
  extent = np.zeros(scanner.shape)
  for focus in tumours:
    extent = np.maximum(extent, head.add_lesion(tumour_rng, focus))
  inside = head.add_skull_and_scalp(rng)

  received = head.signal * np.exp(scanner.shading * head.field(scan_rng, 70))
  # The magnitude of a complex signal makes the noise Rician.
  real, imaginary = scanner.noise * scan_rng.standard_normal((2, *extent.shape))
  gain = scanner.gain * np.exp(GAIN_SPREAD * scan_rng.standard_normal())
  volume = np.round(gain * np.hypot(received + real, imaginary))
  mask = np.minimum(extent, inside) > 0.5
  return volume.astype(np.int16), mask.astype(np.uint8)


def _is_there(file: pathlib.Path, origin: str) -> bool:
  """Whether the file was written; refuses one of another cohort."""
  if not file.exists():
    return False
  header = nib.Nifti1Image.from_filename(file).header
  found = str(header["descrip"].astype(str))
  if found != origin:
    raise InputError(
      f"{file}: it is of {found!r}, not of {origin!r}; give another folder or"
      " delete this one"
    )
  return True


def _write(
  file: pathlib.Path, array: np.ndarray, scanner: Scanner, origin: str
) -> None:
  """Writes voxels that are in the order of RAS in the scanner's own."""
  affine = np.diag((*scanner.spacing_mm, 1.0))
  affine[:3, 3] = -(np.array(array.shape) - 1) / 2 * scanner.spacing_mm
  turn = orientations.ornt_transform(
    orientations.axcodes2ornt("RAS"),
    orientations.axcodes2ornt(scanner.orientation),
  )
  affine = affine @ orientations.inv_ornt_aff(turn, array.shape)
  image = nib.Nifti1Image(orientations.apply_orientation(array, turn), affine)
  image.header["descrip"] = origin
  image.header.set_xyzt_units("mm")
  # The time in a gzip header would make equal images unequal files.
  with records.replacing(file) as partial:
    partial.write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))


def _stream(seed: int, index: int, name: str) -> np.random.Generator:
  """A random stream that shares nothing with one of another name."""
  return np.random.default_rng([seed, index, *name.encode()])
