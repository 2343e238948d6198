"""A head as thresholds see it: brain, dark skull, bright scalp, noise."""

import nibabel as nib
import numpy as np

from brainjax import config
from brainjax.cohort import manifest

BRAIN_MM = np.array([60.0, 75.0, 55.0])  # half axes
TUMOUR_MM = np.array([-25.0, 30.0, 10.0])  # left, in front, above the centre


def tiny_head(spacing_mm=(6.0, 6.0, 6.0), *, stripped=False, seed=0):
  """Returns f32[X,Y,Z] in RAS order, bool brain and bool tumour."""
  spacing = np.array(spacing_mm)
  shape = np.ceil(2 * (BRAIN_MM + 30) / spacing).astype(int)
  axes = [
    (np.arange(n) - (n - 1) / 2) * s
    for n, s in zip(shape, spacing, strict=True)
  ]
  points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)

  def within(margin_mm):
    return ((points / (BRAIN_MM + margin_mm)) ** 2).sum(-1) < 1

  brain = within(0)
  tumour = ((points - TUMOUR_MM) ** 2).sum(-1) < 14**2
  noise = np.random.default_rng(seed).normal(0, 4, shape)
  array = np.where(within(24), 250.0, 0.0)  # scalp
  array[within(11)] = 10  # skull
  array[brain] = 100
  array[tumour] = 160
  array += noise
  if stripped:
    array = np.where(brain, np.maximum(array, 1), 0)
  return array.astype(np.float32), brain, tumour


def write_scans(folder, *, count=3, with_mask=False, spacing_mm=(12.0,) * 3):
  """Writes stripped heads and their manifest; returns its path."""
  folder.mkdir(parents=True, exist_ok=True)
  rows = []
  for i in range(count):
    array, _, tumour = tiny_head(spacing_mm, stripped=True, seed=i)
    affine = np.diag([*spacing_mm, 1.0])
    nib.save(nib.Nifti1Image(array, affine), folder / f"p{i}.nii")
    row = {"participant_id": f"p{i}", "label": "glioma", "t1": f"p{i}.nii"}
    if with_mask:
      mask = nib.Nifti1Image(tumour.astype(np.uint8), affine)
      nib.save(mask, folder / f"p{i}_mask.nii.gz")
      row["mask"] = f"p{i}_mask.nii.gz"
    rows.append(row)
  path = folder / "manifest.csv"
  manifest.write_manifest(path, rows, list(rows[0]))
  return path


def settings(**fields):
  """Returns the section `preparation` for tiny slices."""
  section = config.get_config().preparation
  section.height = section.width = 16
  section.num_slices = 4
  section.bias_field.method = "none"
  section.bias_field.update(fields.pop("bias_field", {}))
  section.update(fields)
  return section
