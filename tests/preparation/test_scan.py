import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import tiny_head

from brainjax import InputError, records
from brainjax.cohort import manifest
from brainjax.preparation import scan, slices
from brainjax.preparation.volume import ScanError

SPACING_MM = (6.0, 5.0, 7.0)


def _manifest(tmp_path, row, **files):
  """Writes arrays as RAS files and reads a manifest of one row."""
  for name, array in files.items():
    affine = np.diag([*SPACING_MM, 1.0])
    nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii")
  row = {"participant_id": "p", "label": "glioma"} | row
  manifest.write_manifest(tmp_path / "m.csv", [row], list(row))
  return manifest.read_manifest(tmp_path / "m.csv")


def _prepared(tmp_path, **fields):
  array, _, tumour = tiny_head.tiny_head(SPACING_MM)
  study = _manifest(
    tmp_path,
    {"t1": "t1.nii", "mask": "mask.nii", "session_id": "s", "group_id": "g"},
    t1=array,
    mask=tumour.astype(np.uint8),
  )
  settings = tiny_head.settings(height=48, width=40, num_slices=9, **fields)
  return scan.prepare_scan(study, study.rows[0], settings).record, array


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("dtype", ["u8", "i16"])
def test_background_is_exactly_zero(tmp_path, plane, dtype):
  record, _ = _prepared(tmp_path, plane=plane, dtype=dtype)
  assert record.slices.shape == (9, 48, 40, 1)
  brain = records.unpack_bits(record.brain_mask, 40)
  assert (record.slices[~brain] == record.zero_code).all()
  assert (record.intensities()[~brain] == 0).all()
  assert 0.2 < brain.mean() < 0.9
  assert abs(record.intensities()[brain].mean()) < 0.2
  assert record.scale == 5.0 / {"u8": 127, "i16": 32767}[dtype]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_tumour_mask_lies_on_the_bright_tumour(tmp_path, plane):
  record, array = _prepared(tmp_path, plane=plane)
  mask = records.unpack_bits(record.mask, 40)
  z = record.intensities()[..., 0]
  assert mask.any()
  assert z[mask].mean() > 2
  brain = records.unpack_bits(record.brain_mask, 40)
  assert z[brain & ~mask].max() < z[mask].max()
  centre = np.argwhere(mask).mean(0)
  voxel = slices.pixel_to_file_voxel(record.geometry, 0, *centre[1:])
  voxel[slices.AXES[plane].slice] = np.interp(
    centre[0], range(9), record.geometry["slice_index"]
  )
  mm = (voxel - (np.array(array.shape) - 1) / 2) * SPACING_MM
  np.testing.assert_allclose(mm, tiny_head.TUMOUR_MM, atol=4)


def test_record_says_whose_scan_it_is_and_where(tmp_path):
  record, array = _prepared(tmp_path)
  ids = (record.participant_id, record.session_id, record.group_id)
  assert ids == ("p", "s", "g") and record.label == "glioma"
  assert record.positions_known
  steps = np.diff(record.geometry["slice_index"]) * SPACING_MM[2]
  np.testing.assert_allclose(np.diff(record.positions_mm), steps)
  assert abs(record.positions_mm.mean()) < SPACING_MM[2]
  # Landmarks are in the file's units: half of the brain is about 100.
  assert record.landmarks.shape == (1, 11)
  assert record.landmarks[0, 5] == pytest.approx(100, abs=2)
  assert record.geometry["file_shape"] == list(array.shape)
  np.testing.assert_allclose(record.geometry["file_spacing_mm"], SPACING_MM)
  assert records.decode(records.encode(record)).geometry == record.geometry


def test_prepared_intensities_do_not_depend_on_the_scanner_gain(tmp_path):
  array, _, _ = tiny_head.tiny_head(SPACING_MM)
  prepared = []
  for name, gain in (("a", 1.0), ("b", 37.0)):
    study = _manifest(tmp_path, {"t1": f"{name}.nii"}, **{name: (array * gain)})
    settings = tiny_head.settings()
    prepared.append(scan.prepare_scan(study, study.rows[0], settings).record)
  a, b = (p.slices.astype(int) for p in prepared)
  assert np.abs(a - b).max() <= 1
  assert (a != b).mean() < 0.01


def test_air_does_not_pull_the_edge_of_the_brain(tmp_path):
  array, brain, _ = tiny_head.tiny_head(SPACING_MM, stripped=True)
  middle = array.shape[0] // 2
  array[:middle][brain[:middle]] = 100
  array[middle:][brain[middle:]] = 300
  study = _manifest(tmp_path, {"t1": "t1.nii"}, t1=array)
  record = scan.prepare_scan(study, study.rows[0], tiny_head.settings()).record
  inside = records.unpack_bits(record.brain_mask, 16)
  z = record.intensities()[..., 0]
  left, right = (z[:, :, c][inside[:, :, c]] for c in (slice(6), slice(10, 16)))
  assert np.ptp(left) <= record.scale and np.ptp(right) <= record.scale
  assert left.max() < -0.9 < 0.9 < right.min()


