import os
import pathlib
import re

import numpy as np
import pydicom
import pytest
from nibabel import orientations
from pydicom.encaps import encapsulate
from pydicom.uid import (
  JPEGLosslessSV1,
  JPEGLSLossless,
  RLELossless,
  generate_uid,
)

from brainjax.cohort import dicom_headers
from brainjax.preparation import reading
from brainjax.preparation.volume import ScanError
from dicom_files import compress_lossless, rewrite, write_enhanced, write_series

SHAPE = (6, 7, 8)


def _array(seed=0):
  return np.random.default_rng(seed).integers(0, 4000, SHAPE)


def _oblique(spacing=(0.9, 1.1, 2.5)):
  """Turned by 25 degrees about one axis and 15 about another."""
  a, b = np.deg2rad([25, 15])
  about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
  about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
  affine = np.eye(4)
  affine[:3, :3] = np.array(about_x) @ about_z @ np.diag(spacing)
  affine[:3, 3] = [-80.5, 30.25, 12.125]
  return affine


def _codes(codes, affine=None):
  """An affine whose file axes run as these letters say."""
  affine = np.diag([1.0, 1.5, 2.0, 1.0]) if affine is None else affine
  turned = affine.copy()
  for i, letter in enumerate(codes):
    sign = 1 if letter in "RAS" else -1
    axis = next(
      k for k, pair in enumerate(("LR", "PA", "IS")) if letter in pair
    )
    turned[:3, i] = sign * affine[:3, axis]
  return turned


AFFINES = {
  **{codes: _codes(codes) for codes in ("LPS", "RAS", "PIL", "ASR", "LIP")},
  "oblique": _oblique(),
  "oblique PSR": _codes("PSR", _oblique()),
}


@pytest.mark.parametrize("name", AFFINES)
def test_images_come_in_the_order_of_space(tmp_path, name):
  affine = AFFINES[name]
  write_series(tmp_path / "s" / "deeper", _array(), affine)
  volume = reading.read_volume([tmp_path / "s"])
  expected = affine
  if np.linalg.det(affine) < 0:  # the normal of the images runs downwards
    found = _array()[:, :, ::-1]
    expected = affine @ orientations.inv_ornt_aff(
      [[0, 1], [1, 1], [2, -1]], SHAPE
    )
  else:
    found = _array()
  array = orientations.apply_orientation(found, volume.ras_from_file)
  np.testing.assert_array_equal(volume.array, array)
  np.testing.assert_allclose(volume.file_affine, expected, atol=1e-3)
  assert volume.doubts == ()


def test_frames_of_one_file_are_sorted_and_scaled(tmp_path):
  write_enhanced(tmp_path / "a.dcm", _array(), _codes("LPS"))
  volume = reading.read_volume([tmp_path / "a.dcm"])
  array = orientations.apply_orientation(_array(), volume.ras_from_file)
  np.testing.assert_array_equal(volume.array, 2 * array - 7)
  (tmp_path / "a.dcm").rename(tmp_path / "without_suffix")
  other = reading.read_volume([tmp_path / "without_suffix"])
  np.testing.assert_array_equal(other.array, volume.array)


def test_slope_and_intercept_of_each_image_count(tmp_path):
  files = write_series(tmp_path, _array(), _codes("LPS"))
  rewrite(files[3], RescaleSlope=3, RescaleIntercept=-10)
  volume = reading.read_volume([tmp_path])
  expected = _array()
  expected[:, :, 3] = expected[:, :, 3] * 3 - 10
  array = orientations.apply_orientation(expected, volume.ras_from_file)
  np.testing.assert_array_equal(volume.array, array)


def test_a_compressed_series_is_read_where_pydicom_can(tmp_path):
  for file in write_series(tmp_path, _array(), _codes("LPS")):
    dataset = pydicom.dcmread(file)
    dataset.compress(RLELossless)
    dataset.save_as(file)
  volume = reading.read_volume([tmp_path])
  array = orientations.apply_orientation(_array(), volume.ras_from_file)
  np.testing.assert_array_equal(volume.array, array)


