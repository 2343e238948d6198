"""The pictures show what they are given, and are the same twice."""

import io

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from PIL import Image

import helpers
from brainjax.evaluation import figures, montage

LOG = [
  {"step": 1, "epoch": 0.5, "train/loss": 0.9, "learning_rate": 1e-3},
  {"step": 2, "epoch": 1.0, "train/loss": None},
  {"step": 2, "epoch": 1.0, "validation/loss": 0.7, "validation/accuracy": 0.6},
  {"step": 4, "epoch": 2.0, "train/loss": 0.6},
  {
    "step": 4,
    "epoch": 2.0,
    "validation/loss": 0.5,
    "validation/roc_auc": float("nan"),
    "validation/accuracy": 0.8,
  },
  {"step": 6, "epoch": 3.0, "validation/loss": 0.5},
  {"step": 8, "epoch": 4.0, "validation/loss": float("nan")},
]
PROBABILITIES = np.array(
  [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8], [0.1, 0.9]]
)
TARGETS = np.array([0, 1, 0, 1, 1])


def lines(axes):
  return {
    line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()
  }


def legend(axes_or_figure):
  (found,) = (
    axes_or_figure.legends
    if hasattr(axes_or_figure, "legends")
    else [axes_or_figure.get_legend()]
  )
  return [text.get_text() for text in found.get_texts()]


def every_figure():
  return {
    "learning": figures.learning_curves(LOG),
    "roc": figures.roc_curves(
      {"lstm": (PROBABILITIES, TARGETS)}, ["a", "b"], "b"
    ),
    "confusion": figures.confusion_matrix([[3, 1], [0, 2]], ["a", "b"]),
  }


def test_png_is_an_image_and_the_same_bytes_twice(tmp_path):
  first, second = every_figure(), every_figure()
  for name in first:
    paths = tmp_path / f"{name}-1.png", tmp_path / f"{name}-2.png"
    figures.save_png(first[name], paths[0])
    figures.save_png(second[name], paths[1])
    data = paths[0].read_bytes()
    assert data == paths[1].read_bytes()
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG" and min(image.size) > 300
    assert not {"Software", "Creation Time", "date"} & set(image.info)
    assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_a_failed_save_leaves_the_old_file(tmp_path):
  path = tmp_path / "x.png"
  path.write_bytes(b"old")
  figure = figures.confusion_matrix([[1]], ["a"])
  figure.savefig = lambda *args, **kwargs: 1 / 0
  with pytest.raises(ZeroDivisionError):
    figures.save_png(figure, path)
  assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_nothing_global_is_left_behind():
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    before = dict(matplotlib.rcParams)
    every_figure()
    assert dict(matplotlib.rcParams) == before
  assert not matplotlib.pyplot.get_fignums()


def test_learning_curves_draw_what_was_logged():
  loss, scores = figures.learning_curves(LOG).axes
  assert lines(loss) == {
    "training": [[0.5, 0.9], [2, 0.6]],
    "validation": [[1, 0.7], [2, 0.5], [3, 0.5]],
    "lowest, epoch 3": [[3, 0.5]],
  }
  assert lines(scores)["validation accuracy"] == [[1, 0.6], [2, 0.8]]
  assert lines(scores)["validation AUC"] == []


def test_lines_of_one_panel_differ_by_more_than_colour():
  for panel in figures.learning_curves(LOG).axes:
    styles = [line.get_linestyle() for line in panel.get_lines()]
    assert len(set(styles)) == len(styles)


@pytest.mark.parametrize("log_lines", [[], LOG[:1]])
def test_learning_curves_without_validation(log_lines):
  (loss,) = figures.learning_curves(log_lines).axes
  assert list(lines(loss)) == ["training", "validation"]


