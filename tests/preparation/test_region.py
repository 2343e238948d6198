import numpy as np
import pytest

from brainjax.preparation import region


def _mask(shape, *box):
  mask = np.zeros(shape, bool)
  mask[tuple(slice(*edge) for edge in box)] = True
  return mask


def _find(mask, spacing_mm, **changes):
  options = {
    "plane": "axial",
    "crop": "brain",
    "margin_mm": 0.0,
    "height": 10,
    "width": 10,
  }
  return region.find_region(mask, np.array(spacing_mm), **options | changes)


def _edges(line, count):
  """Where the first and the last pixel end, in voxels."""
  offset, step = line
  return sorted((offset - step / 2, offset + step * (count - 0.5)))


def test_box_is_square_in_millimetres_and_centred_on_the_brain():
  mask = _mask((40, 60, 20), (10, 20), (10, 40), (3, 9))
  box = _find(mask, (2.0, 1.0, 4.0))
  # 20 mm by 30 mm: 30 mm square, whose pixels are 3 mm.
  assert box.column[1] * 2.0 == pytest.approx(3)
  assert box.row[1] * 1.0 == pytest.approx(-3)
  assert _edges(box.row, 10) == pytest.approx([9.5, 39.5])
  assert np.mean(_edges(box.column, 10)) == pytest.approx(14.5)
  assert box.slices == range(3, 9)
  assert box.centre == 5.5


def test_wide_slices_show_more_to_the_sides():
  mask = _mask((40, 40, 5), (10, 30), (10, 30), (0, 5))
  box = _find(mask, (1.0, 1.0, 1.0), width=20)
  assert box.column[1] == -box.row[1] == 2
  assert _edges(box.column, 20) == pytest.approx([-0.5, 39.5])


def test_margin_ends_with_the_volume():
  mask = _mask((30, 30, 30), (2, 22), (8, 18), (4, 5))
  box = _find(mask, (2.0, 2.0, 2.0), margin_mm=8.0)
  # Columns: 4 voxels to the right, but only 2 to the left.
  assert _edges(box.column, 10) == pytest.approx([-0.5, 25.5])
  assert _edges(box.row, 10) == pytest.approx([-0.5, 25.5])
  assert box.slices == range(4, 5)


def test_whole_volume_leaves_nothing_out():
  mask = _mask((30, 50, 12), (10, 12), (10, 12), (7, 9))
  box = _find(mask, (1.0, 1.0, 1.0), crop="none", margin_mm=5.0)
  assert _edges(box.row, 10) == pytest.approx([-0.5, 49.5])
  assert _edges(box.column, 10) == pytest.approx([-10.5, 39.5])
  assert box.slices == range(12)
  assert box.centre == 7.5  # of the brain all the same


@pytest.mark.parametrize(
  ("plane", "axes"),
  [("axial", (1, 0, 2)), ("coronal", (2, 0, 1)), ("sagittal", (2, 1, 0))],
)
def test_planes_take_their_axes(plane, axes):
  mask = _mask((9, 10, 11), (0, 1), (2, 5), (6, 11))
  box = _find(mask, (1.0, 1.0, 1.0), plane=plane)
  starts = (0, 2, 6), (1, 5, 11)
  assert box.axes == axes
  assert box.slices == range(starts[0][axes[2]], starts[1][axes[2]])
  middles = [(s + e - 1) / 2 for s, e in zip(*starts, strict=True)]
  assert np.mean(_edges(box.row, 10)) == pytest.approx(middles[axes[0]])
  assert np.mean(_edges(box.column, 10)) == pytest.approx(middles[axes[1]])


@pytest.mark.parametrize(("side", "first"), [(4, 3), (5, 2)])
def test_slices_of_specks_are_left_out(side, first):
  mask = _mask((40, 40, 12), (10, 30), (10, 30), (3, 9))
  mask[10 : 10 + side, 10:14, 2] = True  # of 400 voxels, 16 or 20
  box = _find(mask, (1.0, 1.0, 1.0))
  assert box.slices == range(first, 9)
  assert box.centre == (first + 8) / 2
  # In-plane, nothing of them is.
  assert _edges(box.row, 10) == pytest.approx([9.5, 29.5])


def test_no_image_of_a_set_is_left_out():
  mask = _mask((20, 20, 6), (5, 15), (5, 15), (4, 6))
  box = _find(mask, (1.0, 1.0, 1.0), plane=None)
  assert box.slices == range(6)
  assert box.centre == 2.5
  assert _edges(box.row, 10) == pytest.approx([4.5, 14.5])
