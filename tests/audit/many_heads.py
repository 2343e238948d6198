"""Scans for the audit: people's heads in files, and facts without images."""

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainjax.audit.describe import Scan
from brainjax.cohort import manifest

SPACING_MM = (6.0, 6.0, 6.0)
SHAPE = (28, 34, 26)


def head(seed):
  """f32[X,Y,Z] in RAS order: an ellipsoid with folds of its own."""
  rng = np.random.default_rng(seed)
  grid = np.stack(np.indices(SHAPE), -1) - (np.array(SHAPE) - 1) / 2
  inside = ((grid / (np.array(SHAPE) / 2 - 3)) ** 2).sum(-1) < 1
  folds = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5)
  return np.where(inside, 200 + 900 * folds, 0).clip(0).astype(np.float32)


def write_head(path, array, spacing_mm=SPACING_MM, affine=None):
  if affine is None:
    affine = np.diag([*spacing_mm, 1.0])
  nib.save(nib.Nifti1Image(array, affine), path)


def write_cohort(folder, count=6):
  """Writes heads of different people; returns the rows."""
  folder.mkdir(parents=True, exist_ok=True)
  rows = []
  for i in range(count):
    write_head(folder / f"p{i}.nii", head(i))
    label = ("normal", "glioma")[i % 2]
    rows.append(row(f"p{i}", label) | {"t1": f"p{i}.nii"})
  return rows


def write_manifest(folder, rows):
  path = folder / "manifest.csv"
  columns = list(dict.fromkeys(name for r in rows for name in r))
  manifest.write_manifest(path, rows, columns)
  return path


def row(participant_id, label="glioma", **cells):
  cells = {"session_id": "", "group_id": participant_id, **cells}
  return {"participant_id": participant_id, "label": label, **cells}


def scans(count=80, seed=0, **of_label):
  """Described scans of two labels.

  Args:
    count: How many.
    seed: Of what is random.
    **of_label: Columns and names of `Scan.numbers` that follow the label in
      nine of ten scans; all others are random.
  """
  rng = np.random.default_rng(seed)
  found = []
  for i in range(count):
    label = int(rng.integers(2))

    def fact(name, label=label):
      follows = of_label.get(name) and rng.random() < 0.9
      return label if follows else int(rng.integers(2))

    age = 30 + 30 * fact("age") + 5 * rng.standard_normal()
    cells = {
      "source": "one",
      "site": f"site{fact('site')}",
      "scanner": f"scanner{fact('scanner')}",
      "age": f"{age:.0f}",
      "sex": "FM"[fact("sex")],
    }
    prefix = "MR" if fact("id_prefix") else "CT"
    numbers = {
      "slices": np.array([20.0 + 4 * fact("slices") + rng.integers(3)]),
      "spacing": np.array([1.0, 1.0, 3.0 + 2 * fact("spacing")]),
      "matrix": np.array([256.0, 256.0]),
      "band": rng.standard_normal(3),
      "brain_shape": rng.standard_normal(8),
      "moments": rng.standard_normal(4) + 2 * fact("moments"),
      "thumbnail": rng.standard_normal(64),
    }
    name = ("normal", "tumour")[label]
    scan_row = row(f"{prefix}{i:05d}", name, **cells)
    layout = f"RAS int16 {fact('layout')}"
    found.append(Scan(scan_row, numbers=numbers, layout=layout))
  return found
