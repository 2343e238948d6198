"""Slices lie where they should, marked, whatever a scan holds."""

import dataclasses

import numpy as np
import pytest
from matplotlib.backends import backend_agg
from tiny_run import with_modalities

import helpers
from brainjax import records
from brainjax.evaluation import figures, montage


def random_record(**kwargs):
  return helpers.random_record(np.random.default_rng(0), **kwargs)


def masked_record(**kwargs):
  """A record whose brain is a bright box, with a tumour mask in it."""
  record = random_record(**kwargs)
  mask = np.zeros(record.slices.shape[:3], bool)
  mask[:, 4:10, 5:11] = True
  return dataclasses.replace(record, mask=records.pack_bits(mask))


def pixels(figure):
  canvas = backend_agg.FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def shown_image(axes):
  (image,) = axes.get_images()
  assert image.get_clim() == (-2.5, 2.5)
  return image.get_array()


def texts(artist):
  return [text.get_text() for text in artist.texts]


def sheet(scans, captions=None, modalities=("t1",)):
  captions = captions or [scan.participant_id for scan in scans]
  return montage.contact_sheet(
    scans, captions, modalities=modalities, title="a few"
  )


def test_montage_shows_the_slices_in_order_and_positions():
  record = random_record(num_slices=5)
  (axes,) = montage.slice_montage(record, title="p0", columns=3).axes
  shown = shown_image(axes)
  assert shown.shape == (36, 54)  # a pixel around each slice
  np.testing.assert_array_equal(
    shown[19:35, 19:35], record.intensities()[4, :, :, 0]
  )
  assert (shown[0] == -2.5).all() and (shown[:18, 17:19] == -2.5).all()
  assert shown.mask[18:, 36:].all() and not shown.mask[:, :36].any()
  assert texts(axes) == ["+0 mm", "+5 mm", "+10 mm", "+15 mm", "+20 mm"]
  assert axes.get_title(loc="left") == "p0"
  below = dataclasses.replace(record, positions_mm=record.positions_mm - 12)
  (axes,) = montage.slice_montage(below, title="p0", columns=3).axes
  assert texts(axes)[0] == "−12 mm"
  unknown = dataclasses.replace(record, positions_known=False)
  (axes,) = montage.slice_montage(unknown, title="p0", columns=3).axes
  assert texts(axes) == list("12345")


def test_montage_thins_out_a_long_scan_and_keeps_its_ends():
  record = random_record(num_slices=50)
  (axes,) = montage.slice_montage(record, title="p0", columns=2).axes
  assert texts(axes) == [f"{5 * i:+d} mm" for i in (0, 10, 20, 29, 39, 49)]


@pytest.mark.parametrize(
  ("num_slices", "num_shown", "indices"),
  [
    (9, 3, [0, 4, 8]),
    (2, 3, [0, 1]),
    (1, 8, [0]),
    (5, 1, [0]),
    (0, 4, []),
  ],
)
def test_spread(num_slices, num_shown, indices):
  assert montage.spread(num_slices, num_shown).tolist() == indices


def test_background_is_black_but_only_outside_the_brain():
  record = random_record(num_slices=1, height=8, width=8)
  slices = np.full_like(record.slices, record.zero_code)
  slices[0, 0, 0] += 9  # something outside the brain, as with the skull on
  brain = np.zeros((1, 8, 8), bool)
  brain[0, 4:] = True
  record = dataclasses.replace(
    record, slices=slices, brain_mask=records.pack_bits(brain)
  )
  (axes,) = montage.slice_montage(record, title="p0", columns=1).axes
  shown = shown_image(axes)[1:-1, 1:-1]
  assert (shown[4:] == 0).all()
  assert shown[0, 0] > 0
  assert (shown[1:4] == -2.5).all() and (shown[0, 1:] == -2.5).all()


def test_montage_shows_the_first_modality_that_is_there():
  record = with_modalities(random_record(num_slices=1), [0, 1])
  assert montage.first_present(record) == 1
  (axes,) = montage.slice_montage(record, title="p0", columns=1).axes
  np.testing.assert_array_equal(
    shown_image(axes)[1:-1, 1:-1], record.intensities()[0, :, :, 1]
  )
  nothing = with_modalities(random_record(num_slices=1), [0, 0])
  (axes,) = montage.slice_montage(nothing, title="p0", columns=1).axes
  assert (shown_image(axes)[1:-1, 1:-1] == 0).all()


def test_montage_draws_the_mask_outline_where_the_mask_is():
  record = masked_record(num_slices=2)
  with_mask = pixels(montage.slice_montage(record, title="p", columns=2))
  plain = dataclasses.replace(record, mask=None)
  without = pixels(montage.slice_montage(plain, title="p", columns=2))
  empty = dataclasses.replace(record, mask=np.zeros_like(record.mask))
  nothing = pixels(montage.slice_montage(empty, title="p", columns=2))
  np.testing.assert_array_equal(without, nothing)
  changed = (with_mask != without).any(-1)
  assert changed.any()
  # Orange, in both slices, and on the box alone.
  red, _, blue = with_mask[changed].mean(0)
  assert red > blue + 50
  height, width = changed.shape
  tile = width / 2
  for column in range(2):
    y, x = np.nonzero(changed[:, int(column * tile) : int((column + 1) * tile)])
    y = y - (height - tile)  # the title lies above
    # A slice starts a pixel inside its tile.
    assert (x.min() / tile * 18, x.max() / tile * 18) == pytest.approx(
      (6, 12), abs=0.6
    )
    assert (y.min() / tile * 18, y.max() / tile * 18) == pytest.approx(
      (5, 11), abs=0.6
    )