def _images(tmp_path, count):
  array, _, _ = tiny_head.tiny_head((4.0, 4.0, 8.0))
  names = [f"{i}.png" for i in range(count)]
  for i, name in enumerate(names):
    image = array[:, ::-1, 8 + i].T  # anterior above
    PIL.Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(
      tmp_path / name
    )
  return _manifest(tmp_path, {"t1c": ";".join(names)})


def test_images_become_a_record_of_unknown_positions(tmp_path):
  study = _images(tmp_path, 3)
  settings = tiny_head.settings()
  record = scan.prepare_scan(study, study.rows[0], settings).record
  assert record.slices.shape == (3, 16, 16, 1)
  assert not record.positions_known
  np.testing.assert_array_equal(record.positions_mm, [-1, 0, 1])
  assert record.geometry["source"] == "images"
  assert record.mask is None
  # The tumour, left and in front, is the brightest place inside the brain.
  z = np.where(np.hypot(*np.indices((16, 16)) - 7.5) < 5, 1, -9)
  z = z * 100 + record.intensities()[1, ..., 0]
  row, column = np.unravel_index(z.argmax(), z.shape)
  assert row < 7.5 and column < 7.5


def test_many_images_are_thinned_when_asked(tmp_path):
  study = _images(tmp_path, 5)
  for fields, expected in (
    ({"num_slices": 2}, [1, 3]),
    ({"num_slices": 2, "slices": "all"}, [0, 1, 2, 3, 4]),
  ):
    settings = tiny_head.settings(**fields)
    record = scan.prepare_scan(study, study.rows[0], settings).record
    assert record.geometry["slice_index"] == expected
  settings = tiny_head.settings(slices="every")
  with pytest.raises(ScanError, match=r"config\.preparation\.slices"):
    scan.prepare_scan(study, study.rows[0], settings)


def test_brain_of_one_value_is_refused(tmp_path):
  _, brain, _ = tiny_head.tiny_head(SPACING_MM)
  study = _manifest(tmp_path, {"t1": "t1.nii"}, t1=brain.astype(np.uint8))
  with pytest.raises(ScanError, match=r"t1\.nii: every voxel of the brain"):
    scan.prepare_scan(study, study.rows[0], tiny_head.settings())


def _turned(codes, degrees=0.0):
  """The affine and the order of a file whose axes run towards `codes`."""
  ornt = nib.orientations.axcodes2ornt(codes)
  turn = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], ornt)
  oblique = np.eye(4)
  angle = np.deg2rad(degrees)
  oblique[1:3, 1:3] = [
    [np.cos(angle), -np.sin(angle)],
    [np.sin(angle), np.cos(angle)],
  ]
  return turn, oblique @ np.diag([*SPACING_MM, 1.0])


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(
  ("codes", "degrees"), [("RAS", 0), ("LPI", 0), ("SRP", 0), ("PIL", 17)]
)
def test_a_voxel_of_the_file_is_found_in_the_slices(
  tmp_path, codes, degrees, plane
):
  """From the scanner file to the pixel and back, crop and resampling in."""
  array, _, _ = tiny_head.tiny_head(SPACING_MM, stripped=True)
  marked = np.array([13, 21, 11])
  array[tuple(marked)] = 2000
  turn, affine = _turned(codes, degrees)
  file_array = nib.orientations.apply_orientation(array, turn)
  affine = affine @ nib.orientations.inv_ornt_aff(turn, array.shape)
  voxel = np.argwhere(file_array == 2000)[0]
  nib.save(nib.Nifti1Image(file_array, affine), tmp_path / "a.nii")
  study = _manifest(tmp_path, {"t1": "a.nii"})
  settings = tiny_head.settings(
    height=48, width=40, slices="all", plane=plane, dtype="i16"
  )
  record = scan.prepare_scan(study, study.rows[0], settings).record
  z = record.intensities()[..., 0]
  s, row, column = np.unravel_index(z.argmax(), z.shape)
  back = slices.pixel_to_file_voxel(record.geometry, s, row, column)
  assert np.abs(back - voxel).max() < 0.6  # pixels are about half a voxel
  there = slices.file_voxel_to_pixel(record.geometry, voxel)
  assert there[0] == s
  assert np.abs(np.subtract(there, (s, row, column))).max() < 1.5


def test_modalities_become_channels_and_absent_ones_are_masked(tmp_path):
  array, brain, _ = tiny_head.tiny_head(SPACING_MM, stripped=True)
  other = np.where(brain, 500 - array, 0).astype(np.float32)
  row = {"t1": "a.nii", "t2": "", "flair": "b.nii"}
  study = _manifest(tmp_path, row, a=array, b=other)
  settings = tiny_head.settings(modalities=("flair", "t2", "t1"))
  record = scan.prepare_scan(study, study.rows[0], settings).record
  assert record.slices.shape == (4, 16, 16, 3)
  np.testing.assert_array_equal(record.present, [1, 0, 1])
  assert (record.slices[..., 1] == record.zero_code).all()
  assert not record.landmarks[1].any()
  inside = records.unpack_bits(record.brain_mask, 16)
  flair, _, t1 = np.moveaxis(record.intensities()[inside], -1, 0)
  assert np.corrcoef(flair, t1)[0, 1] < -0.99
  # By default, all image columns in the manifest's order.
  record = scan.prepare_scan(study, study.rows[0], tiny_head.settings()).record
  np.testing.assert_array_equal(record.present, [1, 0, 1])
  np.testing.assert_array_equal(record.intensities()[inside][:, 2], flair)


