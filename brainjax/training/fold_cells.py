"""From the folds to the cells of a head: who trains on what.

Every fold is an experiment of its own, resolved as `train` would resolve it, so
a cell sees the scans, the order, the class weights and the seeds that a run of
`train` with `--config.split.fold` and `--config.train.seed` would see. Folds
differ by a scan or two; all are given the steps of the longest epoch, so that
they train for equally long.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from brainjax.input import pipeline, plan
from brainjax.training import balance, optimizer
from brainjax.training.cell_runs import RowsOf
from brainjax.training.cells import Cell, Store, Trainer, make_store
from brainjax.training.experiment import Experiment


def with_random_labels(experiment: Experiment, seed: int) -> Experiment:
  """Returns the experiment with classes dealt anew among its groups.

  They are dealt within each fold, which keeps its number of each: a fold with
  more of a class would leave fewer of it for training, and heads would learn to
  be worse than chance. Where sources are left out, within each split. Groups
  of several classes are dealt theirs participant by participant, among those
  of as many scans.
  """
  rng = np.random.default_rng([seed, 2])
  of_group = _scans_by(experiment.scans, lambda scan: scan["group_id"])
  decks: dict[tuple[Any, ...], list[list[Mapping[str, str]]]] = {}
  for group in of_group:
    place = group[0]["fold"], group[0]["split"]
    if len({scan["class"] for scan in group}) == 1:
      decks.setdefault(place, []).append(group)
      continue
    for person in _scans_by(group, lambda scan: scan["participant_id"]):
      decks.setdefault((*place, len(person)), []).append(person)
  dealt: dict[str, str] = {}
  for units in decks.values():
    for unit, i in zip(units, rng.permutation(len(units)), strict=True):
      classes = itertools.cycle(scan["class"] for scan in units[i])
      dealt |= {
        scan["record_index"]: given
        for scan, given in zip(unit, classes, strict=False)
      }
  scans = tuple(
    {**scan, "class": dealt[scan["record_index"]]} for scan in experiment.scans
  )
  targets = experiment.targets.copy()
  for scan in scans:
    targets[int(scan["record_index"])] = experiment.classes.index(scan["class"])
  training = [scan for scan in scans if scan["split"] == "train"]
  lengths = experiment.record_set.lengths[experiment.subset("train")]
  sampling = balance.make_sampling(
    experiment.config.data.sampling, training, lengths
  )
  return dataclasses.replace(
    experiment, scans=scans, targets=targets, sampling=sampling
  )


def _scans_by(
  scans: Iterable[Mapping[str, str]], key: Callable[[Mapping[str, str]], str]
) -> Iterable[list[Mapping[str, str]]]:
  """Returns scans of an equal key together, in the order of the first."""
  found: dict[str, list[Mapping[str, str]]] = {}
  for scan in scans:
    found.setdefault(key(scan), []).append(scan)
  return found.values()


@dataclasses.dataclass(frozen=True)
class CellPlan:
  """The cells of a head, and how they are trained.

  Attributes:
    trainer: What they have in common.
    cells: Every leaf leads with C = folds x seeds x learning rates.
    rows_of: From a cell and an epoch to i32[steps,G,B] scans.
    validation: i32[C,T,G,B], every scan of each validation split once.
    test: i32[C,T,G,B], those of each test split.
    experiments: Of each cell.
  """

  trainer: Trainer
  cells: Cell
  rows_of: RowsOf
  validation: np.ndarray
  test: np.ndarray
  experiments: tuple[Experiment, ...]


def plan_cells(
  experiments: Sequence[Experiment],
  *,
  seeds: int,
  learning_rates: Sequence[float],
  random_labels: bool = False,
) -> CellPlan:
  """Lays out folds x seeds x learning rates, in this order.

  Args:
    experiments: Of the folds, with the head.
    seeds: Seeds of each fold, counted from `train.seed`.
    learning_rates: Tried in each.
    random_labels: Deal the classes anew, for each seed.
  """
  config = experiments[0].config
  found, seed_of, rate_of, store_of = [], [], [], []
  for number, experiment in enumerate(experiments):
    for seed in range(config.train.seed, config.train.seed + seeds):
      one = experiment
      if random_labels:
        one = with_random_labels(experiment, seed)
      for rate in learning_rates:
        found.append(one)
        seed_of.append(seed)
        rate_of.append(rate)
        store_of.append(number)
  shapes = _equal_shapes(found)
  found = [
    dataclasses.replace(one, shape=shape)
    for one, shape in zip(found, shapes, strict=True)
  ]
  model, _, settings = found[0].build()
  losses = [one.loss_settings for one in found]
  shared = experiments[0].record_set.path == experiments[-1].record_set.path

  def numbers(values, dtype=jnp.float32):
    return jnp.asarray(np.array(values), dtype)

  cells = Cell(
    seed=numbers(seed_of, jnp.int32),
    learning_rate=numbers(rate_of),
    store=numbers([0 if shared else i for i in store_of], jnp.int32),
    labels=numbers([one.targets for one in found], jnp.int32),
    scans_per_step=numbers(
      [len(one.subset("train")) / one.shape.steps_per_epoch for one in found]
    ),
    class_weights=numbers([loss.class_weights for loss in losses]),
    adjustment=numbers([loss.adjustment for loss in losses]),
    frequent=numbers([loss.frequent for loss in losses], jnp.int32),
    validation_weights=numbers([one.validation_weights for one in found]),
  )

  def make_optimizer(learning_rate):
    schedule = dataclasses.replace(found[0].schedule, peak=learning_rate)
    return optimizer.from_config(config.optimizer, schedule)

  return CellPlan(
    trainer=Trainer(
      model, make_optimizer, settings, config.train.patience_epochs
    ),
    cells=cells,
    rows_of=_training_rows(found, seed_of),
    validation=_evaluation_rows(found, "validation"),
    test=_evaluation_rows(found, "test"),
    experiments=tuple(found),
  )


def load_store(
  experiments: Sequence[Experiment], *, shuffled: bool = False
) -> Store:
  """Reads the features of every fold onto the device.

  Args:
    experiments: Of the folds.
    shuffled: Put the slices of every scan into an order of their own. Their
      positions stay, so that nothing is left that tells the order.
  """
  sets = {one.record_set.path: one.record_set for one in experiments}
  features, positions = [], []
  for record_set in sets.values():
    rng = np.random.default_rng(experiments[0].config.train.seed)
    scans, positions = [], []
    for index in range(len(record_set)):
      record = record_set[index]
      values = record.slices[:, 0, 0]
      scans.append(rng.permutation(values) if shuffled else values)
      positions.append(record.positions_mm)
    features.append(scans)
  return make_store(features, positions)


def _equal_shapes(experiments: Sequence[Experiment]) -> list[plan.PackShape]:
  """Returns a shape for each, that differ in nothing."""
  steps = max(one.shape.steps_per_epoch for one in experiments)
  shapes = {}
  for one in experiments:
    lengths = one.record_set.lengths[one.subset("train")]
    drawn = lengths if one.sampling is None else one.sampling.envelope
    shapes[id(one)] = plan.plan_shape(
      drawn,
      packs=one.shape.packs,
      scans_per_step=len(drawn) / steps,
      pack_slices=None,
      longest=one.shape.longest,
      steps_per_epoch=steps,
    )
  widest = plan.PackShape(
    packs=experiments[0].shape.packs,
    slices=max(shape.slices for shape in shapes.values()),
    rows=max(shape.rows for shape in shapes.values()),
    longest=experiments[0].shape.longest,
    steps_per_epoch=steps,
  )
  return [widest] * len(experiments)


def _training_rows(
  experiments: Sequence[Experiment], seeds: Sequence[int]
) -> RowsOf:
  of_cells = [
    pipeline.training_rows(
      one.record_set.lengths,
      one.subset("train"),
      one.shape,
      seed=seed,
      packs=np.arange(one.shape.packs),
      sampling=one.sampling,
    )
    for one, seed in zip(experiments, seeds, strict=True)
  ]
  steps = experiments[0].shape.steps_per_epoch

  def rows_of(cell: int, epoch: int) -> np.ndarray:
    first = epoch * steps
    rows = [of_cells[cell](step) for step in range(first, first + steps)]
    return np.stack(rows).astype(np.int32)

  return rows_of


def _evaluation_rows(
  experiments: Sequence[Experiment], split: str
) -> np.ndarray:
  """Returns i32[C,T,G,B], with steps without a scan where others have more."""

  @functools.cache
  def rows_of(subset: tuple[int, ...], shape: plan.PackShape, path) -> Any:
    lengths = of_path[path].lengths[list(subset)]
    return np.append(subset, -1)[plan.evaluation_plan(lengths, shape)]

  of_path = {one.record_set.path: one.record_set for one in experiments}
  found = [
    rows_of(tuple(one.scored(split).tolist()), one.shape, one.record_set.path)
    for one in experiments
  ]
  longest = max(map(len, found))
  padded = [
    np.pad(rows, ((0, longest - len(rows)), (0, 0), (0, 0)), constant_values=-1)
    for rows in found
  ]
  return np.stack(padded).astype(np.int32)
