"""Preparation: N4 against SimpleITK's, and all of it against MONAI.

`n4_vs_sitk` is the bias field of a volume on its coarse grid, against
SimpleITK with all its threads and the same settings, one volume at a time;
`n4_batched_vs_sitk` hands all volumes over at once. The largest difference of
the log fields stands beside it, and the seconds of compilation.

`prepare_vs_monai` is a file to the integers of a record, in one process each,
without N4 on either side; `prepare_n4_vs_monai` with it, ours in JAX, MONAI's
by SimpleITK on the same coarse grid. MONAI crops to what is brighter than the
mean, where we look for the brain, and resizes to the same number of pixels and
slices. `..._cpu` is the same in seconds of the processor, of all threads, which
other processes on the machine change far less. We unpack with zlib-ng, MONAI
with what nibabel takes, Python's own.

Sides alternate; a ratio is of medians, and its spread is that of the ratios of
neighbouring runs (10th and 90th percentile).

    python benchmarks/preparation.py [--quick] [--scans FILE ...]

The volumes are heads of the phantom, interpolated to 1 mm, or the NIfTI files
given. Without MONAI only N4 is compared. The last line is one JSON object.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import tempfile
import time

import brainjax

brainjax.set_xla_flags()
brainjax.keep_freed_memory()

import jax  # noqa: E402  (after the flags are set)
import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
import scipy.ndimage  # noqa: E402
from step import alternate, compare, versions  # noqa: E402

from brainjax import config, records  # noqa: E402
from brainjax.cohort import manifest, phantom  # noqa: E402
from brainjax.preparation import bias_field, n4, reading, scan  # noqa: E402
from brainjax.preparation.volume import volume_of  # noqa: E402

HAS_MONAI = importlib.util.find_spec("monai") is not None
THREADS = len(os.sched_getaffinity(0))
SETTINGS = config.get_config().preparation
N4 = {
  "iterations": SETTINGS.bias_field.iterations,
  "tolerance": SETTINGS.bias_field.tolerance,
}


def draw_scans(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
  """Writes heads of the phantom with voxels of 1 mm."""
  files = []
  for index in range(count):
    row = phantom.describe(0, index)
    array, _ = phantom.render(0, index, row["label"])
    spacing_mm = phantom.SCANNERS[row["scanner"]].spacing_mm
    fine = scipy.ndimage.zoom(array, spacing_mm, order=1)
    files.append(folder / f"{index}.nii.gz")
    nib.save(nib.Nifti1Image(fine, np.eye(4)), files[-1])
  return files


class Jax:
  """Our N4 of all grids, one after the other or at once."""

  def __init__(self, grids, *, batched: bool):
    self.calls = [grids] if batched else [[grid] for grid in grids]

  def run(self):
    """Fits every volume; the lattices stay in `found`."""
    self.found = [
      lattice
      for grids in self.calls
      for lattice in n4.fit_lattices(*zip(*grids, strict=True), **N4)
    ]


class SimpleItk:
  """SimpleITK's N4 with all its threads."""

  def __init__(self, grids):
    self.grids = grids

  def run(self):
    """Fits every volume; the lattices stay in `found`."""
    self.found = [
      bias_field.sitk_lattice(*grid, threads=THREADS, **N4)
      for grid in self.grids
    ]


def largest_difference(found, wanted, grids) -> float:
  """Returns the largest difference of the log fields on the coarse grids."""
  differences = []
  for ours, theirs, (image, _) in zip(found, wanted, grids, strict=True):
    size = len(ours)
    bases = [
      bias_field.spline_basis(bias_field.mesh_points(n), n, size)
      for n in image.shape
    ]
    difference = ours.astype(np.float64) - theirs
    field = bias_field.tensor_product(bases, difference)
    differences.append(float(np.abs(field).max()))
  return max(differences)


class Ours:
  """brainjax, up to a record in memory."""

  def __init__(self, files, folder: pathlib.Path, method: str):
    path = folder / f"{method}.csv"
    rows = [
      {"participant_id": f"p{i}", "label": "", "t1": str(file.resolve())}
      for i, file in enumerate(files)
    ]
    manifest.write_manifest(path, rows, list(rows[0]))
    self.manifest = manifest.read_manifest(path)
    self.settings = config.get_config().preparation
    self.settings.bias_field.method = method

  def run(self):
    """Prepares every scan."""
    for row in self.manifest.rows:
      prepared = scan.prepare_scan(self.manifest, row, self.settings)
      records.encode(prepared.record)


