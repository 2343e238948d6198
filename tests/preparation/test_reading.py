import gzip

import h5py
import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk

from brainjax import InputError, records
from brainjax.preparation import nifti, nrrd, reading
from brainjax.preparation.volume import ScanError

SHAPE = (5, 6, 7)


def _save(path, array, affine=None, cls=nib.Nifti1Image):
  affine = np.eye(4) if affine is None else affine
  nib.save(cls(array, affine), path)
  return path


def _array(seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(1, 1000, SHAPE).astype(np.int16)


def _patched(path, offset, data):
  """Overwrites bytes of a file, of its content if it is zipped."""
  zipped = path.suffix == ".gz"
  content = path.read_bytes()
  content = bytearray(gzip.decompress(content) if zipped else content)
  content[offset : offset + len(data)] = data
  path.write_bytes(gzip.compress(bytes(content)) if zipped else content)
  return path


def _write_matlab(path, **fields):
  with h5py.File(path, "w") as file:
    for name, array in fields.items():
      file[f"cjdata/{name}"] = array.T  # MATLAB stores columns first
  return path


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPI", "SRP", "PIL"])
@pytest.mark.parametrize("piece", [1, 170, 2**18])
def test_every_orientation_gives_the_same_ras_volume(
  tmp_path, monkeypatch, codes, piece
):
  monkeypatch.setattr(nifti, "_PIECE", piece)  # bytes; a slice has 60 to 84
  array, affine = _array(), np.diag([1.0, 2.0, 3.0, 1.0])
  ornt = nib.orientations.axcodes2ornt(codes)
  turn = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], ornt)
  turned = nib.orientations.apply_orientation(array, turn)
  back = nib.orientations.inv_ornt_aff(turn, array.shape)
  file = _save(tmp_path / "a.nii.gz", turned, affine @ back)
  volume = reading.read_volume([file])
  np.testing.assert_array_equal(volume.array, array)
  np.testing.assert_allclose(volume.affine, affine)
  np.testing.assert_allclose(volume.spacing_mm, [1, 2, 3])
  assert volume.file_shape == turned.shape
  assert volume.array.dtype == np.float32
  assert min(volume.array.strides) > 0
  # As it came from the file: turning it round took no copy.
  assert volume.array.base is not None


def test_scaling_of_the_header_is_applied(tmp_path):
  image = nib.Nifti1Image(_array(), np.eye(4))
  image.header.set_slope_inter(0.5, 10)
  nib.save(image, tmp_path / "a.nii")
  _patched(tmp_path / "a.nii", 112, np.float32([0.5, 10]).tobytes())
  stored = np.frombuffer((tmp_path / "a.nii").read_bytes()[352:], np.int16)
  volume = reading.read_volume([tmp_path / "a.nii"])
  expected = stored.reshape(SHAPE, order="F") * 0.5 + 10
  np.testing.assert_allclose(volume.array, expected, rtol=1e-6)


def test_nifti_2_and_a_trailing_axis_are_read(tmp_path):
  file = _save(tmp_path / "a.nii", _array()[..., None], cls=nib.Nifti2Image)
  volume = reading.read_volume([file])
  np.testing.assert_array_equal(volume.array, _array())


def _long_array():
  return np.random.default_rng(0).normal(100, 10, (15, 15, 15))


def _truncated(path):
  _save(path, _long_array())
  path.write_bytes(path.read_bytes()[:-40])


def _flipped_bit(path):
  # Stored, not packed: the data stay legal, only the checksum notices.
  _save(path.with_suffix(""), _long_array())
  content = path.with_suffix("").read_bytes()
  packed = bytearray(gzip.compress(content, compresslevel=0))
  packed[9999] ^= 1
  path.write_bytes(packed)


def _garbled(path):
  _save(path, _long_array())
  packed = bytearray(path.read_bytes())
  packed[-60:-8] = b"\xff" * 52
  path.write_bytes(packed)


def _with_voxel(value):
  def write(path):
    array = _array().astype(np.float32)
    array[1, 2, 3] = value
    _save(path, array)

  return write


def _with_header(offset, value):
  return lambda path: _patched(_save(path, _array()), offset, value.tobytes())


def _rgb(path):
  rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
  array = np.zeros(SHAPE, rgb)
  array["R"] = 5
  _save(path, array)


