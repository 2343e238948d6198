"""The folds of an ablation: an experiment each, that differ in nothing else."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.models import heads
from brainjax.training import experiment as experiment_lib
from brainjax.training import scans as scans_lib
from brainjax.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Fold:
  """A way to set scans aside for testing.

  Attributes:
    name: Of its folder; takes the place of "{fold}" in `data.records`.
    fields: Of the config's section `split`.
  """

  name: str
  fields: Mapping[str, Any]


def make_folds(
  folds: str, record_set: records.RecordSet, ignore: Sequence[str] = ()
) -> list[Fold]:
  """Returns the folds of `--folds`: a number, or "source".

  Args:
    folds: As the user gave it. "source" leaves out each source of labelled
      scans in turn.
    record_set: The scans.
    ignore: Labels of those that take no part.

  Raises:
    InputError: It is neither, or there are not enough sources.
  """
  if folds != "source":
    if not folds.isdecimal() or int(folds) < 3:
      raise InputError(
        f"--folds={folds}: give a number of at least 3, or source to leave out"
        " each source in turn"
      )
    return [
      Fold(str(i), {"folds": int(folds), "fold": i, "source": ""})
      for i in range(int(folds))
    ]
  sources = sorted(
    {
      row.get("source", "")
      for row in record_set.rows
      if row["label"] and row["label"] not in ignore
    }
  )
  if len(sources) < 3 or not all(sources):
    raise InputError(
      f"--folds=source: {record_set.path} has the sources {sources}; at least"
      " three are needed, and one for every scan (column source)"
    )
  names = [re.sub(r"[^\w.-]", "_", source) for source in sources]
  return [
    Fold(
      name if names.count(name) == 1 else f"{name}-{i}",
      {"folds": 0, "fold": 0, "source": source},
    )
    for i, (name, source) in enumerate(zip(names, sources, strict=True))
  ]


def config_of_fold(
  config: ml_collections.ConfigDict, fold: Fold
) -> ml_collections.ConfigDict:
  """Returns the config with the fold's split and its records."""
  config = config.copy_and_resolve_references()
  config.split.update(fold.fields)
  config.data.records = config.data.records.replace("{fold}", fold.name)
  return config


def assign_folds(
  config: ml_collections.ConfigDict,
  folds: Iterable[Fold],
  record_set: records.RecordSet,
) -> list[tuple[dict[str, str], ...]]:
  """Returns the rows of `splits.csv` of every fold, checked.

  Raises:
    InputError: A fold has no scan in a split, or none of a class.
  """
  classes = tuple(config_lib.parse_classes(config.task.classes))
  found = []
  for fold in folds:
    scans = scans_lib.assign_scans(config_of_fold(config, fold), record_set)
    try:
      scans_lib.check_splits(scans, classes, config.train.objective)
    except InputError as error:
      raise InputError(f"--folds: fold {fold.name}: {error}") from error
    found.append(scans)
  return found


def test_train_ratio(folds: Iterable[Sequence[Mapping[str, str]]]) -> float:
  """Returns how many participants test for each that trains, the mean.

  Args:
    folds: Rows of `splits.csv` of each. A validation split trains nothing, so
      k folds have 1 / (k - 2) and not 1 / (k - 1).
  """
  ratios = []
  for scans in folds:
    test, train = (
      len({s["participant_id"] for s in scans if s["split"] == split})
      for split in ("test", "train")
    )
    ratios.append(test / train)
  return sum(ratios) / len(ratios)


def resolve_folds(
  config: ml_collections.ConfigDict,
  folds: Sequence[Fold],
  workdir: pathlib.Path,
) -> list[Experiment]:
  """Resolves every fold, in a folder of its own below the workdir.

  Args:
    config: As the user gave it; `data.records` may hold "{fold}".
    folds: The folds.
    workdir: Of the ablation.

  Raises:
    InputError: A fold cannot be resolved, its records are no features, or
      other scans than those of the first.
  """
  found = []
  for fold in folds:
    experiment = experiment_lib.resolve(
      config_of_fold(config, fold), workdir / "folds" / fold.name, 1
    )
    path = experiment.record_set.path
    if experiment.record_set.num_features is None:
      raise InputError(f"{path}: holds images; heads are ablated on features")
    if found and _scans(experiment) != _scans(found[0]):
      raise InputError(
        f"{path}: not the scans of {found[0].record_set.path}; encode the same"
        " records with the encoder of every fold"
      )
    found.append(experiment)
  return found


def config_of_head(
  config: ml_collections.ConfigDict, name: str, **fields: Any
) -> ml_collections.ConfigDict:
  """Returns the config with another head, of the ablation's budget.

  Args:
    config: Whose own head keeps its fields; another has its defaults.
    name: Of the head.
    fields: Of the head, that differ from that.

  A name of `config.NETWORKS` takes the place of encoder and head.
  """
  config = config.copy_and_resolve_references()
  if name in config_lib.NETWORKS:
    config_lib.set_network(config, name)
    return config
  before = config.model.head
  head = {
    "name": name,
    "projection": before.projection,
    "budget": before.budget or config.ablation.budget,
    **config_lib.HEAD_DEFAULTS[name],
  }
  if before.name == name:
    head |= {key: before[key] for key in config_lib.HEAD_DEFAULTS[name]}
  with config.unlocked():
    config.model.head = ml_collections.ConfigDict(head | fields)
  return config


def with_head(
  experiments: Sequence[Experiment], name: str, **fields: Any
) -> list[Experiment]:
  """Returns the experiments with another head; see `config_of_head`."""
  return [
    dataclasses.replace(
      experiment, config=config_of_head(experiment.config, name, **fields)
    )
    for experiment in experiments
  ]


def check_budget(
  config: ml_collections.ConfigDict, size: int, names: Iterable[str]
) -> None:
  """Checks that every head can have as many parameters as the others.

  Args:
    config: Of the ablation.
    size: Features of a slice.
    names: Of the heads.

  Raises:
    InputError: One cannot.
  """
  for name in names:
    head = config_of_head(config, name).model.head.to_dict()
    try:
      heads.build_head(head, input_size=size)
    except ValueError as error:
      raise InputError(
        f"config.ablation.budget={config.ablation.budget}: {error}"
      ) from error


def _scans(experiment: Experiment) -> list[tuple[str, ...]]:
  columns = ("participant_id", "session_id", "group_id", "label", "source")
  return [
    tuple(row.get(column, "") for column in columns)
    for row in experiment.record_set.rows
  ]
