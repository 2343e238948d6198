"""Heads x folds x seeds on cached features, and the controls of some.

Each head is two files in a folder of its own, written when it is trained, so
that an interrupted ablation continues with the next and more heads can be added
later. What follows from them all is in `ablation_scores.py`.
"""

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import brainjax
from brainjax import InputError, records
from brainjax.evaluation.ablation_variants import (
  HEADS_WITHOUT_ORDER,
  Variant,
)
from brainjax.training import cell_runs, fold_cells, processes
from brainjax.training import folds as folds_lib
from brainjax.training.cells import Store
from brainjax.training.experiment import Experiment
from brainjax.training.train import Stopped

PREDICTION_COLUMNS = (
  *("participant_id", "session_id", "group_id", "source"),
  *("fold", "seed", "true_label", "predicted_label"),
)
_TIMED_SCANS = 64
_REPEATS = 20


def train_heads(
  experiments: Sequence[Experiment],
  workdir: pathlib.Path,
  variants: Sequence[Variant],
  *,
  folds: Sequence[str],
  seeds: int,
  stop: processes.StopRequest,
  say: Callable[[str], None],
) -> None:
  """Trains every head and control that is not there yet.

  Args:
    experiments: Of the folds.
    workdir: Of the ablation.
    variants: What `variants_of` returned.
    folds: Their names.
    seeds: Seeds of each.
    stop: Asked after every epoch.
    say: Prints a line.

  Raises:
    InputError: A head is there, but of other facts; or it diverged.
    Stopped: A signal; the heads that were done are kept.
  """
  stores: dict[bool, Store] = {}

  def store(shuffled: bool) -> Store:
    if shuffled not in stores:
      stores[shuffled] = fold_cells.load_store(experiments, shuffled=shuffled)
    return stores[shuffled]

  undone = [
    variant
    for variant in variants
    if not is_done(
      workdir / "heads" / variant.name,
      _facts(variant, experiments, folds, seeds),
    )
  ]
  # Before any of them takes its time.
  first = experiments[0]
  folds_lib.check_budget(
    first.config,
    first.record_set.slice_shape[-1],
    dict.fromkeys(variant.head for variant in undone),
  )
  for variant in variants:
    facts = _facts(variant, experiments, folds, seeds)
    if is_done(workdir / "heads" / variant.name, facts):
      say(f"{variant.name}: done already")
    else:
      _train_head(variant, experiments, facts, workdir, store, stop, say)


def is_done(folder: pathlib.Path, facts: dict[str, Any]) -> bool:
  """Whether a head is trained; refuses one that is of other facts.

  Raises:
    InputError: It is.
  """
  file = folder / "result.json"
  if not file.is_file():
    return False
  found = json.loads(file.read_text())
  for name, value in facts.items():
    before = found.get(name, value)  # not known of an older result
    if before != value:
      raise InputError(
        f"{file}: its {name} was {before}, and now {value}; choose another"
        f" --workdir, or remove {folder} to train it again"
      )
  return True


def _facts(variant, experiments, folds, seeds) -> dict[str, Any]:
  """Returns what must be the same for a result to stay."""
  first = experiments[0]
  config = folds_lib.with_head([first], variant.head)[0].config
  return {
    "head": variant.head,
    "control": variant.control,
    "fields": json.loads(json.dumps(config.model.head.to_dict())),
    "folds": list(folds),
    "seeds": [first.config.train.seed + seed for seed in range(seeds)],
    "train_epochs": first.config.train.epochs,
    "version": brainjax.__version__,
    "records_sha256": [one.record_set.sha256 for one in experiments],
  }


def _train_head(variant, experiments, facts, workdir, store, stop, say) -> None:
  """Trains one head in all folds with all seeds, and writes its files."""
  config, began = experiments[0].config, time.perf_counter()
  fields = {}
  if variant.control == "permuted_channels":
    fields = {"permute_channels": True}
  rates = config.ablation.learning_rates or (config.optimizer.learning_rate,)
  plan = fold_cells.plan_cells(
    folds_lib.with_head(experiments, variant.head, **fields),
    seeds=len(facts["seeds"]),
    learning_rates=rates,
    random_labels=variant.control == "random_labels",
  )
  features = store(variant.control == "shuffled")

  def on_epoch(number: int) -> None:
    del number
    if stop.requested(0):
      raise Stopped(f"{workdir}: stopped; the heads that were done are kept")

  trained = cell_runs.train_cells(
    plan.trainer,
    features,
    plan.cells,
    plan.rows_of,
    plan.validation,
    num_epochs=config.train.epochs,
    strategy=cell_runs.choose_strategy(),
    on_epoch=on_epoch,
  )
  chosen = _choose_rates(trained.progress, facts, rates, variant, workdir)
  score = cell_runs.score_cells(
    plan.trainer, features, plan.cells, trained.progress, plan.test
  )
  result = facts | _describe(trained, plan, chosen, rates)
  tested = [(variant, score)]
  ordered = variant.head not in HEADS_WITHOUT_ORDER
  primary = variant.head in config.ablation.primary
  if not variant.control and ordered and primary:
    shuffled = cell_runs.score_cells(
      plan.trainer, store(True), plan.cells, trained.progress, plan.test
    )
    tested.append((Variant(variant.head, "shuffled_at_test"), shuffled))
  # Order matters: what comes with a head is there when the head is.
  for tested_as, scores in reversed(tested):
    folder = workdir / "heads" / tested_as.name
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = _predictions(plan, scores, chosen, facts, len(rates))
    records.write_csv(folder / "predictions.csv", columns, rows)
    said = result | {"control": tested_as.control}
    records.write_text(
      folder / "result.json", json.dumps(said, indent=1) + "\n"
    )
  say(
    f"{variant.name}: {result['parameters']:,} parameters,"
    f" {len(plan.experiments)} runs in {time.perf_counter() - began:.0f} s"
  )