def test_modalities_of_other_grids_are_brought_together(tmp_path):
  array, brain, _ = tiny_head.tiny_head(SPACING_MM, stripped=True)
  other = np.where(brain, 500 - array, 0).astype(np.float32)
  # The same head: flipped, a margin cut off, moved by whole voxels.
  cut = other[::-1, :-2, 3:]
  affine = np.diag([-SPACING_MM[0], *SPACING_MM[1:], 1.0])
  affine[:3, 3] = [(len(array) - 1) * SPACING_MM[0], 0, 3 * SPACING_MM[2]]
  nib.save(nib.Nifti1Image(cut, affine), tmp_path / "cut.nii")
  settings = tiny_head.settings(height=48, width=40)
  channels = []
  for name in ("b.nii", "cut.nii"):
    study = _manifest(tmp_path, {"t1": "a.nii", "t2": name}, a=array, b=other)
    record = scan.prepare_scan(study, study.rows[0], settings).record
    channels.append(record.intensities()[..., 1])
  np.testing.assert_allclose(channels[1], channels[0], atol=2 * record.scale)
  affine[2, 3] += 500
  nib.save(nib.Nifti1Image(cut, affine), tmp_path / "away.nii")
  study = _manifest(tmp_path, {"t1": "a.nii", "t2": "away.nii"}, a=array)
  with pytest.raises(
    ScanError, match=r"away\.nii: it misses most of the brain"
  ):
    scan.prepare_scan(study, study.rows[0], settings)
  _images(tmp_path, 2)
  study = _manifest(tmp_path, {"t1": "a.nii", "t2": "0.png;1.png"}, a=array)
  with pytest.raises(ScanError, match=r"0\.png: it does not match .*a\.nii"):
    scan.prepare_scan(study, study.rows[0], settings)


def test_bias_field_is_removed_from_volumes_alone(tmp_path):
  array, brain, _ = tiny_head.tiny_head(SPACING_MM, stripped=True)
  ramp = np.linspace(0.6, 1.4, len(array), dtype=np.float32)[:, None, None]
  study = _manifest(tmp_path, {"t1": "a.nii"}, a=array * ramp)
  spread = {}
  for method in ("none", "sitk", "jax"):
    settings = tiny_head.settings(
      bias_field={"method": method, "iterations": (30, 30)}
    )
    record = scan.prepare_scan(study, study.rows[0], settings).record
    inside = records.unpack_bits(record.brain_mask, 16)
    z = record.intensities()[..., 0]
    spread[method] = z[:, :, 12:][inside[:, :, 12:]].mean()
  assert spread["none"] > 0.7
  assert abs(spread["sitk"]) < 0.3 * spread["none"]
  assert spread["jax"] == pytest.approx(spread["sitk"], abs=1e-3)
  study = _images(tmp_path, 3)
  scans = [
    scan.prepare_scan(
      study, study.rows[0], tiny_head.settings(bias_field={"method": method})
    )
    for method in ("none", "jax")
  ]
  np.testing.assert_array_equal(*(s.record.slices for s in scans))


def test_modalities_must_be_columns(tmp_path):
  array, _, _ = tiny_head.tiny_head((12.0, 12.0, 12.0))
  study = _manifest(
    tmp_path, {"t1": "a.nii", "t2": "b.nii", "flair": ""}, a=array, b=array
  )
  for modalities in (("pd",), ("t1", "t1")):
    settings = tiny_head.settings(modalities=modalities)
    with pytest.raises(InputError, match=r"preparation\.modalities") as raised:
      scan.modalities_of(study, settings)
    assert "t1, t2, flair" in str(raised.value)
  given = tiny_head.settings(modalities=("t2",))
  assert scan.modalities_of(study, given) == ("t2",)
  settings = tiny_head.settings(modalities=("flair",))
  with pytest.raises(ScanError, match=r"m\.csv: p has no image.* flair"):
    scan.prepare_scan(study, study.rows[0], settings)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("plane", "axail"),
    ("crop", "head"),
    ("slices", "some"),
    ("dtype", "u16"),
    ("height", 0),
    ("width", -1),
    ("num_slices", 0),
    ("shard_scans", 0),
    ("every_mm", 0.0),
    ("intensity_limit", float("nan")),
    ("margin_mm", -1.0),
    ("bias_field", {"method": "n5"}),
    ("bias_field", {"grid_mm": 0.0}),
    ("bias_field", {"tolerance": -1.0}),
    ("bias_field", {"iterations": ()}),
    ("bias_field", {"iterations": (50, 0)}),
  ],
)
def test_fields_without_meaning_are_refused(field, value):
  with pytest.raises(InputError, match=rf"config\.preparation\.{field}"):
    scan.check_config(tiny_head.settings(**{field: value}))
