"""The batch plan: which scans stand in which pack of which step.

Slices of several scans lie end to end in a pack, so that the encoder never
works on padding. An epoch is packed longest scan first, each into the least
full pack (Graham 1969, the LPT rule), which leaves few slots empty. The plan
is a pure function of (seed, epoch), blind to hosts and devices.
"""

import bisect
import dataclasses
import heapq
import math

import numpy as np

from brainjax import InputError
from brainjax.input.sampling import Sampling

STEPS_OFF = 0.05  # of the steps asked for, to save filler
NEAREST = 0  # instead of a number of steps
MOST_TRIED = 16


@dataclasses.dataclass(frozen=True)
class PackShape:
  """Sizes fixed for a whole run, so that a step is compiled once.

  Attributes:
    packs: G, packs a step holds.
    slices: N, slices a pack holds.
    rows: B, scans a pack holds.
    longest: S, longest sequence the head sees.
    steps_per_epoch: Steps in which training sees as many scans as there are.
  """

  packs: int
  slices: int
  rows: int
  longest: int
  steps_per_epoch: int


def plan_shape(
  lengths: np.ndarray,
  *,
  packs: int,
  scans_per_step: float,
  pack_slices: int | None,
  longest: int,
  steps_per_epoch: int | None = None,
) -> PackShape:
  """Derives the sizes of a batch from the lengths of the training scans.

  Without `pack_slices`, N is the smallest multiple of 8 that holds the fullest
  pack and the longest scan, and the epoch gets the number of steps, within
  `STEPS_OFF` of what `scans_per_step` asks for, that takes the fewest slots.
  With it, the epoch gets the fewest steps it fits into. B is the most scans
  that any pack can come to hold, however ties fall.

  >>> plan_shape(
  ...   np.ones(1677, np.int32),
  ...   packs=1,
  ...   scans_per_step=32,
  ...   pack_slices=None,
  ...   longest=1,
  ... )
  PackShape(packs=1, slices=32, rows=32, longest=1, steps_per_epoch=53)

  Args:
    lengths: i32[R] slices of each training scan; or `Sampling.envelope`, which
      every epoch then fits.
    packs: G.
    scans_per_step: Scans of a step, on average; unused if N is given.
    pack_slices: N, or None to derive it.
    longest: S, slices of the longest scan of all splits.
    steps_per_epoch: None to derive it; `NEAREST` for the number nearest to
      what is asked for, whatever the filler.

  Raises:
    InputError: There are more packs than scans to fill them, the longest scan
      does not fit a pack, or both N and the steps are given.
  """
  _check_lengths(lengths, longest)
  num_scans = len(lengths)
  if packs > num_scans:
    raise InputError(
      f"config.data.packs={packs}: there are only {num_scans} training scans;"
      f" set it to {num_scans} or less"
    )
  if pack_slices is None:
    if scans_per_step < packs:
      raise InputError(
        f"config.data.scans_per_step={scans_per_step}: fewer than"
        f" config.data.packs={packs}; set it to {packs} or more, or"
        " config.data.packs to less"
      )
    # At most R // G: with lengths of at least 1, no pack then stays empty.
    most = num_scans // packs
    asked = num_scans / scans_per_step
    if steps_per_epoch is None:
      steps = _thriftiest(lengths, packs, asked, longest)
    else:
      steps = steps_per_epoch or _nearest(asked, most)
    if not 0 < steps <= most:
      raise InputError(
        f"config.data.steps_per_epoch={steps}: {num_scans} training scans fill"
        f" {packs} packs of 1 to {most} steps; set it to one of these"
      )
    load, rows = _fullest(lengths, steps * packs)
    pack_slices = _slots(max(load, longest))
  else:
    if steps_per_epoch:
      raise InputError(
        f"config.data.steps_per_epoch={steps_per_epoch}: follows from"
        f" config.data.pack_slices={pack_slices}; leave one of them unset"
      )
    if longest > pack_slices:
      raise InputError(
        f"config.data.pack_slices={pack_slices}: the longest scan has"
        f" {longest} slices; set it to {longest} or more"
      )
    fewest = _ceil_div(int(lengths.sum()), packs * pack_slices)
    most = _ceil_div(num_scans, packs)  # a scan a pack
    # One pack more never makes the fullest one fuller, so bisection finds
    # the smallest.
    steps = fewest + bisect.bisect_left(
      range(fewest, most),
      True,
      key=lambda n: _fullest(lengths, n * packs)[0] <= pack_slices,
    )
    _, rows = _fullest(lengths, steps * packs)
  return PackShape(packs, pack_slices, rows, longest, steps)


