"""No damaged file crashes, hangs or fills the memory; each is named."""

import pathlib
import subprocess
import sys

import pytest

FUZZING = pathlib.Path(__file__).with_name("fuzzing.py")
KINDS = ("nifti", "dicom", "matlab", "nrrd")


def fuzz(kind, count, seed):
  # A crash of a library in C would end the tests too.
  done = subprocess.run(
    [sys.executable, "-W", "error", FUZZING, kind, str(count), str(seed)],
    capture_output=True,
    text=True,
    timeout=60 + count,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_damaged_files(kind):
  fuzz(kind, 200, 0)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_damaged_files(kind):
  fuzz(kind, 2000, 1)