@pytest.mark.parametrize(
  ("plane", "marked"), [("axial", 1), ("coronal", 1), ("sagittal", 0)]
)
def test_the_left_is_marked_where_it_is_in_the_picture(plane, marked):
  record = dataclasses.replace(random_record(), geometry={"plane": plane})
  (axes,) = montage.slice_montage(record, title="p0", columns=3).axes
  assert texts(axes).count("L") == marked
  (axes,) = sheet([record]).axes
  assert texts(axes).count("L") == marked


def test_sheet_has_a_row_a_scan_of_at_most_eight_slices():
  scans = [random_record(num_slices=n) for n in (20, 1, 8)]
  figure = sheet(scans, ["one", "two", "three"])
  assert texts(figure) == ["a few", "one", "two", "three"]
  widths = [shown_image(axes).shape for axes in figure.axes]
  assert widths == [(18, 8 * 18), (18, 18), (18, 8 * 18)]
  positions = [axes.get_position() for axes in figure.axes]
  # All pixels are of one size, and nothing covers anything.
  inches = figure.get_size_inches()
  for place, (height, width) in zip(positions, widths, strict=True):
    assert place.width * inches[0] / width == pytest.approx(8 / 144)
    assert place.height * inches[1] / height == pytest.approx(8 / 144)
  assert positions[0].y0 > positions[1].y1 > positions[1].y0 > positions[2].y1
  assert positions[2].y0 > 0
  assert texts(figure.axes[0])[:8] == [
    f"{5 * i:+d} mm" for i in (0, 3, 5, 8, 11, 14, 16, 19)
  ]
  np.testing.assert_array_equal(
    shown_image(figure.axes[0])[1:17, 127:143],
    scans[0].intensities()[19, :, :, 0],
  )


def test_sheet_has_a_row_a_modality_and_names_what_is_not_there():
  scans = [
    with_modalities(random_record(num_slices=9), present)
    for present in ([1, 1, 1], [0, 1, 0], [0, 0, 0])
  ]
  figure = sheet(scans, list("abc"), ("t1", "t2", "flair"))
  labels = [texts(axes)[-1] for axes in figure.axes]
  assert labels == ["t1", "t2", "flair", "t2"]
  np.testing.assert_array_equal(
    shown_image(figure.axes[3])[1:17, 1:17],
    scans[1].intensities()[0, :, :, 1],
  )
  absent = ["t1: not there", "flair: not there"]
  assert texts(figure) == [
    *("a few", "a", "b", *absent, "c"),
    *("t1: not there", "t2: not there", "flair: not there"),
  ]
  # From top to bottom as they are named, however high a row is.
  y = [axes.get_position().y0 for axes in figure.axes]
  assert y == sorted(y, reverse=True)
  lines = [text.get_position()[1] for text in figure.texts]
  assert lines == sorted(lines, reverse=True) and lines[-1] > 0
  assert lines[3] > figure.axes[3].get_position().y1


@pytest.mark.parametrize(
  ("longest", "across"), [(1, 4), (2, 4), (3, 2), (5, 1)]
)
def test_scans_of_few_slices_stand_side_by_side(longest, across):
  scans = [random_record(num_slices=longest) for _ in range(across + 1)]
  figure = sheet(scans, ["a caption of many words, in full"] * len(scans))
  places = [axes.get_position() for axes in figure.axes]
  assert len({place.y0 for place in places[:across]}) == 1
  assert places[across].y1 < places[0].y0
  assert places[across].x0 == pytest.approx(0, abs=1e-9)
  assert places[0].x0 == pytest.approx(0, abs=1e-9)
  rights = [place.x1 for place in places[:across]]
  assert rights[-1] == pytest.approx(1)
  for right, following in zip(rights, places[1:across], strict=False):
    assert right < following.x0
  # What does not fit above a scan goes on below, and covers no slice.
  canvas = backend_agg.FigureCanvasAgg(figure)
  canvas.draw()
  for text, place in zip(figure.texts[1:], places, strict=True):
    box = text.get_window_extent().transformed(figure.transFigure.inverted())
    assert box.y0 > place.y1
    assert box.x1 <= place.x0 + rights[0] + 1e-6


def test_sheet_draws_both_outlines_and_tells_them_apart():
  brain = np.zeros((1, 16, 16), bool)
  brain[:, 2:14, 2:14] = True
  record = dataclasses.replace(
    masked_record(num_slices=1), brain_mask=records.pack_bits(brain)
  )
  (axes,) = sheet([record]).axes
  outer, inner = axes.collections
  assert outer.get_linestyle() != inner.get_linestyle()
  for lines, low, high in ((outer, 2, 14), (inner, 4, 11)):
    (points,) = [path.vertices for path in lines.get_paths()]
    # A slice starts a pixel inside, and a pixel's middle is its coordinate.
    assert points.min() == pytest.approx(low + 0.5)
    assert points.max() == pytest.approx(high + 0.5)
  nothing = dataclasses.replace(
    record,
    mask=np.zeros_like(record.mask),
    brain_mask=np.zeros_like(record.brain_mask),
  )
  assert not sheet([nothing]).axes[0].collections


def test_sheet_is_the_same_twice_and_never_reads_mathematics(tmp_path):
  name = "$\\frac{$"
  for path in (tmp_path / "1.png", tmp_path / "2.png"):
    record = masked_record(num_slices=2)
    figure = sheet([record], [name], modalities=[name])
    figures.save_png(figure, path)
  first, second = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
  assert first == second
