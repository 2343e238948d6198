"""`brainjax ablate`: is one head better than another, and can it be believed?

    an encoder a fold -> features -> heads x folds x seeds -> scores -> page
    or, end to end:        a whole run for each head, fold and seed -> ...

Folds and the primary comparison are declared before anything is trained; a
workdir refuses others afterwards.
"""

import glob
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import rich.console

from brainjax import InputError, lock, records
from brainjax import config as config_lib
from brainjax.evaluation import (
  ablation_heads,
  ablation_page,
  ablation_runs,
  ablation_scores,
  ablation_variants,
)
from brainjax.training import (
  config_checks,
  executor,
  fold_encoders,
  processes,
)
from brainjax.training import folds as folds_lib
from brainjax.training import workdir as workdir_lib
from brainjax.training.experiment import Experiment

CSV_COLUMNS = (
  *("head", "metric", "value", "low", "high", "rank", "difference"),
  *("difference_low", "difference_high", "p", "holm_p", "t_p"),
  *("equivalence_p", "parameters", "seconds", "compile_seconds"),
  *("latency_ms", "scans_per_second"),
)


def ablate(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  heads: Sequence[str],
  folds: str,
  seeds: int,
  console: rich.console.Console,
  end_to_end: executor.Place | None = None,
) -> dict[str, Any]:
  """Trains, scores and writes `ablation.{json,csv,html}`.

  Args:
    config: As the user gave it. `data.records` are images, features of an
      encoder from outside the cohort, or "{fold}" stands for a fold's name in
      the path of features of that fold's own encoder.
    workdir: Folder of the ablation; continued if it holds one.
    heads: Names; end to end, also of `config.NETWORKS`.
    folds: A number, or "source".
    seeds: Seeds of each fold.
    console: Where progress is shown.
    end_to_end: Where a whole run for each takes place; None = on features.

  Returns:
    What `ablation.json` says.

  Raises:
    InputError: The config, the records or the heads are wrong.
    train.Stopped, executor.Stopped: A signal; all that is done is kept.
  """
  if seeds < 1:
    raise InputError(f"--seeds={seeds}: at least 1")
  variants = ablation_variants.variants_of(
    heads, config.ablation.primary, end_to_end=end_to_end is not None
  )
  if not config.data.records:
    raise InputError(
      "config.data.records: unset; give the folder that `brainjax prepare` or"
      " `brainjax encode` wrote, as --config.data.records=FOLDER"
    )

  def say(text: str) -> None:
    console.print(text, highlight=False, markup=False)

  first = config.data.records.replace("{fold}", "0")
  by_source = folds == "source" and "{fold}" in config.data.records
  if by_source:
    first = _any_folder(config.data.records)
  record_set = records.RecordSet(first)
  all_folds = folds_lib.make_folds(folds, record_set, config.task.ignore)
  names = [fold.name for fold in all_folds]
  # Before anything takes its time.
  if config.train.objective != "classify":  # unlabelled scans take part
    folds_lib.assign_folds(config, all_folds, record_set)
  ratio = folds_lib.test_train_ratio(
    folds_lib.assign_folds(
      config_checks.leave_encoder(config), all_folds, record_set
    )
  )
  images = record_set.num_features is None
  if end_to_end is not None:
    if not images:
      raise InputError(
        f"config.data.records={record_set.path}: features; end to end, give the"
        " images that `brainjax prepare` wrote"
      )
    variants = [variant for variant in variants if not variant.control]
    with lock.hold(workdir, say):
      ablation_runs.train_runs(
        config,
        workdir,
        [variant.head for variant in variants],
        all_folds,
        seeds=seeds,
        place=end_to_end,
        say=say,
      )
      features = "none; the encoder is trained with each head, end to end"
      return _write(config, workdir, variants, names, ratio, features)
  if images:
    size = fold_encoders.num_features(config)
    folds_lib.check_budget(config, size, [one.head for one in variants])
    config = fold_encoders.fit_encoders(
      config, workdir, all_folds, console=console
    )
  with lock.hold(workdir, say), processes.StopRequest() as stop:
    experiments = folds_lib.resolve_folds(config, all_folds, workdir)
    features = describe_features(experiments)
    say(features)
    ablation_heads.train_heads(
      experiments,
      workdir,
      variants,
      folds=names,
      seeds=seeds,
      stop=stop,
      say=say,
    )
    return _write(config, workdir, variants, names, ratio, features)


def describe_features(experiments: Sequence[Experiment]) -> str:
  """Says what the features are, and what their encoder has seen."""
  encoder = experiments[0].record_set.encoder or {}
  size = experiments[0].record_set.num_features
  own = len({one.record_set.path for one in experiments}) > 1
  said = f"{size} features a slice, of the encoder {encoder['preset']!r}"
  if own:
    return f"{said}; one for each fold, fitted on its training groups alone"
  groups = len(encoder["encoder_group_ids"])
  if not groups:
    return f"{said}; one for all folds, fitted on no group of the cohort"
  return f"{said}; one for all folds, fitted on {groups} groups that train only"


def csv_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
  """Returns the rows of `ablation.csv`, a head each, the best first."""
  of_name = {row["head"]: row for row in found["heads"]}
  rows = []
  for name in found["order"]:
    row, against = of_name[name], found["against_reference"].get(name, {})
    rows.append(
      {
        **{key: value for key, value in row.items() if key in CSV_COLUMNS},
        "metric": found["metric"],
        **row["scores"][found["metric"]],
        "difference": against.get("difference"),
        "difference_low": against.get("low"),
        "difference_high": against.get("high"),
        **{
          key: against.get(key)
          for key in ("p", "holm_p", "t_p", "equivalence_p")
        },
      }
    )
  return rows


def _write(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  variants: Sequence[ablation_variants.Variant],
  folds: Sequence[str],
  ratio: float,
  features: str,
) -> dict[str, Any]:
  """Scores all, and writes the files; returns what `ablation.json` says."""
  ablation = config.ablation
  classes = tuple(config_lib.parse_classes(config.task.classes))
  controls: dict[str, list[str]] = {}
  for variant in variants:
    if variant.control:
      controls.setdefault(variant.head, []).append(variant.control)
  found = ablation_scores.score_ablation(
    workdir,
    [variant.name for variant in variants if not variant.control],
    controls,
    classes=classes,
    folds=folds,
    test_train_ratio=ratio,
    positive=config_checks.positive_index(config, classes),
    primary=ablation.primary,
    metric=ablation.metric,
    margin=ablation.margin,
    resamples=config.eval.resamples,
    seed=config.eval.seed,
  )
  found |= {
    "budget": config.model.head.budget or ablation.budget,
    "features": features,
    "records": config.data.records,
    "environment": workdir_lib.environment(),
  }
  records.write_text(
    workdir / "ablation.json", json.dumps(found, indent=1) + "\n"
  )
  records.write_csv(workdir / "ablation.csv", CSV_COLUMNS, csv_rows(found))
  ablation_page.write_page(workdir, found)
  return found


def _any_folder(template: str) -> str:
  """Returns one of the folders that a path with "{fold}" stands for."""
  found = sorted(glob.glob(glob.escape(template).replace("{fold}", "*")))
  if not found:
    raise InputError(
      f"config.data.records={template}: there is no such folder; encode every"
      " fold with its encoder first"
    )
  return found[0]