class Monai:
  """A pipeline of MONAI's transforms, up to integers in memory."""

  def __init__(self, files, method: str):
    from monai import transforms

    steps = [
      transforms.LoadImage(image_only=True, ensure_channel_first=True),
      transforms.Orientation("RAS", labels=None),
      transforms.CropForeground(select_fn=lambda x: x > x.mean(), margin=5),
      transforms.Resize(
        (SETTINGS.height, SETTINGS.width, SETTINGS.num_slices), mode="trilinear"
      ),
      transforms.NormalizeIntensity(nonzero=True),
      transforms.ScaleIntensityRange(-5, 5, 0, 254, clip=True),
      transforms.CastToType(np.uint8),
    ]
    if method == "sitk":
      steps.insert(2, self._corrected)
    self.transform = transforms.Compose(steps)
    self.files = files

  def _corrected(self, image):
    volume = volume_of(image[0].numpy(), image.affine.numpy())
    grid_mm = SETTINGS.bias_field.grid_mm
    lattice = bias_field.sitk_lattice(
      *bias_field.coarse(volume, grid_mm), threads=THREADS, **N4
    )
    field = bias_field.bias_field(lattice, volume, grid_mm=grid_mm)
    return image / image.new_tensor(field)[None]

  def run(self):
    """Prepares every scan."""
    for file in self.files:
      self.transform(file)


class Clocked:
  """A side, and the processor's seconds of each of its runs."""

  def __init__(self, side):
    self.side, self.seconds = side, []

  def run(self):
    """Prepares every scan."""
    began = time.process_time()
    self.side.run()
    self.seconds.append(time.process_time() - began)


def compare_n4(grids, repeats: int) -> tuple[dict, dict]:
  """Times N4; returns ratios and figures."""
  sides = {
    "jax": Jax(grids, batched=False),
    "jax, batched": Jax(grids, batched=True),
    "SimpleITK": SimpleItk(grids),
  }
  began = time.perf_counter()
  for name in ("jax", "jax, batched"):
    sides[name].run()
  figures = {"first_calls_seconds": time.perf_counter() - began}
  seconds = alternate(sides, "run", repeats)
  ratios = {}
  for key, name in (("n4", "jax"), ("n4_batched", "jax, batched")):
    key += "_vs_sitk"
    figures[key] = compare(seconds[name], seconds["SimpleITK"])
    figures[key]["log_field_difference"] = largest_difference(
      sides[name].found, sides["SimpleITK"].found, grids
    )
    ratios[key] = figures[key]["ratio"]
  for name, times in seconds.items():
    figures[name] = statistics.median(times) / len(grids)
    print(f"{name:28}{1e3 * figures[name]:10.0f} ms a volume")
  return ratios, figures


def compare_monai(files, folder, repeats: int) -> tuple[dict, dict]:
  """Times preparation; returns ratios and figures."""
  sides = {
    "ours, no N4": Clocked(Ours(files, folder, "none")),
    "ours, N4 jax": Clocked(Ours(files, folder, "jax")),
    "MONAI, no N4": Clocked(Monai(files, "none")),
    "MONAI, N4 SimpleITK": Clocked(Monai(files, "sitk")),
  }
  seconds = alternate(sides, "run", repeats)
  # Without the first run, which warms up.
  cpu_seconds = {name: side.seconds[1:] for name, side in sides.items()}
  ratios, figures = {}, {}
  for key, ours, theirs in (
    ("prepare_vs_monai", "ours, no N4", "MONAI, no N4"),
    ("prepare_n4_vs_monai", "ours, N4 jax", "MONAI, N4 SimpleITK"),
  ):
    figures[key] = compare(seconds[ours], seconds[theirs])
    figures[f"{key}_cpu"] = compare(cpu_seconds[ours], cpu_seconds[theirs])
    ratios |= {name: figures[name]["ratio"] for name in (key, f"{key}_cpu")}
  for name, times in seconds.items():
    figures[name] = len(files) / statistics.median(times)
    cpu = statistics.median(cpu_seconds[name]) / len(files)
    figures[f"{name}, CPU seconds a volume"] = cpu
    print(f"{name:28}{figures[name]:10.2f} volumes/s {cpu:10.2f} CPU s each")
  return ratios, figures


def main() -> None:
  """Prints the table and, as its last line, one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="fewer repeats")
  parser.add_argument("--scans", type=pathlib.Path, nargs="+", metavar="FILE")
  args = parser.parse_args()
  repeats = 2 if args.quick else 9
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    files = args.scans or draw_scans(folder, 2 if args.quick else 6)
    volumes = [reading.read_volume([file]) for file in files]
    grid_mm = SETTINGS.bias_field.grid_mm
    grids = [bias_field.coarse(volume, grid_mm) for volume in volumes]
    ratios, figures = compare_n4(grids, repeats)
    if HAS_MONAI:
      found = compare_monai(files, folder, repeats)
      ratios |= found[0]
      figures |= found[1]
  for key in ratios:
    print(
      "{0}: {ratio:.2f} [{low:.2f}, {high:.2f}]".format(key, **figures[key])
    )
  for key in ("n4_vs_sitk", "n4_batched_vs_sitk"):
    print(
      f"{key}: log fields within {figures[key]['log_field_difference']:.1e}"
    )
  result = {
    "benchmark": "preparation",
    "device": f"{jax.devices()[0].device_kind}, {THREADS} cores",
    "versions": versions(),
    "shapes": [list(volume.array.shape) for volume in volumes],
    "ratios": ratios,
    "figures": figures,
  }
  print(json.dumps(result))


if __name__ == "__main__":
  main()
