"""Scans that are laid upon a template."""

import json

import nibabel as nib
import numpy as np
import pytest
import tiny_head

from brainjax import InputError, config, records
from brainjax.cohort import manifest
from brainjax.preparation import parts, prepare, scan, slices, template
from brainjax.preparation.volume import ScanError

SPACING_MM = np.array([4.0, 4.0, 5.0])
MARKED_MM = np.array([-25.0, 30.0, 10.0])  # centre of the tumour
MOTION = np.eye(4)  # millimetres of the template to those of the scan
ANGLE = np.radians(8.0)
MOTION[:2, :2] = [
  [np.cos(ANGLE), -np.sin(ANGLE)],
  [np.sin(ANGLE), np.cos(ANGLE)],
]
MOTION[:3, 3] = (60.0, -20.0, 35.0)  # scanners have their own origins


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  """A head as the template has it, and turned, of another contrast."""
  folder = tmp_path_factory.mktemp("study")
  array, brain, tumour = tiny_head.tiny_head(SPACING_MM)
  affine = np.diag([*SPACING_MM, 1.0])
  affine[:3, 3] = -(np.array(array.shape) - 1) / 2 * SPACING_MM
  nib.save(nib.Nifti1Image(array, affine), folder / "template.nii.gz")
  other = (np.sqrt(np.maximum(array, 0)) * 10).astype(np.float32)
  # Stored from front to back and right to left, as scanners may.
  turned = MOTION @ affine
  for name, image in (("t1", other), ("t2", other + 50 * tumour)):
    stored = nib.Nifti1Image(image, turned).as_reoriented(
      np.array([[1, 1], [0, -1], [2, 1]])
    )
    nib.save(stored, folder / f"{name}.nii.gz")
  for name, mask in (("mask", tumour), ("brain_mask", brain)):
    image = nib.Nifti1Image(mask.astype(np.uint8), turned)
    nib.save(image, folder / f"{name}.nii.gz")
  columns = ("t1", "t2", "mask", "brain_mask")
  row = {"participant_id": "p", "label": ""}
  row |= {name: f"{name}.nii.gz" for name in columns}
  manifest.write_manifest(folder / "m.csv", [row], list(row))
  return manifest.read_manifest(folder / "m.csv")


def settings(study, **fields):
  return tiny_head.settings(
    height=40,
    width=40,
    slices="all",
    template=str(study.path.parent / "template.nii.gz"),
    **fields,
  )


@pytest.mark.parametrize(
  "plane", ["axial", pytest.param("sagittal", marks=pytest.mark.slow)]
)
def test_it_lies_as_the_template_does(study, plane):
  prepared = scan.prepare_scan(
    study, study.rows[0], settings(study, plane=plane)
  )
  record = prepared.record
  geometry = record.geometry
  np.testing.assert_allclose(geometry["template"]["spacing_mm"], SPACING_MM)
  assert sorted(geometry["file_shape"]) == sorted(
    nib.nifti1.load(study.path.parent / "t1.nii.gz").shape
  )
  # The centre of the marked pixels is where the tumour is in the file.
  mask = records.unpack_bits(record.mask, 40)
  centre = np.argwhere(mask).mean(0)
  s = int(round(centre[0]))
  voxel = slices.pixel_to_file_voxel(geometry, s, *centre[1:])
  file_mm = nib.affines.apply_affine(np.array(geometry["file_affine"]), voxel)
  wanted_mm = nib.affines.apply_affine(MOTION, MARKED_MM)
  assert np.linalg.norm(file_mm - wanted_mm) < 3.0
  np.testing.assert_allclose(
    slices.file_voxel_to_pixel(geometry, voxel), (s, *centre[1:]), atol=1e-6
  )
  # Both modalities lie upon each other.
  z = record.intensities()
  assert z.shape[-1] == 2
  for c in range(2):
    assert z[..., c][mask].mean() > z[..., c][~mask & (z[..., c] != 0)].mean()
  assert prepared.warnings == ()


def test_a_record_is_made_again_with_another_template(study, tmp_path):
  said = settings(study)
  summary = prepare.prepare(study.path, tmp_path / "out", said)
  assert summary.counts == {"new": 1}
  kept = json.loads((tmp_path / "out" / "index.json").read_text())[
    "preparation"
  ]
  assert len(kept["template_sha256"]) == 64
  assert said.template_sha256 == ""
  again = prepare.forecast(study.path, tmp_path / "out", said)
  assert again.num_kept == 1
  said.template = ""
  again = prepare.forecast(study.path, tmp_path / "out", said)
  assert again.redone == (("p", "", "with changed settings"),)


def test_without_a_template_keys_are_as_before_there_were_any(study):
  job = parts.Job(study, config.get_config().preparation, study.path, ())
  assert "template" not in str(parts._settings_of(job))


def test_another_template_is_noticed(study):
  with pytest.raises(InputError, match="not the one that the records"):
    template.pinned(settings(study, template_sha256="0" * 64))


@pytest.mark.parametrize(
  "name, message",
  [
    ("nowhere.nii", "template=nowhere.nii: no such file; name a NIfTI"),
    ("mni153", "no such file; name a NIfTI file, or mni152"),
  ],
)
def test_no_such_template(study, name, message):
  said = settings(study)
  said.template = name
  with pytest.raises(InputError, match=message):
    template.pinned(said)


def test_what_does_not_fit_is_rejected(study, monkeypatch):
  monkeypatch.setattr(template.registration, "register", lambda *_, **__: None)
  with pytest.raises(ScanError, match="t1.nii.gz: it cannot be laid upon"):
    scan.prepare_scan(study, study.rows[0], settings(study))


@pytest.mark.slow  # the template alone has 9 million voxels
def test_the_template_that_ships_with_nilearn(study):
  said = settings(study)
  said.template = template.BUILT_IN
  record = scan.prepare_scan(study, study.rows[0], said).record
  assert record.geometry["template"]["spacing_mm"] == [1.0, 1.0, 1.0]
  assert len(template.pinned(said).template_sha256) == 64
