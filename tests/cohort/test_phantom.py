import collections
import pathlib

import nibabel as nib
import numpy as np
import pytest

from brainjax import InputError
from brainjax.cohort import manifest, phantom


def contents(folder):
  return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  """The folder, rows and columns of six participants."""
  folder = tmp_path_factory.mktemp("cohort")
  return folder, *phantom.write_phantom_cohort(folder, participants=6)


def test_a_stopped_cohort_continues_to_the_same_bytes(cohort):
  folder, rows, _ = cohort
  whole = contents(folder)
  stays = pathlib.Path(rows[0]["t1"])
  modified = stays.stat().st_mtime_ns
  for gone in (rows[1]["t1"], rows[2]["mask"]):
    pathlib.Path(gone).unlink()
  phantom.write_phantom_cohort(folder, participants=6)
  assert contents(folder) == whole
  assert stays.stat().st_mtime_ns == modified


def test_another_seed_gives_another_image(cohort, tmp_path):
  _, rows, _ = cohort
  indices = []
  (row,), _ = phantom.write_phantom_cohort(
    tmp_path,
    participants=1,
    seed=1,
    progress=lambda them: indices.extend(them) or indices,
  )
  assert indices == [0]
  ours, theirs = (np.asarray(nib.load(r["t1"]).dataobj) for r in (rows[0], row))
  assert not np.array_equal(ours, theirs)


def test_a_folder_of_another_seed_is_refused(cohort):
  folder, _, _ = cohort
  with pytest.raises(InputError, match="phantom-00000_t1.*seed 0.*seed 1"):
    phantom.write_phantom_cohort(folder, participants=1, seed=1)


@pytest.mark.parametrize("wrong", [{"participants": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
  with pytest.raises(InputError, match="at least"):
    phantom.write_phantom_cohort(tmp_path, **wrong)


def test_files_are_as_the_manifest_and_the_scanner_state(cohort):
  folder, rows, columns = cohort
  manifest.write_manifest(folder / "manifest.csv", rows, columns)
  read = manifest.read_manifest(folder / "manifest.csv")
  (folder / "manifest.csv").unlink()
  assert read.modalities == ("t1",)
  for row in read.rows:
    scanner = phantom.SCANNERS[row["scanner"]]
    image, mask = (nib.load(folder / row[name]) for name in ("t1", "mask"))
    assert nib.aff2axcodes(image.affine) == tuple(scanner.orientation)
    np.testing.assert_array_equal(image.affine, mask.affine)
    assert mask.get_fdata().any() == (row["label"] != "normal")
    image, mask = (nib.as_closest_canonical(i) for i in (image, mask))
    assert image.shape == mask.shape == scanner.shape
    np.testing.assert_allclose(image.header.get_zooms(), scanner.spacing_mm)
    volume, _ = phantom.render(0, int(row["participant_id"][-5:]), row["label"])
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume)


def test_shares_are_exact_and_the_order_is_not_fixed():
  labels = [phantom.describe(0, i)["label"] for i in range(12)]
  assert collections.Counter(labels) == {
    "normal": 6,
    "glioma": 2,
    "meningioma": 2,
    "metastasis": 2,
  }
  assert labels[:6] != labels[6:]


def test_nothing_else_follows_the_label(monkeypatch):
  before = [phantom.describe(0, i) for i in range(12)]
  stream = phantom._stream
  monkeypatch.setattr(
    phantom,
    "_stream",
    lambda seed, index, name: stream(seed + (name == "labels"), index, name),
  )
  after = [phantom.describe(0, i) for i in range(12)]
  assert [row.pop("label") for row in before] != [
    row.pop("label") for row in after
  ]
  assert before == after
  assert {row["scanner"] for row in after} == set(phantom.SCANNERS)


@pytest.mark.parametrize("label", ["glioma", "meningioma", "metastasis"])
def test_the_same_person_without_the_tumour_differs_in_the_mask(label):
  ill, mask = phantom.render(0, 0, label)
  well, empty = phantom.render(0, 0, "normal")
  change = np.abs(ill.astype(float) - well)
  assert not empty.any()
  assert (change[mask > 0] > 0).mean() > 0.95
  assert change[mask > 0].mean() > 20 * change[mask == 0].mean()
  assert (change == 0).mean() > 0.8


def test_each_tumour_has_its_own_look():
  well, _ = phantom.render(0, 1, "normal")
  pairs = {}
  for label in ("glioma", "meningioma", "metastasis"):
    ill, mask = phantom.render(0, 1, label)
    pairs[label] = ill[mask > 0], well[mask > 0]
  ill, healthy = pairs["glioma"]  # dark
  assert ill.mean() < 0.95 * healthy.mean()
  ill, healthy = pairs["meningioma"]  # homogeneous
  assert ill.std() < 0.7 * healthy.std()
  ill, healthy = pairs["metastasis"]  # bright foci
  assert np.percentile(ill, 95) > 1.1 * np.percentile(healthy, 95)


def test_the_scanner_follows_the_label_only_if_asked_for():
  rows = [phantom.describe(0, i, confounded=True) for i in range(200)]
  south = {True: [], False: []}
  for row in rows:
    south[row["label"] == "normal"].append(row["site"] == "south")
  assert np.mean(south[False]) > 0.85
  assert np.mean(south[True]) < 0.15
  plain = [phantom.describe(0, i) for i in range(200)]
  for name in ("label", "age", "sex", "participant_id"):
    assert [row[name] for row in rows] == [row[name] for row in plain]


def test_a_confounded_cohort_is_another(tmp_path):
  rows, _ = phantom.write_phantom_cohort(
    tmp_path, participants=1, confounded=True
  )
  image = nib.load(rows[0]["t1"])
  scanner = phantom.SCANNERS[rows[0]["scanner"]]
  assert nib.aff2axcodes(image.affine) == tuple(scanner.orientation)
  with pytest.raises(InputError, match="confounded"):
    phantom.write_phantom_cohort(tmp_path, participants=1)