BAD = {
  "truncated.nii.gz": (_truncated, "damaged"),
  "truncated.nii": (_truncated, "truncated"),
  "checksum.nii.gz": (_flipped_bit, "CRC"),
  "garbled.nii.gz": (_garbled, "damaged: Error -3"),
  "text.nii": (lambda p: p.write_text("hello\n" * 99), "no NIfTI header"),
  "text.nii.gz": (lambda p: p.write_text("hello\n" * 99), "no NIfTI header"),
  "empty.nii": (lambda p: p.write_bytes(b""), "Empty file"),
  "empty.nii.gz": (lambda p: p.write_bytes(b""), "Empty file"),
  "folder.nii": (lambda p: p.mkdir(), "a folder"),
  "missing.nii": (lambda p: None, "no such file"),
  "unknown.txt": (lambda p: p.write_text("x"), "unknown kind of file"),
  "2d.nii": (lambda p: _save(p, _array()[0]), "2 axes"),
  "4d.nii": (lambda p: _save(p, np.stack([_array()] * 2, -1)), "4 axes"),
  "zeros.nii": (lambda p: _save(p, _array() * 0), "every voxel is 0"),
  "constant.nii": (lambda p: _save(p, _array() * 0 + 7), "every voxel is 7"),
  "nan.nii": (_with_voxel(np.nan), "1 voxels are NaN"),
  "inf.nii": (_with_voxel(np.inf), "1 voxels are NaN or infinite"),
  "huge.nii": (_with_voxel(1e30), "damaged"),
  "complex.nii": (
    lambda p: _save(p, _array().astype(np.complex64)),
    "complex64",
  ),
  "rgb.nii": (_rgb, "expected one real number"),
  "type.nii": (_with_header(70, np.int16(7777)), "not recognized"),
  # srow_x of the header
  "singular.nii": (_with_header(280, np.float32([1, 1, 0, 0] * 2)), "singular"),
  "zero.nii": (_with_header(280, np.float32([0, 0, 0, 0])), "mm; mend"),
  "kilometres.nii": (_with_header(280, np.float32([1e6])), "1000000.0"),
  "nan_affine.nii": (_with_header(280, np.float32([np.nan])), "mm; mend"),
  "nan_origin.nii": (_with_header(292, np.float32([np.nan])), "singular"),
  # dim of the header
  "bomb.nii": (_with_header(42, np.int16([30000] * 3)), "no scan of a head"),
  "small_bomb.nii": (_with_header(42, np.int16([700] * 3)), "truncated"),
  "bomb.nii.gz": (_with_header(42, np.int16([700] * 3)), "truncated"),
  "negative.nii": (_with_header(42, np.int16([-3])), "no scan of a head"),
  "damaged.mat": (lambda p: p.write_text("x" * 999), "damaged"),
  "field.mat": (lambda p: _write_matlab(p, label=np.ones((1, 1))), "image"),
  "text.mat": (
    lambda p: _write_matlab(p, image=np.full((3, 3), b"x")),
    "expected numbers",
  ),
  "damaged.png": (
    lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + b"z" * 80),
    "damaged",
  ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_scan_is_refused_in_one_line_that_names_it(tmp_path, name):
  write, reason = BAD[name]
  file = tmp_path / f"scan{name[name.index('.') :]}"
  write(file)
  with pytest.raises(ScanError) as raised:
    reading.read_volume([file])
  message = str(raised.value)
  assert isinstance(raised.value, InputError)
  assert message.startswith(f"{file}: ") and "\n" not in message
  assert reason in raised.value.reason
  assert message == f"{raised.value.file}: {raised.value.reason}"


def test_zero_spacing_is_not_taken_for_one_millimetre(tmp_path):
  file = _save(tmp_path / "a.nii", _array())
  _patched(file, 80, np.float32([0]).tobytes())  # pixdim of the first axis
  _patched(file, 252, np.int16([0, 0]).tobytes())  # neither qform nor sform
  with pytest.raises(ScanError, match=r"spacing of 0 mm; .*spacing_mm"):
    reading.read_volume([file])
  volume = reading.read_volume([file], (0.5, 0.5, 4.0))
  np.testing.assert_allclose(volume.spacing_mm, [0.5, 0.5, 4])


@pytest.mark.parametrize("codes", ["RAS", "SLP"])
def test_given_spacing_replaces_the_headers(tmp_path, codes):
  ornt = nib.orientations.axcodes2ornt(codes)
  affine = nib.orientations.inv_ornt_aff(ornt, SHAPE)
  file = _save(tmp_path / "a.nii", _array(), affine)
  plain = reading.read_volume([file])
  given = np.array([0.5, 0.7, 4.0])  # along the file's axes
  volume = reading.read_volume([file], given)
  np.testing.assert_array_equal(volume.array, plain.array)
  np.testing.assert_allclose(
    volume.spacing_mm[volume.ras_from_file[:, 0]], given
  )
  middle = [*(np.array(plain.array.shape) - 1) / 2, 1]
  np.testing.assert_allclose(volume.affine @ middle, plain.affine @ middle)
  mask = reading.read_mask([file], volume, given)
  assert mask.shape == volume.array.shape
  with pytest.raises(ScanError, match="mm off the image"):
    reading.read_mask([file], volume)


def test_2d_images_take_no_spacing(tmp_path):
  scan = _write_matlab(tmp_path / "a.mat", image=np.arange(24).reshape(6, 4))
  with pytest.raises(ScanError, match=r"a\.mat: .*spacing_mm"):
    reading.read_volume([scan], (1.0, 1.0, 1.0))


def test_a_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
  file = _save(tmp_path / "a.nii.gz", _array())
  _patched(file, 42, np.int16([700] * 3).tobytes())
  opened, real = [], nifti._opened
  monkeypatch.setattr(
    nifti, "_opened", lambda *args: opened.append(args) or real(*args)
  )
  with pytest.raises(ScanError, match="truncated"):
    reading.read_volume([file])
  assert len(opened) == 1  # the header


def test_matlab_images_stand_upright(tmp_path):
  image = np.zeros((6, 4), np.int16)
  image[0, 1] = 9  # top row, second column
  mask = (image > 0).astype(np.uint8)
  files = [
    _write_matlab(tmp_path / f"{i}.mat", image=image + i, tumorMask=mask)
    for i in range(3)
  ]
  volume = reading.read_volume(files)
  assert volume.array.shape == (4, 6, 3)
  assert volume.affine is None
  assert volume.file_shape == (6, 4, 3)
  # X is the column, Y runs up, Z is the slice.
  np.testing.assert_array_equal(volume.array[1, -1], [9, 10, 11])
  expected = np.zeros((4, 6, 3), bool)
  expected[1, -1] = True
  np.testing.assert_array_equal(reading.read_mask(files, volume), expected)


def test_pictures_are_grey_and_resized_to_the_first(tmp_path):
  rng = np.random.default_rng(0)
  grey = rng.integers(0, 255, (8, 6), np.uint8)
  PIL.Image.fromarray(grey).save(tmp_path / "0.png")
  colour = np.repeat(grey[..., None], 3, -1).repeat(2, 0).repeat(2, 1)
  PIL.Image.fromarray(colour).save(tmp_path / "1.png")
  deep = grey.astype(np.uint16) * 200
  PIL.Image.fromarray(deep).save(tmp_path / "2.png")
  volume = reading.read_volume([tmp_path / f"{i}.png" for i in range(3)])
  assert volume.image_shapes == ((8, 6), (16, 12), (8, 6))
  slices = volume.array[:, ::-1].T  # [S,rows,columns]
  np.testing.assert_array_equal(slices[0], grey)
  assert np.corrcoef(slices[1].ravel(), grey.ravel())[0, 1] > 0.9
  np.testing.assert_array_equal(slices[2], deep)


def test_one_damaged_picture_of_many_is_named(tmp_path):
  grey = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
  files = [tmp_path / f"{i}.jpg" for i in range(3)]
  for file in files:
    PIL.Image.fromarray(grey).save(file)
  files[1].write_bytes(files[1].read_bytes()[:-300])
  with pytest.raises(ScanError, match=r"1\.jpg: damaged"):
    reading.read_volume(files)


def test_blank_pictures_are_no_scan(tmp_path):
  files = [tmp_path / f"{i}.png" for i in range(2)]
  for i, file in enumerate(files):
    PIL.Image.fromarray(np.full((9, 9), i * 50, np.uint8)).save(file)
  with pytest.raises(ScanError, match=r"0\.png: no image"):
    reading.read_volume(files)


def test_volumes_cannot_be_joined(tmp_path):
  files = [_save(tmp_path / f"{i}.nii", _array(i)) for i in range(2)]
  with pytest.raises(ScanError, match="only 2-D images can be joined"):
    reading.read_volume(files)


def test_mask_comes_into_the_order_of_the_scan(tmp_path):
  volume = reading.read_volume([_save(tmp_path / "a.nii", _array())])
  labels = np.zeros(SHAPE, np.uint8)
  labels[1, 2, 3], labels[2, 2, 3] = 1, 4
  flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
  flipped[0, 3] = SHAPE[0] - 1
  file = _save(tmp_path / "mask.nii.gz", labels[::-1], flipped)
  mask = reading.read_mask([file], volume)
  np.testing.assert_array_equal(mask, labels > 0)


def test_mask_of_another_grid_is_refused(tmp_path):
  volume = reading.read_volume([_save(tmp_path / "a.nii", _array())])
  small = _save(tmp_path / "small.nii", _array()[1:])
  with pytest.raises(ScanError, match=r"small.nii: a mask of \(4, 6, 7\)"):
    reading.read_mask([small], volume)
  moved = np.eye(4)
  moved[2, 3] = 30
  away = _save(tmp_path / "away.nii", _array(), moved)
  with pytest.raises(ScanError, match="30.0 mm off"):
    reading.read_mask([away], volume)


def test_mask_of_other_images_is_refused(tmp_path):
  image = np.arange(24).reshape(6, 4)
  scan = _write_matlab(tmp_path / "a.mat", image=image)
  mask = _write_matlab(tmp_path / "b.mat", tumorMask=image[1:])
  volume = reading.read_volume([scan])
  with pytest.raises(ScanError, match=r"b\.mat: .* in size"):
    reading.read_mask([mask], volume)
  nifti = _save(tmp_path / "c.nii", np.ones((4, 6, 1), np.uint8))
  with pytest.raises(ScanError, match="2-D images too"):
    reading.read_mask([nifti], volume)


def _volumes(path, count=3):
  array = np.stack([_array(i) for i in range(count)], axis=-1)
  return _save(path, array, np.diag([1.0, 2.0, 3.0, 1.0]))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a#b.nii"])
def test_one_volume_of_several_can_be_named(tmp_path, name):
  file = _volumes(tmp_path / name)
  for index in range(3):
    chosen = file.with_name(f"{file.name}#{index}")
    volume = reading.read_volume([chosen])
    np.testing.assert_array_equal(volume.array, _array(index))
  with pytest.raises(
    ScanError, match=r"4 axes .* one of its 3 volumes as .*#0"
  ):
    reading.read_volume([file])
  for wrong in ("3", "x", "-1"):
    chosen = file.with_name(f"{file.name}#{wrong}")
    with pytest.raises(ScanError, match=f"no volume #{wrong}; it holds 3"):
      reading.read_volume([chosen])


def test_volumes_of_one_file_are_different_inputs(tmp_path):
  file = _volumes(tmp_path / "a.nii")
  chosen = [file.with_name(f"{file.name}#{i}") for i in range(2)]
  hashes = {reading.input_sha256(path) for path in (file, *chosen)}
  assert len(hashes) == 3
  assert reading.input_sha256(file) == records.sha256_of(file)
  assert reading.input_sha256(tmp_path / "missing.nii#1") == ""


@pytest.mark.parametrize("ending", ["nrrd", "mha", "mhd"])
def test_nrrd_and_metaimage_lie_where_nifti_does(tmp_path, ending):
  turn = np.array([[0, -1, 0], [0.6, 0, -0.8], [0.8, 0, 0.6]])
  affine = np.eye(4)
  affine[:3, :3] = turn @ np.diag([0.9, 1.2, 3.0])
  affine[:3, 3] = [-70, 40.5, 12]
  nifti_file = _save(tmp_path / "a.nii", _array(), affine)
  file = tmp_path / f"b.{ending}"
  sitk.WriteImage(sitk.ReadImage(str(nifti_file)), str(file))
  expected = reading.read_volume([nifti_file])
  volume = reading.read_volume([file])
  np.testing.assert_array_equal(volume.array, expected.array)
  np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
  mask = reading.read_mask([file], expected)
  np.testing.assert_array_equal(mask, expected.array > 0)


@pytest.mark.parametrize("ending", ["nrrd", "mha", "mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "f4", "f8"])
def test_all_kinds_are_read_as_simpleitk_reads_them(
  tmp_path, ending, compressed, dtype
):
  file = tmp_path / f"a.{ending}"
  image = sitk.GetImageFromArray((_array() % 100).astype(dtype))
  image.SetSpacing((1.0, 2.0, 3.0))
  image.SetOrigin((4.0, 5.0, 6.0))
  sitk.WriteImage(image, str(file), useCompression=compressed)
  expected = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T
  array, affine = nrrd.read_nrrd(file)
  np.testing.assert_array_equal(array, expected.astype(np.float32))
  lps = [[-1, 0, 0, -4], [0, -2, 0, -5], [0, 0, 3, 6], [0, 0, 0, 1]]
  np.testing.assert_allclose(affine, lps)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_voxels_that_are_not_all_there_or_others_are_refused(
  tmp_path, name, compressed
):
  file = tmp_path / name
  image = sitk.GetImageFromArray(_array())
  sitk.WriteImage(image, str(file), useCompression=compressed)
  (voxels,) = set(tmp_path.iterdir()) - {file} or {file}
  content = voxels.read_bytes()
  voxels.write_bytes(content[:-1])
  with pytest.raises(ScanError, match=r"a\.\w+: (truncated|damaged)"):
    reading.read_volume([file])
  if compressed:  # of which SimpleITK reads most of MetaImage's voxels wrong
    changed = bytearray(content)
    changed[-30] ^= 255
    voxels.write_bytes(changed)
    with pytest.raises(ScanError, match=f"{name}: damaged"):
      reading.read_volume([file])


@pytest.mark.parametrize(
  "space, signs",
  [
    ("left-posterior-superior", (-1, -1, 1)),
    ("RAS", (1, 1, 1)),
    ("left-anterior-superior", (-1, 1, 1)),
  ],
)
def test_a_nrrd_file_by_hand(tmp_path, space, signs):
  array = _array()
  header = (
    "NRRD0005\n# by hand\ntype: unsigned short\ndimension: 3\n"
    f"sizes: 5 6 7\nspace: {space}\nendian: big\nencoding: raw\n"
    "space directions: (2,0,0) (0,0,3) (0,4,0)\nspace origin: (1,2,3)\n"
    "byte skip: -1\ndata file: a.raw\n"
  )
  (tmp_path / "a.nhdr.nrrd").write_text(header)
  raw = array.astype(">u2").tobytes(order="F")
  (tmp_path / "a.raw").write_bytes(b"in front" + raw)
  found, affine = nrrd.read_nrrd(tmp_path / "a.nhdr.nrrd")
  np.testing.assert_array_equal(found, array)
  axes = [[2, 0, 0, 1], [0, 0, 4, 2], [0, 3, 0, 3]]
  np.testing.assert_allclose(affine[:3], np.diag(signs) @ axes)


def test_the_voxels_beside_a_header_are_part_of_the_input(tmp_path):
  file = tmp_path / "a.mhd"
  sitk.WriteImage(sitk.GetImageFromArray(_array()), str(file))
  before = reading.input_sha256(file)
  _patched(tmp_path / "a.raw", 4, b"\x07\x07")
  assert reading.input_sha256(file) != before
  (tmp_path / "a.raw").unlink()
  with pytest.raises(ScanError, match=r"a.mhd: its voxels are in a.raw, which"):
    reading.read_volume([file])
  assert reading.input_sha256(file) == records.sha256_of(file)


@pytest.mark.parametrize(
  "name, text",
  [
    ("a.mhd", "NDims = 3\nDimSize = 2 2 2\nElementDataFile = ../secret.raw\n"),
    ("a.mhd", "NDims = 3\nElementDataFile = /etc/hostname\n"),
    ("a.mhd", "NDims = 3\nElementDataFile = s%03d.raw 1 9 1\n"),
    ("a.nrrd", "NRRD0004\ndimension: 3\ndata file: ../secret.raw\n\n"),
    ("a.nrrd", "NRRD0004\ndimension: 3\ndatafile: /etc/hostname\n\n"),
  ],
)
def test_voxels_in_another_folder_are_refused(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  with pytest.raises(ScanError, match=f"{name}: its voxels are in '.* beside"):
    reading.read_volume([tmp_path / name])


@pytest.mark.parametrize(
  "name, text, reason",
  [
    ("a.nrrd", "nothing", "damaged"),
    ("a.mha", "NDims = 3\n", "damaged"),
    (
      "a.nrrd",
      "NRRD0004\ntype: short\ndimension: 3\nsizes: 700 700 700\n"
      "encoding: gzip\nendian: little\n\nx",
      "truncated",
    ),
    (
      "a.mha",
      "ObjectType = Image\nNDims = 3\nDimSize = 30000 30000 30000\n"
      "ElementType = MET_SHORT\nElementDataFile = LOCAL\n",
      "no scan of a head",
    ),
  ],
)
def test_damaged_headers_of_text_are_refused(tmp_path, name, text, reason):
  (tmp_path / name).write_text(text)
  with pytest.raises(ScanError, match=f"{name}: .*{reason}") as raised:
    reading.read_volume([tmp_path / name])
  assert "\n" not in str(raised.value)


def test_a_bomb_is_no_scan(tmp_path):
  """A few kilobytes of gzip that unpack to gigabytes, in three places."""
  file = _save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.float64))
  header = bytearray(file.read_bytes())
  header[42:48] = np.int16([512, 512, 300]).tobytes()
  bomb = tmp_path / "voxels.nii.gz"
  bomb.write_bytes(gzip.compress(bytes(header)) + bytes(1000000))
  with pytest.raises(ScanError, match=r"voxels.nii.gz: a bomb: \d+ bytes that"):
    reading.read_volume([bomb])

  small = _save(tmp_path / "b.nii", _array()).read_bytes()
  behind = tmp_path / "behind.nii.gz"
  behind.write_bytes(gzip.compress(small + bytes(2**25)))
  with pytest.raises(ScanError, match="behind.nii.gz: a bomb: far more behind"):
    reading.read_volume([behind])

  before = bytearray(small)
  before[108:112] = np.float32(1e9).tobytes()  # vox_offset
  before[348] = 1  # there are extensions
  front = tmp_path / "front.nii.gz"
  front.write_bytes(gzip.compress(bytes(before) + bytes(2**20)))
  with pytest.raises(ScanError, match="front.nii.gz: its voxels begin at byte"):
    reading.read_volume([front])


def test_a_picture_is_what_its_name_says(tmp_path):
  grey = PIL.Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
  grey.save(tmp_path / "a.bmp")
  (tmp_path / "a.bmp").rename(tmp_path / "a.png")
  with pytest.raises(ScanError, match="a.png: damaged: cannot identify"):
    reading.read_volume([tmp_path / "a.png"])


@pytest.mark.parametrize("kind", ["soft", "circle", "external", "virtual"])
def test_links_in_a_matlab_file_are_refused(tmp_path, kind):
  _write_matlab(tmp_path / "other.mat", image=np.ones((3, 3)))
  with h5py.File(tmp_path / "a.mat", "w") as file:
    group = file.create_group("cjdata")
    if kind == "soft":
      file["x"] = np.ones((3, 3))
      group["image"] = h5py.SoftLink("/x")
    elif kind == "circle":
      group["image"] = h5py.SoftLink("/cjdata/image")
    elif kind == "external":
      group["image"] = h5py.ExternalLink("other.mat", "/cjdata/image")
    else:
      layout = h5py.VirtualLayout((3, 3), float)
      layout[:] = h5py.VirtualSource("other.mat", "cjdata/image", (3, 3))
      group.create_virtual_dataset("image", layout)
  with pytest.raises(ScanError, match="a.mat: .*(is a link|lies in another)"):
    reading.read_volume([tmp_path / "a.mat"])


def test_circles_of_links_and_devices_are_no_files(tmp_path):
  (tmp_path / "a.nii").symlink_to(tmp_path / "a.nii")
  with pytest.raises(ScanError, match="a.nii: no such file"):
    reading.read_volume([tmp_path / "a.nii"])
  (tmp_path / "b.nii").symlink_to("/dev/zero")
  with pytest.raises(ScanError, match="b.nii: no file of voxels"):
    reading.read_volume([tmp_path / "b.nii"])
