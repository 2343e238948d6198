import functools

import jax
import numpy as np
import pytest

import helpers
from brainjax.input import packing
from brainjax.training import experiment, inference, step


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cohort") / "records"
  helpers.write_cohort(folder)
  return folder


def make_run(cohort, tmp_path, *overrides, packs=1):
  config = helpers.micro_config(cohort, f"data.packs={packs}", *overrides)
  return experiment.resolve(config, tmp_path / "run", 1)


def make_batch(run, rows):
  return packing.pack_batch(
    np.array(rows, np.int32),
    run.record_set.__getitem__,
    run.targets,
    run.shape,
    slice_shape=run.record_set.slice_shape,
    dtype=run.record_set.dtype,
  )


def init(model, optimizer, settings, batch):
  initial = functools.partial(step.init_state, model, optimizer, settings)
  return jax.jit(initial)(batch)


def padded(run, pack):
  return [*pack, *[-1] * (run.shape.rows - len(pack))]


def test_dequantise_uses_the_scale_of_each_scan(cohort, tmp_path):
  run = make_run(cohort, tmp_path)
  batch = make_batch(run, [padded(run, [0, 1])])
  batch["scale"][0, 1] *= 3
  filler = batch["owner"][0] == run.shape.rows
  batch["slices"][0, filler] = 255
  values = step.dequantise(batch, 127)[0]
  first, second = run.record_set[0], run.record_set[1]
  length = len(first.slices)
  expected = [first.intensities(), 3 * second.intensities()]
  both = length + len(second.slices)
  np.testing.assert_allclose(values[:length], expected[0], rtol=1e-6)
  np.testing.assert_allclose(values[length:both], expected[1], rtol=1e-6)
  assert filler.any()
  np.testing.assert_array_equal(values[filler], 0)


def test_dequantise_masks_absent_modalities(cohort, tmp_path):
  run = make_run(cohort, tmp_path)
  batch = make_batch(run, [padded(run, [0, 1])])
  plain = step.dequantise(batch, 127)
  batch["slices"] = batch["slices"].repeat(2, -1)
  present = np.zeros((1, run.shape.rows + 1, 2), np.uint8)
  present[0, :2] = [[1, 0], [0, 1]]
  masked = step.dequantise({**batch, "present": present}, 127)
  first, second = (batch["owner"] == row for row in range(2))
  np.testing.assert_array_equal(masked[first, ..., :1], plain[first])
  np.testing.assert_array_equal(masked[second, ..., 1:], plain[second])
  assert np.abs(plain[first]).max() > 0
  for absent in (masked[first, ..., 1], masked[second, ..., 0]):
    np.testing.assert_array_equal(absent, 0)


def test_loss_falls_on_a_fixed_batch(cohort, tmp_path):
  still = ("rotation_degrees", "scale", "translation")
  run = make_run(
    cohort,
    tmp_path,
    "model.dropout=0.0",
    "optimizer.learning_rate=1e-2",
    "augment.flip=False",
    *(f"augment.{name}=0.0" for name in still),
  )
  model, optimizer, settings = run.build()
  batch = make_batch(run, [padded(run, [0, 1, 2, 3])])
  state = init(model, optimizer, settings, batch)
  train_step = jax.jit(step.make_train_step(model, optimizer, settings))
  losses = []
  for _ in range(60):
    state, metrics = train_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.5 * losses[0]
  assert int(state.step) == 60
  assert metrics["scans"] == 4
  assert metrics["slices"] == run.record_set.lengths[:4].sum()
  assert metrics["finite"] == 1


AVERAGED = (
  "optimizer.ema_decay=0.9",
  "optimizer.schedule=cosine",
  "optimizer.final_rate=0.0",
)