def _nearest(asked: float, most: int) -> int:
  return max(1, min(round(asked), most))


def _slots(load: int) -> int:
  """Returns the N of which the fullest pack holds so many slices."""
  return 8 * _ceil_div(load, 8)


def _thriftiest(
  lengths: np.ndarray, packs: int, asked: float, longest: int
) -> int:
  """Returns the steps near `asked` whose packs have the fewest slots."""
  num_scans = len(lengths)
  shortest_first = np.cumsum(np.sort(lengths), dtype=np.int64)

  def rank(steps: int, load: int) -> tuple[int, float, int]:
    return steps * _slots(max(load, longest)), abs(steps - asked), steps

  def at_least(steps: int) -> tuple[int, float, int]:
    # Some pack has the average of slices, and some the average of scans.
    num_packs = steps * packs
    scans = _ceil_div(num_scans, num_packs)
    average = _ceil_div(int(shortest_first[-1]), num_packs)
    return rank(steps, max(average, int(shortest_first[scans - 1])))

  most = num_scans // packs
  best = _nearest(asked, most)
  near = range(
    max(1, math.ceil(asked * (1 - STEPS_OFF))),
    min(most, math.floor(asked * (1 + STEPS_OFF))) + 1,
  )
  found = rank(best, _fullest(lengths, best * packs)[0])
  # The most promising; to pack all would take minutes of a large cohort.
  for lowest in sorted(map(at_least, near))[:MOST_TRIED]:
    if lowest >= found:
      break
    steps = lowest[-1]
    found = min(found, rank(steps, _fullest(lengths, steps * packs)[0]))
  return found[-1]


def epoch_plan(
  lengths: np.ndarray,
  seed: int,
  epoch: int,
  shape: PackShape,
  sampling: Sampling | None = None,
) -> np.ndarray:
  """Deals every training scan once to the packs of an epoch.

  With sampling, it deals those drawn: the longest takes the place of the
  longest of the envelope, and so on, so that packs hold at most what they would
  hold of that.

  Ties among equally long scans and among equally full packs fall at random;
  the packs are then dealt to steps at random.

  Args:
    lengths: i32[R] slices of each training scan.
    seed: Not negative.
    epoch: Not negative.
    shape: What `plan_shape` returned for these lengths, or for the envelope.
    sampling: Of these scans; None to deal each once.

  Returns:
    i32[steps_per_epoch,G,B] indices into `lengths`, -1 = none; the same on
    every platform.

  Raises:
    ValueError: A scan does not fit.
  """
  _check_lengths(lengths, shape.longest)
  sequence = np.random.SeedSequence([seed, epoch])
  rng = np.random.Generator(np.random.Philox(sequence))
  num_packs = shape.steps_per_epoch * shape.packs
  drawn = None
  if sampling is not None:
    drawn, lengths = sampling.draw(rng), sampling.envelope
  packs = _longest_first(
    lengths, num_packs, shape, ties=rng.random((2, len(lengths)))
  )
  if packs is None:
    raise ValueError(
      f"{len(lengths)} scans of {lengths.sum()} slices do not fit"
      f" {num_packs} packs of {shape.slices} slices and {shape.rows} rows;"
      " derive the shape from these lengths with plan_shape"
    )
  dealt = np.argsort(rng.random(num_packs))
  table = _table(packs, shape)[dealt].reshape(-1, shape.packs, shape.rows)
  return table if drawn is None else np.append(drawn, np.int32(-1))[table]


