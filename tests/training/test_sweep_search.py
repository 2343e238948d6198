import math

import numpy as np
import pytest

from brainjax import InputError, config
from brainjax.training.search import (
  Grid,
  LogUniform,
  Random,
  check,
  name_points,
  overrides,
  short_names,
)

RATE = "optimizer.learning_rate"


def test_a_grid_has_every_combination_once():
  grid = Grid({RATE: (1e-3, 1e-2), "model.head.hidden_size": (4, 8, 16)})
  points = grid.points()
  assert len(points) == 6
  assert {(p[RATE], p["model.head.hidden_size"]) for p in points} == {
    (rate, size) for rate in (1e-3, 1e-2) for size in (4, 8, 16)
  }
  assert [p["model.head.hidden_size"] for p in points[:3]] == [4, 8, 16]


def test_a_larger_search_begins_with_the_smaller():
  fields = {RATE: LogUniform(1e-5, 1e-1), "optimizer.name": ("adam", "sgd")}
  few, many = (Random(fields, n, seed=3).points() for n in (5, 200))
  assert many[:5] == few
  assert Random(fields, 5, seed=4).points() != few
  exponents = np.log10([point[RATE] for point in many])
  assert -5 <= exponents.min() and exponents.max() <= -1
  # A fifth of a uniform range, give or take three standard deviations.
  counts, _ = np.histogram(exponents, bins=5, range=(-5, -1))
  assert abs(counts - 40).max() < 3 * math.sqrt(200 * 0.2 * 0.8)
  assert all(float(f"{p[RATE]:.3g}") == p[RATE] for p in many)
  assert {p["optimizer.name"] for p in many} == {"adam", "sgd"}


def test_no_point_is_drawn_twice():
  points = Random({"train.epochs": (1, 2, 3)}, n=9).points()
  assert sorted(point["train.epochs"] for point in points) == [1, 2, 3]


def test_names_are_readable_and_of_folders():
  fields = [RATE, "optimizer.name", "model.head.name", "augment.gamma"]
  assert list(short_names(fields).values()) == [
    "learning_rate",
    "optimizer.name",
    "head.name",
    "gamma",
  ]
  same = short_names(["augment.noise", "model.noise", "a.model.noise"])
  assert list(same.values()) == [
    "augment.noise",
    "model.noise",
    "a.model.noise",
  ]
  point = {RATE: 3e-4, "augment.gamma": (0.7, 1.5), "optimizer.name": "adam"}
  (name,) = name_points([point])
  assert name == "learning_rate-0.0003_gamma-0.7-1.5_optimizer.name-adam"
  with pytest.raises(InputError, match="two points"):
    name_points([point, dict(point)])


def test_overrides_set_what_they_say():
  point = {
    RATE: 1e-3,
    "optimizer.name": "sgd",
    "optimizer.rates": ("encoder: 0.1", ".*: 1"),
    "data.packs": None,
    "model.head.bidirectional": True,
  }
  fields = config.get_config()
  for override in overrides(point):
    config.set_field(fields, override)
  found = config.leaf_fields(fields)
  assert {name: found[name] for name in point} == point


@pytest.mark.parametrize(
  "search, named",
  [
    (Grid({}), "at least one field"),
    (Grid({RATE: ()}), "give a tuple"),
    (Grid({"optimizer.name": "adam"}), "give a tuple"),
    (Grid({"optimizer.learning_rat": (1,)}), "optimizer.learning_rate"),
    (Grid({"train.epochs": (1, 2.5)}), "must be of type int"),
    (Grid({"split.seed": (0, 1)}), "same in all runs"),
    (Grid({"task.positive": ("a", "b")}), "same in all runs"),
    (Random({RATE: LogUniform(0, 1)}, n=3), "0 < low < high"),
    (Random({RATE: (1e-3,)}, n=0), "n=0"),
  ],
)
def test_what_cannot_be_searched_is_refused(search, named):
  with pytest.raises(InputError, match=named):
    check(search, config.get_config())