def _choose_rates(progress, facts, rates, variant, workdir) -> np.ndarray:
  """Returns i64[F], of each fold the rate of the lowest validation loss."""
  shape = len(facts["folds"]), len(facts["seeds"]), len(rates)
  rejected, loss = jax.device_get((progress.rejected, progress.best_loss))
  loss = np.where(rejected > 0, np.inf, loss).reshape(shape).mean(axis=1)
  bad = np.flatnonzero(~np.isfinite(loss.min(axis=1)))
  if len(bad):
    raise InputError(
      f"{workdir}: the loss of {variant.name} is not finite in fold"
      f" {facts['folds'][bad[0]]}; lower config.optimizer.learning_rate,"
      " or try several as config.ablation.learning_rates, and choose another"
      " --workdir"
    )
  return loss.argmin(axis=1)


def _describe(trained, plan, chosen, rates) -> dict[str, Any]:
  """Returns what result.json says besides the facts."""
  progress = trained.progress
  params = jax.tree.leaves(progress.best.params)
  cells, num_folds = len(plan.experiments), len(chosen)
  seeds = cells // num_folds // len(rates)
  kept = np.arange(cells).reshape(num_folds, seeds, len(rates))
  kept = np.take_along_axis(kept, chosen[:, None, None], axis=2)[..., 0]
  epochs, best_epoch = jax.device_get((progress.epochs, progress.best_epoch))
  loss = jax.device_get(progress.best_loss)
  return {
    "parameters": sum(leaf.size for leaf in params) // cells,
    "learning_rates": [float(rates[i]) for i in chosen],
    "best_epoch": best_epoch[kept].tolist(),
    "epochs": epochs[kept].tolist(),
    "validation_loss": loss[kept].astype(float).tolist(),
    "steps_per_epoch": plan.experiments[0].shape.steps_per_epoch,
    "runs": cells,
    "seconds": trained.seconds,
    "compile_seconds": trained.compile_seconds,
    "device": jax.devices()[0].device_kind,
    **_time_forward(plan, progress),
  }


def _time_forward(plan, progress) -> dict[str, float]:
  """Times the head and classifier alone, at the longest sequence.

  Returns:
    Milliseconds of one scan, and scans a second, 64 at a time; medians.
  """
  best = jax.tree.map(lambda leaf: leaf[0], progress.best)
  variables = best.variables
  model, length = plan.trainer.model, plan.trainer.settings.max_length

  @jax.jit
  def answer(variables, z):
    mask, places = jnp.ones(z.shape[:2], bool), jnp.zeros(z.shape[:2])
    return model.apply(
      variables, z, mask, places, train=False, method="classify"
    )

  def median_seconds(scans: int) -> float:
    z = jnp.zeros((scans, length, model.encoder.num_features))
    jax.block_until_ready(answer(variables, z))
    seconds = []
    for _ in range(_REPEATS):
      began = time.perf_counter()
      jax.block_until_ready(answer(variables, z))
      seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))

  return {
    "latency_ms": 1e3 * median_seconds(1),
    "scans_per_second": _TIMED_SCANS / median_seconds(_TIMED_SCANS),
  }


def _predictions(plan, scores, chosen, facts, num_rates):
  """Returns the rows of predictions.csv, a scan of each seed, and columns."""
  classes = plan.experiments[0].classes
  columns = (*PREDICTION_COLUMNS, *(f"proba_{name}" for name in classes))
  rows, cell = [], 0
  for fold, name in enumerate(facts["folds"]):
    for seed in facts["seeds"]:
      index = cell + int(chosen[fold])
      cell += num_rates
      experiment: Experiment = plan.experiments[index]
      scan_of = {int(scan["record_index"]): scan for scan in experiment.scans}
      order = plan.test[index].ravel()
      found = scores[index].reshape(len(order), -1)
      for place in np.argsort(order, kind="stable"):
        if order[place] < 0:
          continue
        scan, values = scan_of[int(order[place])], np.float64(found[place])
        probabilities = np.exp(values - np.logaddexp.reduce(values))
        row = {column: scan.get(column, "") for column in PREDICTION_COLUMNS}
        row |= {
          "fold": name,
          "seed": seed,
          "true_label": scan["class"],
          "predicted_label": classes[int(np.argmax(values))],
        }
        rows.append(
          row
          | {
            f"proba_{label}": repr(float(p))
            for label, p in zip(classes, probabilities, strict=True)
          }
        )
  return rows, columns