def test_binary_roc_has_a_curve_a_model_of_the_positive_class():
  curves = {
    "lstm\nAUC 0.75 [0.50, 1.00]": (PROBABILITIES, TARGETS),
    "gru": (PROBABILITIES[:, ::-1], TARGETS),
  }
  figure = figures.roc_curves(curves, ["normal", "tumour"], "tumour")
  drawn = lines(figure.axes[0])
  assert drawn["lstm\nAUC 0.75 [0.50, 1.00]"] == [
    [0, 0],
    [0, 1 / 3],
    [0, 2 / 3],
    [0.5, 2 / 3],
    [0.5, 1],
    [1, 1],
  ]
  assert drawn["chance"] == [[0, 0], [1, 1]]
  assert legend(figure) == [*curves, "chance"]
  swapped = figures.roc_curves(curves, ["normal", "tumour"], "normal")
  assert lines(swapped.axes[0])["lstm\nAUC 0.75 [0.50, 1.00]"] == [
    [0, 0],
    [0, 0.5],
    [1 / 3, 0.5],
    [1 / 3, 1],
    [1, 1],
  ]


def test_roc_of_several_classes_has_a_curve_a_class_that_can_have_one():
  probabilities = np.eye(4)[[0, 1, 2, 2]]
  targets = np.array([0, 1, 2, 1])
  classes = ["glioma", "meningioma", "pituitary", "metastasis"]
  figure = figures.roc_curves({"lstm": (probabilities, targets)}, classes, "")
  assert legend(figure) == [
    "glioma (n = 1) AUC 1.00",
    "meningioma (n = 2) AUC 0.75",
    "pituitary (n = 1) AUC 0.83",
    "chance",
  ]
  assert figure.axes[0].get_title() == "lstm"


def test_roc_of_several_models_has_the_mean_of_their_classes():
  # The second class is told half right; the fourth has no case.
  probabilities = np.eye(4)[[0, 1, 2, 2]]
  targets = np.array([0, 1, 2, 1])
  classes = ["glioma", "meningioma", "pituitary", "metastasis"]
  figure = figures.roc_curves(
    {
      "lstm": (probabilities, targets),
      "perfect": (np.eye(4)[targets], targets),
    },
    classes,
    "",
  )
  assert legend(figure) == ["lstm", "perfect", "chance"]
  (axes,) = figure.axes
  assert "mean of each class" in axes.get_title()
  curves = [np.array(line.get_xydata()) for line in axes.get_lines()[:2]]
  areas = [np.trapezoid(curve[:, 1], curve[:, 0]) for curve in curves]
  assert areas == pytest.approx([(1 + 0.75 + 5 / 6) / 3, 1], abs=0.01)


def test_curves_tell_apart_what_files_round_to_one():
  targets = np.array([0, 1, 1])
  probabilities = np.array([[2e-10, 1], [1e-10, 1], [1e-11, 1]])
  rates, sensitivity = figures.roc_curve(probabilities, targets, [1])
  assert np.trapezoid(sensitivity, rates) == 1


def test_confusion_matrix_has_counts_and_row_percentages():
  figure = figures.confusion_matrix(
    [[3, 1, 0], [0, 0, 0], [1, 0, 1]], ["a", "b", "c"]
  )
  (axes,) = figure.axes
  assert [text.get_text() for text in axes.texts] == [
    *("3\n75%", "1\n25%", "0\n0%"),
    *("0\n0%", "0\n0%", "0\n0%"),
    *("1\n50%", "0\n0%", "1\n50%"),
  ]
  # Rows are true: the first text of a row is at x = 0, whatever its y.
  assert [text.get_position() for text in axes.texts[:2]] == [(0, 0), (1, 0)]
  assert axes.get_ylabel() == "true class"


def test_text_is_never_read_as_mathematics(tmp_path):
  record = helpers.random_record(np.random.default_rng(0))
  name = "$\\frac{$"
  drawn = [
    montage.slice_montage(record, title=name, columns=3),
    figures.confusion_matrix([[1, 0], [0, 1]], [name, "b"]),
    figures.roc_curves({name: (PROBABILITIES, TARGETS)}, [name, "b"], name),
  ]
  for figure in drawn:
    figures.save_png(figure, tmp_path / "x.png")
