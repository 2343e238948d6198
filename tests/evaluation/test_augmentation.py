"""The draws of the augmentation that a report shows."""

import json

import numpy as np
import pytest
from tiny_run import write_workdir

import helpers
from brainjax.evaluation import (
  augmentation,
  augmentation_figure,
  figures,
  report,
)
from brainjax.training import experiment

STILL = ("rotation_degrees", "scale", "translation")


def make_run(tmp_path, *overrides):
  helpers.write_cohort(tmp_path / "records", participants=12)
  still = [f"augment.{name}=0.0" for name in STILL]
  config = helpers.micro_config(tmp_path / "records", *still, *overrides)
  return experiment.resolve(config, tmp_path / "run", 1)


def test_draws_are_the_middle_slice_as_prepared_and_as_varied(tmp_path):
  run = make_run(tmp_path)
  augmentation.write_draws(run)
  with np.load(augmentation.draws_file(run.workdir)) as kept:
    assert json.loads(str(kept["ranges"]))["flip"] is True
    shown = {int(name): kept[name] for name in kept if name.isdigit()}
  assert len(shown) == 4 and shown.keys() <= set(run.subset("train").tolist())
  mirrored = []
  for index, images in shown.items():
    record = run.record_set[index]
    slices = record.intensities()
    middle = slices[len(slices) // 2]
    np.testing.assert_allclose(images[0], middle, rtol=1e-6)
    for image in images[1:]:
      still, mirror = (image == images[0]).all(), (image == images[0, :, ::-1])
      assert still or mirror.all()
      mirrored.append(not still)
  assert 0 < sum(mirrored) < len(mirrored)


def test_nothing_is_kept_where_nothing_is_varied(tmp_path):
  run = make_run(tmp_path, "augment.flip=False")
  augmentation.write_draws(run)
  assert not augmentation.draws_file(run.workdir).exists()


@pytest.mark.parametrize(
  "ranges, expected",
  [
    ({}, ""),
    ({"rotation_degrees": 15.0, "gamma": [1.0, 1.0]}, "rotation ±15°"),
    ({"crop": 0.2}, "window cut out of 80 % of the side or more"),
    ({"bias_field": 0.3}, "bias field up to a factor of 1.35"),
    (
      {"translation": 25 / 128, "noise": 0.05, "elastic_sigma": 0.1},
      "translation ±19.5 % of the side, noise up to 0.05 standard deviations",
    ),
  ],
)
def test_ranges_in_words(ranges, expected):
  assert augmentation_figure.describe(ranges) == expected


def test_page_shows_the_draws(tmp_path, monkeypatch):
  monkeypatch.setattr(figures, "_DPI", 30)
  workdir = write_workdir(tmp_path / "run", modalities=("t1", "flair"))
  page = report.write_report([workdir])
  assert "How training varies the scans" not in page.read_text()
  images = np.random.default_rng(0).normal(size=(3, 8, 6, 2)).astype("f")
  images[0, ..., 0] = 0  # a modality that the scan lacks
  np.savez(
    workdir / "augmentation.npz",
    **{"ranges": np.array('{"flip": false, "scale": 0.1}'), "1": images},
  )
  text = report.write_report([workdir]).read_text()
  assert "How training varies the scans" in text
  assert "each in a range:\nscale ±10 %." in text
  assert "under 2 draws of the augmentation (scale ±10 %): p1 s1" in text
  assert "normal, flair." in text
  assert (workdir / "figures" / "augmentation.png").stat().st_size > 1000


def test_zeros_of_the_brain_are_not_drawn_black():
  image = np.zeros((7, 7))
  image[1:6, 1:6] = 1
  image[3, 3] = 0
  sheet = augmentation_figure.draw_sheet([np.stack([image, image])], ["p"])
  shown = np.array(sheet.axes[0].images[0].get_array())
  assert shown.shape == (9, 18)
  assert shown[4, 4] == 0 and shown[2, 2] == 1
  assert (shown[1] == shown.min()).all() and shown.min() == -2.5