def test_the_rate_is_that_of_the_step(cohort, tmp_path):
  run = make_run(cohort, tmp_path, *AVERAGED)
  model, optimizer, settings = run.build()
  batch = make_batch(run, [padded(run, [0, 1])])
  train_step = jax.jit(step.make_train_step(model, optimizer, settings))
  state = init(model, optimizer, settings, batch)
  last = run.config.train.epochs * run.shape.steps_per_epoch - 1
  for at, moves in ((0, True), (last, False)):
    after, _ = train_step(state.replace(step=np.int32(at)), batch)
    moved = after.params["classifier"]["bias"] != 0
    assert np.all(np.asarray(moved) == moves)


def test_non_finite_update_is_rejected(cohort, tmp_path):
  run = make_run(cohort, tmp_path, *AVERAGED)
  model, optimizer, settings = run.build()
  batch = make_batch(run, [padded(run, [0, 1])])
  train_step = jax.jit(step.make_train_step(model, optimizer, settings))
  state, _ = train_step(init(model, optimizer, settings, batch), batch)
  for kind, answering in state.averages.items():
    moved = jax.tree.map(np.subtract, answering, getattr(state, kind))
    assert all(np.abs(moves).max() > 0 for moves in jax.tree.leaves(moved))
  batch["scale"][0, 0] = np.inf
  after, metrics = train_step(state, batch)
  assert metrics["finite"] == 0
  assert int(after.step) == int(state.step) + 1
  before = state.replace(step=after.step)
  jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.slow
def test_packs_simply_add(cohort, tmp_path):
  """With statistics a pack, two packs equal two passes whose sums are added."""
  exact = ("model.dropout=0.0", "model.encoder.statistics=pack")
  run = make_run(cohort, tmp_path, *exact, packs=2)
  model, _, settings = run.build()
  rows = [padded(run, [0, 1, 2]), padded(run, [3, 4])]
  both = make_batch(run, rows)
  optimizer = _Gradients()
  state = init(model, optimizer, settings, both)
  gradients = functools.partial(
    _gradients, step.make_train_step(model, optimizer, settings), state
  )
  first, second = (
    {name: array[g : g + 1] for name, array in both.items()} for g in (0, 1)
  )
  summed = jax.tree.map(lambda a, b: a + b, gradients(first), gradients(second))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
    gradients(both),
    summed,
  )


def test_unlabelled_scan_changes_no_gradient(tmp_path):
  features = tmp_path / "features"
  helpers.write_features(features)
  run = make_run(features, tmp_path, "model.dropout=0.0")
  model, _, settings = run.build()
  batch = make_batch(run, [padded(run, [0, 1])])
  optimizer = _Gradients()
  state = init(model, optimizer, settings, batch)
  train_step = step.make_train_step(model, optimizer, settings)
  batch["label"][:] = -1
  after, metrics = jax.jit(train_step)(state, batch)
  gradients = after.opt_state
  assert metrics["weight"] == metrics["labelled"] == metrics["correct"] == 0
  assert metrics["scans"] == 2
  assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) == 0


def test_evaluation_ignores_the_content_of_filler(cohort, tmp_path):
  run = make_run(cohort, tmp_path)
  model, optimizer, settings = run.build()
  batch = make_batch(run, [padded(run, [0, 1])])
  state = init(model, optimizer, settings, batch)
  eval_step = jax.jit(inference.make_eval_step(model, settings))
  expected = eval_step(state, batch)[0, :2]
  filler = batch["owner"] == run.shape.rows
  assert filler.any()
  batch["slices"][filler] = 255
  np.testing.assert_array_equal(eval_step(state, batch)[0, :2], expected)
  np.testing.assert_allclose(np.exp(expected).sum(-1), 1, rtol=1e-6)


class _Gradients:
  """An optimizer whose state is the last gradient."""

  def init(self, params):
    return jax.tree.map(jax.numpy.zeros_like, params)

  def update(self, gradients, state, params):
    del state
    return jax.tree.map(lambda p: 0 * p, params), gradients


def _gradients(train_step, state, batch):
  return jax.jit(train_step)(state, batch)[0].opt_state