def test_jpeg_lossless_is_read_and_scaled_once(tmp_path):
  for file in write_series(tmp_path, _array(), _codes("LPS")):
    compress_lossless(file)
    rewrite(file, RescaleSlope=2, RescaleIntercept=5)
  assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == JPEGLosslessSV1
  volume = reading.read_volume([tmp_path])
  array = orientations.apply_orientation(_array(), volume.ras_from_file)
  np.testing.assert_array_equal(volume.array, 2 * array + 5)


def _reason(path):
  with pytest.raises(ScanError) as raised:
    reading.read_volume([path])
  assert "\n" not in str(raised.value)
  assert "Doe" not in str(raised.value) and "12345" not in str(raised.value)
  return raised.value.reason


def test_another_compression_is_named_with_its_mend(tmp_path):
  for file in write_series(tmp_path, _array()):
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([b"\xff\xd8" + bytes(60)])
    dataset.save_as(file)
  reason = _reason(tmp_path)
  assert "compressed as JPEG-LS Lossless" in reason and "unpack the" in reason


def test_missing_images_are_counted(tmp_path):
  files = write_series(tmp_path, _array(), _codes("LPS"))
  files[2].unlink()
  files[3].unlink()
  reason = _reason(tmp_path)
  assert "2 images are missing: 6 mm instead of 2 mm behind image 2" in reason


def test_copies_are_left_out_and_other_images_in_their_place_are_not(tmp_path):
  files = write_series(tmp_path, _array(), _codes("LPS"))
  plain = reading.read_volume([tmp_path]).array
  (tmp_path / "copy").write_bytes(files[2].read_bytes())
  np.testing.assert_array_equal(reading.read_volume([tmp_path]).array, plain)
  rewrite(tmp_path / "copy", SOPInstanceUID=generate_uid())
  assert "1 images lie where another one does" in _reason(tmp_path)


def test_images_without_an_id_of_their_own_are_no_copies(tmp_path):
  write_series(tmp_path / "a", _array(), _codes("LPS"))
  write_series(tmp_path / "b", _array(), _codes("LPS"), SOPInstanceUID="")
  named, nameless = (
    reading.read_volume([tmp_path / name]).array for name in "ab"
  )
  np.testing.assert_array_equal(nameless, named)


def test_pixels_of_another_size_are_a_series_of_another_key(tmp_path):
  uid = generate_uid()
  for size in (1, 2):
    write_series(
      tmp_path,
      _array(size),
      np.diag([size, size, 2, 1]),
      prefix=f"P{size}",
      SeriesInstanceUID=uid,
    )
  keys = re.findall(r"#([0-9a-f]{8})", _reason(tmp_path))
  spacings = {
    reading.read_volume([tmp_path.with_name(f"{tmp_path.name}#{key}")])
    .spacing_mm[0]
    .item()
    for key in keys
  }
  assert spacings == {1, 2}


def test_a_file_or_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
  file = write_series(tmp_path, _array())[3]
  shut, has_magic = {file}, dicom_headers.has_magic

  def refuses(path):
    if path in shut:
      raise PermissionError(13, "Permission denied", str(path))
    return has_magic(path)

  monkeypatch.setattr(dicom_headers, "has_magic", refuses)
  with pytest.raises(ScanError, match="not readable: Permission denied$") as e:
    reading.read_volume([tmp_path])
  assert e.value.file == str(file)
  shut.clear()
  (tmp_path / "shut").mkdir()
  listed = os.scandir

  def scan(path):
    if pathlib.Path(path).name == "shut":
      raise PermissionError(13, "Permission denied", path)
    return listed(path)

  monkeypatch.setattr(os, "scandir", scan)
  with pytest.raises(ScanError, match="not readable: ") as e:
    reading.read_volume([tmp_path])
  assert e.value.file == str(tmp_path / "shut")


def test_uneven_and_shifted_images_are_no_volume(tmp_path):
  files = write_series(tmp_path, _array(), _codes("LPS"))
  rewrite(files[3], ImagePositionPatient=[0, 0, 6.7])
  assert "slices are 1.3 to 2.7 mm apart" in _reason(tmp_path)
  rewrite(files[3], ImagePositionPatient=[0, 1.4, 6])
  assert "mm beside their row" in _reason(tmp_path)


