"""Balanced sampling: some scans twice in an epoch, some not at all.

An epoch draws as many scans as there are, with the shares of the cells (the
classes, or the pairs of source and class) made equal. Draws are without more
chance than they need: a scan expected 2.3 times is drawn twice or three times,
a cell expected 33.3 times is drawn 33 or 34 times, and lengths vary as little.
So there is a list of lengths that no epoch exceeds, and a batch that holds it
holds every epoch.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Sampling:
  """How often an epoch is expected to draw each of T training scans.

  Attributes:
    lengths: i32[T] slices of each.
    cells: i32[T] cell of each; -1 = none, and drawn once.
    parts: T expected numbers of draws, in units of 1 / `whole`: integers, so
      that sums are exact.
    whole: Units of one draw.
  """

  lengths: np.ndarray
  cells: np.ndarray
  parts: tuple[int, ...]
  whole: int

  @property
  def expected(self) -> np.ndarray:
    """f64[T], their sum being T."""
    return np.array([part / self.whole for part in self.parts])

  @functools.cached_property
  def envelope(self) -> np.ndarray:
    """i32[T], longest first: the j-th longest scan of no epoch exceeds [j].

    Of the longest scans of a cell, an epoch draws at most the expected number,
    rounded up; whichever number of the longest is taken.
    """
    found = []
    for members in self._by_cell(np.zeros(len(self.parts))):
      total = 0
      for scan in members:
        before, total = total, total + self.parts[scan]
        copies = _ceil_div(total, self.whole) - _ceil_div(before, self.whole)
        found += [int(self.lengths[scan])] * copies
    longest_first = sorted(found, reverse=True)[: len(self.parts)]
    return np.array(longest_first, np.int32)

  def draw(self, rng: np.random.Generator) -> np.ndarray:
    """Draws the scans of an epoch; each as often as expected, on average.

    Fractions of a draw are settled between neighbours, longest scan first,
    until each is 0 or 1.

    Args:
      rng: Of the epoch.

    Returns:
      i32[T] scans, longest first, at random among equally long ones.

    Source: the ordered pivotal method, Deville and Tille 1998, Biometrika
    85(1), a cell at a time.
    """
    counts = np.array([part // self.whole for part in self.parts], np.int64)
    ties = rng.random(len(counts))
    left = []
    for members in self._by_cell(ties):
      fractions = [(scan, self.parts[scan] % self.whole) for scan in members]
      left += self._settle(fractions, counts, rng)
    self._settle(left, counts, rng)
    drawn = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    lengths = self.lengths[drawn].astype(np.int64)
    return drawn[np.lexsort((rng.random(len(drawn)), -lengths))]

  def _settle(
    self,
    fractions: Iterable[tuple[int, int]],
    counts: np.ndarray,
    rng: np.random.Generator,
  ) -> list[tuple[int, int]]:
    """Counts fractions up or down; returns the one that may be left over."""
    first, have = -1, 0
    for scan, part in fractions:
      if not have:
        first, have = scan, part
        continue
      total = have + part
      if total <= self.whole:
        # One of the two goes on with the fractions of both.
        if rng.random() >= have / total:
          first = scan
      else:
        # One of the two is drawn; the other goes on with what remains.
        total -= self.whole
        if rng.random() < (self.whole - part) / (self.whole - total):
          counts[first] += 1
          first = scan
        else:
          counts[scan] += 1
      have = total
      if have == self.whole:
        counts[first] += 1
        have = 0
    return [(first, have)] if have else []

  def _by_cell(self, ties: np.ndarray) -> list[list[int]]:
    """Returns the scans of each cell, longest first."""
    lengths = self.lengths.astype(np.int64)
    members = collections.defaultdict(list)
    for scan in np.lexsort((ties, -lengths)).tolist():
      members[int(self.cells[scan])].append(scan)
    return [members[cell] for cell in sorted(members)]


def balanced_sampling(
  lengths: np.ndarray, cells: np.ndarray, participants: Sequence[str]
) -> Sampling:
  """Makes cells count alike, in each the people, and of each their scans.

  >>> sampling = balanced_sampling(
  ...   np.array([5, 5, 5, 5]), np.array([0, 0, 0, 1]), ["a", "b", "b", "c"]
  ... )
  >>> sampling.expected.tolist()
  [1.0, 0.5, 0.5, 2.0]

  Args:
    lengths: i32[T] slices of each training scan.
    cells: i32[T] cell of each; -1 = none, and drawn once an epoch.
    participants: Person of each.
  """
  pairs = list(zip(cells.tolist(), participants, strict=True))
  scans_of = collections.Counter(pairs)
  people_of = collections.Counter(cell for cell, _ in scans_of)
  num_cells = len(people_of.keys() - {-1})
  shared = int((cells >= 0).sum())
  divisors = [
    num_cells * people_of[pair[0]] * scans_of[pair] if pair[0] >= 0 else 1
    for pair in pairs
  ]
  whole = math.lcm(*divisors)
  parts = tuple(
    (shared if pair[0] >= 0 else 1) * (whole // divisor)
    for pair, divisor in zip(pairs, divisors, strict=True)
  )
  return Sampling(lengths, cells, parts, whole)


def _ceil_div(dividend: int, divisor: int) -> int:
  return -(-dividend // divisor)
