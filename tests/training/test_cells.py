"""Cells against the ordinary training of each, one after another."""

import dataclasses

import numpy as np
import pytest

import helpers
from brainjax.training import cell_runs, fold_cells
from brainjax.training import folds as folds_lib
from brainjax.training.runner import Runner

EPOCHS, RATE = 6, 0.3


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("cells")
  helpers.write_features(root / "features", lengths=(1, 4, 2, 5, 3))
  return root


def resolved(root, *overrides, folds=3):
  config = helpers.micro_config(
    root / "features",
    f"train.epochs={EPOCHS}",
    "ablation.budget=600",
    f"optimizer.learning_rate={RATE}",
    "train.patience_epochs=1",
    *overrides,
  )
  experiments = folds_lib.resolve_folds(
    config,
    folds_lib.make_folds(str(folds), None),
    root / ("run" + "".join(overrides).replace("/", "_")),
  )
  return folds_lib.with_head(experiments, "gru")


def train(experiments, strategy, *, rates=(RATE,)):
  plan = fold_cells.plan_cells(experiments, seeds=2, learning_rates=rates)
  store = fold_cells.load_store(experiments)
  found = cell_runs.train_cells(
    plan.trainer,
    store,
    plan.cells,
    plan.rows_of,
    plan.validation,
    num_epochs=EPOCHS,
    strategy=strategy,
  )
  scores = cell_runs.score_cells(
    plan.trainer, store, plan.cells, found.progress, plan.test
  )
  return plan, found.progress, scores


def train_alone(experiment, seed, rate):
  """What `train` does, epoch by epoch, without its files."""
  config = experiment.config.copy_and_resolve_references()
  config.train.seed, config.optimizer.learning_rate = seed, rate
  runner = Runner(dataclasses.replace(experiment, config=config))
  experiment = runner.experiment
  steps = EPOCHS * experiment.shape.steps_per_epoch
  subset = experiment.subset("validation")
  targets = experiment.targets[subset]
  weights = np.array(experiment.validation_weights)[targets]
  best, stale, answer = np.inf, 0, None
  batches = runner.training_batches(first_step=0, num_steps=steps)
  for step, batch in enumerate(batches, start=1):
    runner.state, _ = runner.train_step(runner.state, batch)
    if step % experiment.shape.steps_per_epoch:
      continue
    scores = runner.score(subset)
    losses = -scores[np.arange(len(subset)), targets] * weights
    loss = losses.sum() / weights.sum()
    stale = 0 if loss <= best else stale + 1
    if loss <= best:
      best, epoch = loss, step // experiment.shape.steps_per_epoch
      answer = runner.score(experiment.subset("test"))
    if stale >= config.train.patience_epochs:
      break
  return best, epoch, answer


@pytest.fixture(scope="module")
def alone(root):
  """The last fold with its first seed, cell 4, as `train` trains it."""
  return train_alone(resolved(root)[2], 0, RATE)


@pytest.mark.parametrize(
  "strategy", ["turns", pytest.param("vmap", marks=pytest.mark.slow)]
)
def test_a_cell_is_the_run_that_train_would_make_of_it(root, alone, strategy):
  loss, epoch, answer = alone
  plan, progress, scores = train(resolved(root), strategy)
  assert progress.best_epoch[4] == epoch
  np.testing.assert_allclose(progress.best_loss[4], loss, atol=1e-4)
  subset = plan.experiments[4].subset("test")
  for record, expected in zip(subset, answer, strict=True):
    np.testing.assert_allclose(
      scores[4][plan.test[4] == record][0], expected, atol=1e-4
    )
  assert np.ptp(answer) > 0.1
  assert min(progress.epochs) < EPOCHS  # some stopped early
  assert len({float(loss) for loss in progress.best_loss}) == 6
