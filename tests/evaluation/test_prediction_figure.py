import dataclasses

import numpy as np
import pytest
from matplotlib import axes as mpl_axes

import helpers
from brainjax.evaluation import figures
from brainjax.evaluation.prediction_figure import prediction_figure

NOTICE = "Research only, not a medical device."
PROBABILITIES = {"normal": 0.0688, "tumour": 0.9312}
CONTRIBUTIONS = np.array([0.1, -0.6, 0.05, 0.8, 0.2])


def scan(**fields):
  rng = np.random.default_rng(0)
  record = helpers.random_record(rng, num_slices=5)
  return dataclasses.replace(
    record, **{"geometry": {"plane": "axial"}, **fields}
  )


def draw(record=None, **changes):
  record = record or scan()
  arguments = {
    "contributions": CONTRIBUTIONS[: len(record.slices)],
    "probabilities": PROBABILITIES,
    "modalities": ["t1", "flair"][: record.slices.shape[-1]],
    "slice_names": [f"k = {3 * i}" for i in range(len(record.slices))],
    "title": "sub-01 ses-2",
    "warnings": ["voxels 0.87 mm apart; the training set had 1.00 to 1.00 mm"],
    "notice": NOTICE,
  }
  return prediction_figure(record, **(arguments | changes))


def texts(figure):
  found = [text.get_text() for axes in figure.axes for text in axes.texts]
  return "\n".join(found)


def pictures(figure):
  """The axes that show a slice, row by row."""
  return [axes for axes in figure.axes if axes.images]


def chart(figure) -> mpl_axes.Axes:
  (axes,) = [axes for axes in figure.axes if axes.get_ylabel()]
  return axes


def test_says_all_that_must_be_read():
  text = texts(draw())
  for part in ("sub-01 ses-2", "tumour", "93.1 %", "6.9 %", "0.87 mm", NOTICE):
    assert part in text
  assert "Take this answer with care" in text
  assert "Take this answer with care" not in texts(draw(warnings=[]))


def test_long_warnings_are_wrapped_and_push_down_what_follows():
  warning = "the voxels may be false; " * 12
  figure = draw(warnings=[warning, warning])
  text = texts(figure)
  assert " ".join(text.split()).count("the voxels may be false;") == 24
  assert max(map(len, text.splitlines())) <= 116
  assert figure.get_figheight() > draw().get_figheight() + 0.5


def test_largest_contributions_of_either_sign_are_shown_large():
  record = scan()
  figure = draw(record)
  shown = [axes.images[0].get_array()[1:-1, 1:-1] for axes in pictures(figure)]
  values = record.intensities()[..., 0]
  for image, s in zip(shown, (3, 1, 4), strict=True):
    np.testing.assert_allclose(image, values[s], atol=1e-6)
  text = texts(figure)
  for part in ("1: contribution +0.80", "2: contribution \N{MINUS SIGN}0.60"):
    assert part in text
  assert "k = 9" in text and "k = 6" not in text


def test_chart_has_a_bar_a_slice_at_its_position():
  record = scan()
  axes = chart(draw(record))
  bars = axes.patches
  middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
  np.testing.assert_allclose(middles, record.positions_mm)
  np.testing.assert_allclose([b.get_height() for b in bars], CONTRIBUTIONS)
  against = {b.get_facecolor() for b in bars if b.get_height() < 0}
  for_it = {b.get_facecolor() for b in bars if b.get_height() > 0}
  assert len(against) == len(for_it) == 1 and against != for_it
  assert "millimetres above" in axes.get_xlabel()
  numbered = {text.get_text(): text.xy[0] for text in axes.texts}
  assert numbered == {"1": 15.0, "2": 5.0, "3": 20.0}


def test_chart_of_images_counts_slices():
  axes = chart(draw(scan(positions_known=False, geometry={"plane": None})))
  assert axes.get_xlabel() == "slice"
  assert axes.patches[0].get_x() < 1 < 5 < axes.get_xlim()[1]


@pytest.mark.parametrize("present", [(1, 1), (1, 0), (0, 1)])
def test_shows_every_modality_that_is_there(present):
  record = scan()
  slices = np.concatenate([record.slices, 254 - record.slices], -1)
  record = dataclasses.replace(
    record,
    slices=slices,
    present=np.array(present, np.uint8),
    landmarks=np.zeros((2, 11), np.float32),
  )
  figure = draw(record)
  assert len(pictures(figure)) == 3 * sum(present)
  text = texts(figure)
  assert ("t1" in text, "flair" in text) == (present[0] == 1, present[1] == 1)


def test_contributions_near_nothing_do_not_look_large():
  figure = draw(contributions=1e-6 * CONTRIBUTIONS)
  low, high = chart(figure).get_ylim()
  assert low < -0.05 and high > 0.05
  assert "No slice decides alone" in texts(figure)
  assert "No slice decides alone" not in texts(draw())


def test_one_slice_and_many_classes_and_a_long_name_fit():
  record = scan()
  one = dataclasses.replace(
    record,
    slices=record.slices[:1],
    positions_mm=record.positions_mm[:1],
    brain_mask=record.brain_mask[:1],
  )
  probabilities = {f"class {i} $of$ many" * 3: 0.1 for i in range(10)}
  figure = draw(one, probabilities=probabilities)
  assert len(pictures(figure)) == 1
  for axes in pictures(figure):
    left, bottom, width, height = axes.get_position().bounds
    assert min(left, bottom) > 0 and left + width < 1 and bottom + height < 1
  figure.draw_without_rendering()


def test_certainty_is_not_overstated():
  almost = {"normal": 1e-5, "tumour": 1 - 1e-5}
  text = texts(draw(probabilities=almost))
  assert "> 99.9 %" in text and "< 0.1 %" in text and "100" not in text


def test_nothing_overlaps_and_the_same_bytes_are_written(tmp_path):
  for name in ("a", "b"):
    figures.save_png(draw(), tmp_path / name)
  assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
  boxes = [axes.get_position() for axes in draw().axes[1:]]
  for i, box in enumerate(boxes):
    assert not any(box.overlaps(other) for other in boxes[i + 1 :])
