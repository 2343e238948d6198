"""End to end: a whole run for each head, fold and seed, encoder and all.

Each is an ordinary `brainjax train` in a process of its own, then one look at
its test split; both are continued as such. There are no controls: slices would
have to be shuffled before they are encoded.
"""

import contextlib
import csv
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.evaluation import ablation_heads
from brainjax.training import executor, logs
from brainjax.training import folds as folds_lib
from brainjax.training import workdir as workdir_lib
from brainjax.training.jobs import STOPPED, End, Job

_CONFIG = '''"""The config of each head; written by `brainjax ablate`."""

import pathlib

from brainjax.training import workdir


def get_config(arg=""):
  file = pathlib.Path(__file__).parent / arg / "config.json"
  return workdir.read_config(file)
'''


def train_runs(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  heads: Sequence[str],
  folds: Sequence[folds_lib.Fold],
  *,
  seeds: int,
  place: executor.Place,
  say: Callable[[str], None],
) -> None:
  """Trains and tests every run that is not done yet.

  Args:
    config: As the user gave it; its records are images.
    workdir: Of the ablation.
    heads: Names.
    folds: The folds.
    seeds: Seeds of each.
    place: Where runs take place.
    say: Prints a line.

  Raises:
    InputError: The config differs from the one before, or a run failed.
    executor.Stopped: A signal; what is done is kept, the rest continues.
  """
  if config.ablation.learning_rates:
    raise InputError(
      f"config.ablation.learning_rates={config.ablation.learning_rates}: only"
      " of cached features; end to end, set config.optimizer.learning_rate (see"
      " `brainjax sweep`) and leave these at ()"
    )
  folder, configs = workdir / "runs", workdir / "configs"
  inputs = records.RecordSet(config.data.records).sha256
  for head in heads:
    _write_config(folds_lib.config_of_head(config, head), configs / head)
  records.write_text(configs / "config.py", _CONFIG)
  cells = [
    (head, fold, config.train.seed + seed)
    for head in heads
    for fold in folds
    for seed in range(seeds)
  ]
  seconds = {}
  trainings = [_training(folder, *cell, inputs) for cell in cells]
  for end in _run(trainings, place, say):
    seconds[end.job.folder] = end.seconds
  looks = [_look(folder, *cell, inputs) for cell in cells]
  for _ in _run(looks, place, say):
    pass
  for head in heads:
    mine = [cell for cell in cells if cell[0] == head]
    _collect(workdir, config, head, mine, seconds)


def _run(
  jobs: Sequence[Job], place: executor.Place, say: Callable[[str], None]
) -> Iterator[End]:
  """Yields the ends of jobs that ended well; refuses to go on without one."""
  failed = []
  with contextlib.closing(executor.run(jobs, place)) as ends:
    for end in ends:
      if end.code == 0:
        if not end.kept:
          say(f"{end.job.name}: done, {end.seconds:.0f} s")
        yield end
      else:
        failed.append(end)
        say(f"{end.job.name}: {end.reason}")
  if any(end.code == STOPPED for end in failed):
    raise executor.Stopped(f"stopped: {len(failed)} are not done")
  if failed:
    raise InputError(
      f"{failed[0].job.folder}: {len(failed)} of {len(jobs)} runs failed; the"
      f" first says: {failed[0].reason}"
    )


def _training(
  folder, head: str, fold: folds_lib.Fold, seed: int, inputs: str
) -> Job:
  run = _run_folder(folder, head, fold, seed)
  split = [f"--config.split.{k}={v}" for k, v in fold.fields.items()]
  arguments = (
    "train",
    f"--config={folder.parent / 'configs' / 'config.py'}:{head}",
    f"--workdir={run}",
    *split,
    f"--config.train.seed={seed}",
  )
  return Job(run.name, arguments, run, inputs)


def _look(
  folder, head: str, fold: folds_lib.Fold, seed: int, inputs: str
) -> Job:
  run = _run_folder(folder, head, fold, seed)
  arguments = ("evaluate", f"--workdir={run}", "--split=test")
  return Job(f"{run.name} tested", arguments, run / "tested", inputs)


def _run_folder(folder, head, fold, seed) -> pathlib.Path:
  return folder / f"{head}-fold-{fold.name}-seed-{seed}"


def _write_config(
  config: ml_collections.ConfigDict, folder: pathlib.Path
) -> None:
  """Writes the config of a head; refuses another than the one before."""
  folder.mkdir(parents=True, exist_ok=True)
  file = folder / "config.json"
  if file.is_file():
    before = workdir_lib.read_config(file)
    workdir_lib.adopt_unset(config, before)
    workdir_lib.refuse_changes(config, folder)
    epochs = before.train.epochs
    if epochs != config.train.epochs:  # which a run alone may change
      raise InputError(
        f"config.train.epochs={config.train.epochs}: heads that are there were"
        f" given {epochs}; leave it at that, or choose another --workdir"
      )
  records.write_text(file, config_lib.to_json(config))


def _collect(workdir, config, head, cells, seconds) -> None:
  """Writes `predictions.csv` and `result.json` of a head from its runs.

  Args:
    workdir: Of the ablation.
    config: Of the ablation.
    head: Its name.
    cells: Head, fold and seed of each of its runs.
    seconds: That a run took, by its folder.
  """
  rows, epochs, best, parameters, spent = [], [], [], 0, 0.0
  devices = set()
  classes = list(config_lib.parse_classes(config.task.classes))
  columns = (
    *ablation_heads.PREDICTION_COLUMNS,
    *(f"proba_{name}" for name in classes),
  )
  for _, fold, seed in cells:
    run = _run_folder(workdir / "runs", head, fold, seed)
    spent += seconds[run]
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
      rows += [
        {name: row.get(name, "") for name in columns}
        | {"fold": fold.name, "seed": seed}
        for row in csv.DictReader(file)
        if row["split"] == "test"
      ]
    parameters = json.loads((run / "model.json").read_text())["num_parameters"]
    made = json.loads((run / "environment.json").read_text())
    devices |= set(made["devices"])
    validated = [
      line
      for line in logs.read_log(run / "metrics.jsonl")
      if "validation/loss" in line
    ]
    lowest = min(reversed(validated), key=lambda line: line["validation/loss"])
    epochs.append(validated[-1]["epoch"])
    best.append(lowest["epoch"])
  folder = workdir / "heads" / head
  folder.mkdir(parents=True, exist_ok=True)
  records.write_csv(folder / "predictions.csv", columns, rows)
  result: dict[str, Any] = {
    "head": head,
    "control": "",
    "fields": folds_lib.config_of_head(config, head).model.head.to_dict(),
    "parameters": parameters,
    "learning_rates": [config.optimizer.learning_rate],
    "best_epoch": best,
    "epochs": epochs,
    "runs": len(cells),
    "seconds": spent,
    "compile_seconds": None,  # it is in the seconds
    "latency_ms": None,
    "scans_per_second": None,
    "device": ", ".join(sorted(devices)),
  }
  records.write_text(
    folder / "result.json", json.dumps(result, indent=1) + "\n"
  )
