"""Damaged files, read in a process of its own: `fuzzing.py KIND COUNT SEED`.

The process ends with 0 if each file is read or refused as it should be. A
crash, five seconds for one file or a gigabyte of memory end it otherwise.
"""

import collections
import faulthandler
import gzip
import logging
import pathlib
import resource
import signal
import sys
import tempfile

import h5py
import hypothesis
import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from hypothesis import strategies as st
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from brainjax.preparation import reading
from brainjax.preparation.volume import ScanError

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import dicom_files  # noqa: E402  (the folder of the tests is on the path now)

SECONDS = 5
MOST_BYTES = 2**30
HEADERS = {"nifti": 400, "dicom": 1400, "matlab": 3000, "nrrd": 320}
ARRAY = np.random.default_rng(0).integers(0, 4000, (5, 6, 7)).astype(np.int16)
_NUMBERS = (0, 1, -1, 127, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31))
# What a header may claim, as the bytes of each type.
CLAIMS = [
  np.array(value).astype(dtype).tobytes()
  for dtype in ("<i1", "<i2", ">i2", "<i4", "<i8", "<f4")
  for value in _NUMBERS
] + [
  np.array(value, dtype).tobytes()
  for dtype in ("<f4", "<f8")
  for value in (np.nan, np.inf, -np.inf, 0, 1e30, -1e-30)
]
# The same of a header in text, and what else one may say.
WORDS = [
  *(str(value).encode() for value in _NUMBERS),
  *(b"nan", b"-inf", b"1e30", b"1e-30", b"99999999999999999999", b"", b" "),
  *(b"\n", b"\n\n", b"LOCAL", b"LIST", b"../a.raw", b"/dev/zero", b"c.mhd"),
  *(b"gzip", b"raw", b"ascii", b"bzip2", b"True", b"MET_DOUBLE", b"double"),
  *(b"MET_LONG_LONG_ARRAY", b"none", b"(1,0,0)", b"NDims = 4\n", b"%s%n"),
]


def good_files(kind, folder):
  """Files as they should be: {name: content} of each example."""
  folder = pathlib.Path(folder)
  if kind == "nifti":
    affine = np.diag([1, 2, 3, 1])
    nib.save(nib.Nifti1Image(ARRAY, affine), folder / "a.nii")
    nib.save(nib.Nifti2Image(ARRAY, affine), folder / "b.nii")
    several = np.stack([ARRAY] * 2, -1)
    nib.save(nib.Nifti1Image(several, affine), folder / "c.nii")
    return [{p.name: p.read_bytes()} for p in sorted(folder.iterdir())]
  if kind == "matlab":
    with h5py.File(folder / "a.mat", "w", userblock_size=512) as file:
      file["cjdata/image"] = ARRAY[0]
      file["cjdata/label"] = [[1.0]]
      file["cjdata/loop"] = h5py.SoftLink("/cjdata/loop")
    with h5py.File(folder / "b.mat", "w") as file:
      file.create_dataset(
        "cjdata/image", data=ARRAY[0], chunks=(3, 3), compression="gzip"
      )
    return [{p.name: p.read_bytes()} for p in sorted(folder.iterdir())]
  if kind == "nrrd":
    image = sitk.GetImageFromArray(ARRAY)
    image.SetSpacing((1.0, 2.0, 3.0))
    for name in ("a.nrrd", "a.mha"):
      sitk.WriteImage(image, folder / name)
      sitk.WriteImage(image, folder / f"zipped_{name}", useCompression=True)
    files = [{p.name: p.read_bytes()} for p in sorted(folder.iterdir())]
    sitk.WriteImage(image, folder / "c.mhd")
    names = ("c.mhd", "c.raw")
    return [*files, {name: (folder / name).read_bytes() for name in names}]
  series = ARRAY[:, :, :5].astype(np.uint16)
  dicom_files.write_series(folder / "a", series)
  dicom_files.write_series(folder / "b", series, syntax=ImplicitVRLittleEndian)
  for file in dicom_files.write_series(folder / "c", series):
    dataset = pydicom.dcmread(file)
    dataset.compress(RLELossless)
    dataset.save_as(file)
  for file in dicom_files.write_series(folder / "e", series):
    dicom_files.compress_lossless(file)
  (folder / "d").mkdir()
  dicom_files.write_enhanced(folder / "d" / "IM", series, np.eye(4))
  return [
    {p.name: p.read_bytes() for p in sorted(place.iterdir())}
    for place in sorted(folder.iterdir())
  ]


@st.composite
def damages(draw, header, claims=CLAIMS):
  """Ways to change bytes: (what, where, bytes), most of them in the header."""
  place = st.one_of(st.integers(0, header), st.integers(0, 2**14))
  content = st.one_of(st.sampled_from(claims), st.binary(max_size=9))
  what = st.sampled_from(("write", "write", "write", "insert", "cut", "drop"))
  return draw(st.lists(st.tuples(what, place, content), min_size=1, max_size=6))


def damaged(data, changes):
  data = bytearray(data)
  for what, place, content in changes:
    place %= len(data) + 1
    if what == "write":
      data[place : place + len(content)] = content
    elif what == "insert":
      data[place:place] = content
    elif what == "drop":
      del data[place : place + len(content)]
    else:
      del data[place:]
  return bytes(data)


def check(path, folder):
  """Reads a scan, which must be fine or refused by name."""
  try:
    volume = reading.read_volume([path])
  except ScanError as error:
    message = str(error)
    assert message.startswith(str(folder)), message
    assert "\n" not in message and len(message) < 2000, message
    return "refused"
  assert np.isfinite(volume.array).all()
  return "read"


def main(kind, count, seed):
  logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)
  # Of computing time, for another program may have the machine.
  faulthandler.register(signal.SIGPROF, chain=True)
  counts = collections.Counter()
  files = good_files(kind, tempfile.mkdtemp())

  @hypothesis.seed(seed)
  @hypothesis.settings(
    max_examples=count,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],  # to shrink a failure takes minutes
  )
  @hypothesis.given(st.data())
  def run(data):
    example = data.draw(st.sampled_from(files))
    claims = WORDS if kind == "nrrd" else CLAIMS
    changes = data.draw(damages(HEADERS[kind], claims))
    name = data.draw(st.sampled_from(sorted(example)))
    zipped = kind == "nifti" and data.draw(st.booleans())
    again = (
      data.draw(damages(40)) if zipped and data.draw(st.booleans()) else ()
    )
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary)
      for other, content in example.items():
        if other == name:
          content = damaged(content, changes)
        if zipped:
          content = damaged(gzip.compress(content), again)
          other += ".gz"
        (folder / other).write_bytes(content)
      # Of a header and its voxels, the header.
      path = folder if kind == "dicom" else min(folder.iterdir())
      signal.setitimer(signal.ITIMER_PROF, SECONDS)
      counts[check(path, folder)] += 1
      signal.setitimer(signal.ITIMER_PROF, 0)

  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  run()
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(f"{kind}: {dict(counts)}, {(after - before) / 1024:.0f} MiB more")
  assert (after - before) * 1024 < MOST_BYTES
  # Otherwise little was damaged, or nothing but the first bytes.
  assert min(counts["read"], counts["refused"]) > count / 50, counts


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