def test_thin_slices_far_apart_are_doubtful(tmp_path):
  write_series(tmp_path, _array(), _codes("LPS"), SliceThickness=1)
  (doubt,) = reading.read_volume([tmp_path]).doubts
  assert doubt.startswith("slices 1 mm thick are 2 mm apart")


def test_localisers_and_other_files_are_passed_over(tmp_path):
  write_series(tmp_path / "s", _array(), _codes("LPS"))
  uid = generate_uid()
  for i, codes in enumerate(("LPS", "PIL", "LIP")):  # three planes, one series
    write_series(
      tmp_path / "loc",
      _array()[:, :, :3],
      _codes(codes),
      prefix=f"{codes}",
      SeriesInstanceUID=uid,
      SeriesDescription="3-Plane Loc",
      SeriesNumber=1,
      InstanceNumber=i,
    )
  (tmp_path / "notes.txt").write_text("Doe")
  (tmp_path / "empty").touch()
  (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
  volume = reading.read_volume([tmp_path])
  assert volume.file_shape == SHAPE
  reason = _reason(tmp_path / "loc")
  assert reason.startswith("no series is a volume: '3-Plane Loc' (series 1,")
  assert reason.count("a localiser") == 3
  assert "3 sagittal images" in reason and "3 coronal images" in reason


def test_several_series_are_listed_and_can_be_named(tmp_path):
  write_series(tmp_path / "a", _array(), SeriesDescription="AX T1 SE")
  write_series(
    tmp_path / "b",
    _array(1),
    SeriesDescription="AX T2 Doe 20210304 FSE",
    SeriesNumber=5,
  )
  reason = _reason(tmp_path)
  assert reason.startswith("2 series could be the image; name one as")
  assert "'AX T1 SE' (series 4, 8 axial images) #" in reason
  assert "'AX T2 ? ? FSE' (series 5, 8 axial images) #" in reason
  key = reason.rpartition("#")[2]
  second = reading.read_volume([tmp_path / "b"]).array
  named = reading.read_volume([tmp_path.with_name(f"{tmp_path.name}#{key}")])
  np.testing.assert_array_equal(named.array, second)
  by_kind = reading.read_volume([tmp_path], modality="t2")
  np.testing.assert_array_equal(by_kind.array, second)
  (doubt,) = by_kind.doubts
  assert doubt.startswith("2 series could be the image; 'AX T2 ? ? FSE' (")
  wrong = tmp_path.with_name(f"{tmp_path.name}#00000000")
  assert "no series #00000000; 'AX T1 SE'" in _reason(wrong)


def test_echoes_of_one_series_are_told_apart(tmp_path):
  uid = generate_uid()
  for echo in (20, 80):
    write_series(
      tmp_path,
      _array(echo),
      prefix=f"E{echo}",
      SeriesInstanceUID=uid,
      EchoTime=echo,
    )
  assert _reason(tmp_path).startswith("2 series could be the image")


@pytest.mark.parametrize(
  "values, reason",
  [
    ({"Modality": "CT"}, "without a DICOM image .*CT, not MR"),
    ({"ImagePositionPatient": None}, "no place in space"),
    ({"PixelSpacing": [0, 0]}, "voxels of .* mm; mend the header"),
    ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "is no rotation"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "MOSAIC"]}, "a mosaic"),
    ({"PhotometricInterpretation": "RGB"}, "pixels are RGB"),
    ({"Rows": 700}, "damaged"),
    ({"Rows": 60000, "Columns": 60000}, "no scan of a head"),
    ({"PixelData": b"12"}, "damaged"),
    ({"RescaleSlope": 0}, "every voxel is 0"),
  ],
)
def test_headers_that_cannot_be_are_refused(tmp_path, values, reason):
  for file in write_series(tmp_path, _array()):
    rewrite(file, **values)
  with pytest.raises(ScanError, match=reason):
    reading.read_volume([tmp_path])


def test_a_truncated_file_is_named(tmp_path):
  file = write_series(tmp_path, _array())[2]
  file.write_bytes(file.read_bytes()[:-20])
  with pytest.raises(ScanError, match=f"{file.name}: damaged"):
    reading.read_volume([tmp_path])


def test_a_folder_without_dicom_files_says_so(tmp_path):
  (tmp_path / "a.txt").touch()
  assert "a folder without a DICOM image" in _reason(tmp_path)