def evaluation_plan(lengths: np.ndarray, shape: PackShape) -> np.ndarray:
  """Deals every scan once to as few steps as they fit into; nothing is random.

  Args:
    lengths: i32[R] slices of each scan; they need not be those of training.
    shape: Of a batch; its `steps_per_epoch` is not used.

  Returns:
    i32[steps,G,B] indices into `lengths`, -1 = none; no step without scans.

  Raises:
    InputError: A scan is longer than `shape.longest`.
  """
  _check_lengths(lengths, shape.longest)
  num_scans = len(lengths)
  fewest = _ceil_div(int(lengths.sum()), shape.packs * shape.slices)
  most = _ceil_div(num_scans, shape.packs)  # a scan a pack: always fits
  ties = np.zeros((2, num_scans))

  def pack(steps: int) -> list[list[int]] | None:
    return _longest_first(lengths, steps * shape.packs, shape, ties)

  steps = fewest + bisect.bisect_left(
    range(fewest, most), True, key=lambda n: pack(n) is not None
  )
  packs = pack(steps)
  assert packs is not None
  return _table(packs, shape).reshape(-1, shape.packs, shape.rows)


def pack_fill(plan: np.ndarray, lengths: np.ndarray, slices: int) -> float:
  """Returns the share of slots that hold a real slice.

  >>> pack_fill(np.array([[[0, 1]], [[2, -1]]]), np.array([3, 4, 5]), 8)
  0.75
  """
  num_packs = plan.shape[0] * plan.shape[1]
  return float(lengths[plan[plan >= 0]].sum() / (num_packs * slices))


def _longest_first(
  lengths: np.ndarray, num_packs: int, shape: PackShape, ties: np.ndarray
) -> list[list[int]] | None:
  """Packs scans by f64[2,R] tie breakers; None if they do not fit."""
  order = np.lexsort((ties[0], -lengths.astype(np.int64)))
  packs: list[list[int]] = [[] for _ in range(num_packs)]
  heap = [(0, 0.0, pack) for pack in range(num_packs)]
  scans = zip(
    order.tolist(), lengths[order].tolist(), ties[1].tolist(), strict=True
  )
  for scan, length, tie in scans:
    if not heap or heap[0][0] + length > shape.slices:
      return None
    load, _, pack = heap[0]
    packs[pack].append(scan)
    if len(packs[pack]) < shape.rows:
      heapq.heapreplace(heap, (load + length, tie, pack))
    else:
      heapq.heappop(heap)
  return packs


def _fullest(lengths: np.ndarray, num_packs: int) -> tuple[int, int]:
  """Returns the slices of the fullest pack and the most scans of any pack.

  Both hold however ties fall. Packs are equally full when they tie, so ties
  change no load. They do change which pack grows: of the packs that ever were
  at one load, the one with the most scans may be the one that gets the next.
  """
  loads = [0] * num_packs
  most_rows = {0: 0}  # by load
  for length in sorted(lengths.tolist(), reverse=True):
    load = loads[0] + length
    rows = most_rows[loads[0]] + 1
    most_rows[load] = max(most_rows.get(load, 0), rows)
    heapq.heapreplace(loads, load)
  return max(loads), max(most_rows.values())


def _table(packs: list[list[int]], shape: PackShape) -> np.ndarray:
  table = np.full((len(packs), shape.rows), -1, np.int32)
  for row, scans in zip(table, packs, strict=True):
    row[: len(scans)] = scans
  return table


def _check_lengths(lengths: np.ndarray, longest: int) -> None:
  if len(lengths) and lengths.min() < 1:
    raise InputError(
      "the records hold a scan without slices; run `brainjax prepare` again"
    )
  if len(lengths) and lengths.max() > longest:
    raise InputError(
      f"a scan has {lengths.max()} slices, the model sees at most {longest};"
      " prepare it with fewer slices (config.preparation.num_slices)"
    )


def _ceil_div(dividend: int, divisor: int) -> int:
  return -(-dividend // divisor)
