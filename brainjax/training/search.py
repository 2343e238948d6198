"""The points of a sweep: which values of which fields are tried."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from brainjax import InputError
from brainjax import config as config_lib

Point = dict[str, Any]  # values by dotted names of fields
# Runs that differ in these are not compared on the same question, or scans.
_FIXED = ("task.", "split.", "preparation.", "data.records", "eval.")
_MOST_DRAWS = 1000  # for each point; a draw may repeat an earlier one


@dataclasses.dataclass(frozen=True)
class LogUniform:
  """Numbers whose logarithm is uniform, to three digits, so a name is exact."""

  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Grid:
  """Every combination of values.

  Attributes:
    fields: Values by dotted names of fields.
    criterion: Metric of the validation split that chooses among the runs.
  """

  fields: Mapping[str, Sequence[Any]]
  criterion: str = "roc_auc"

  def points(self) -> list[Point]:
    """Returns the points, the last field changing first."""
    values = itertools.product(*self.fields.values())
    return [dict(zip(self.fields, each, strict=True)) for each in values]


@dataclasses.dataclass(frozen=True)
class Random:
  """Independent draws; the first of a larger `n` are those of a smaller.

  With the same number of runs it tries more values of the fields that matter
  than a grid does (Bergstra and Bengio 2012, JMLR 13:281).

  Attributes:
    fields: Values, one as likely as another, or a `LogUniform`, by dotted
      names of fields.
    n: Points.
    seed: Of the draws.
    criterion: As of `Grid`.
  """

  fields: Mapping[str, Sequence[Any] | LogUniform]
  n: int
  seed: int = 0
  criterion: str = "roc_auc"

  def points(self) -> list[Point]:
    """Returns the points, no two alike; fewer than n if there are no more."""
    rng = np.random.default_rng(self.seed)
    found: list[Point] = []
    for _ in range(_MOST_DRAWS * self.n):
      point = {name: _draw(self.fields[name], rng) for name in self.fields}
      if point not in found:
        found.append(point)
      if len(found) == self.n:
        break
    return found


def check(search: Grid | Random, config: ml_collections.ConfigDict) -> None:
  """Checks a search against the config that it varies.

  Raises:
    InputError: A field may not be varied, does not exist or has no value, a
      value is of another type, or a range is impossible.
  """
  if isinstance(search, Random) and search.n < 1:
    raise InputError(f"n={search.n}: of a random search, at least 1")
  if not search.fields:
    raise InputError("fields: name at least one field of the config to vary")
  for name, values in search.fields.items():
    if name.startswith(_FIXED):
      raise InputError(
        f"fields: {name} must be the same in all runs of a sweep, which are"
        " compared on the same validation scans"
      )
    if isinstance(values, LogUniform):
      if not 0 < values.low < values.high < math.inf:
        raise InputError(f"fields: {name}: {values}: give 0 < low < high")
    elif isinstance(values, str) or not values:
      raise InputError(f"fields: {name}={values!r}: give a tuple of values")
  for point in search.points():
    copy = ml_collections.ConfigDict(config)
    for override in overrides(point):
      config_lib.set_field(copy, override)


def overrides(point: Point) -> list[str]:
  """Returns `section.field=value` strings, as the command line has them."""
  return [f"{name}={value}" for name, value in point.items()]


def short_names(fields: Sequence[str]) -> dict[str, str]:
  """Returns as much of the end of each field's name as tells it apart.

  >>> short_names(["optimizer.name", "train.epochs"])
  {'optimizer.name': 'optimizer.name', 'train.epochs': 'epochs'}
  """
  shorts = {}
  for field in fields:
    parts = field.split(".")
    first = len(parts) - 1 - (parts[-1] == "name")  # a name of what?
    others = [other for other in fields if other != field]
    while first and any(
      f".{other}".endswith("." + ".".join(parts[first:])) for other in others
    ):
      first -= 1
    shorts[field] = ".".join(parts[first:])
  return shorts


def name_points(points: Sequence[Point]) -> dict[str, Point]:
  """Returns the points by names that can be read, and be names of folders.

  >>> list(name_points([{"train.epochs": 5, "optimizer.learning_rate": 1e-3}]))
  ['epochs-5_learning_rate-0.001']

  Raises:
    InputError: Two are alike.
  """
  named: dict[str, Point] = {}
  for point in points:
    shorts = short_names(list(point))
    name = "_".join(
      f"{shorts[field]}-{_plain(value)}" for field, value in point.items()
    )
    if name in named:
      raise InputError(f"fields: two points would be called {name}; name one")
    named[name] = point
  return named


def _plain(value: Any) -> str:
  return re.sub(r"[^\w.+-]+", "-", str(value)).strip("-")


def _draw(values: Sequence[Any] | LogUniform, rng: np.random.Generator) -> Any:
  if isinstance(values, LogUniform):
    exponent = rng.uniform(math.log(values.low), math.log(values.high))
    return float(f"{math.exp(exponent):.3g}")
  return values[int(rng.integers(len(values)))]
