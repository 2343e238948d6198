"""Each remedy for rare classes in a whole step, of a model quick to compile."""

import jax
import numpy as np
import optax
import pytest

from brainjax.models.build import build_classifier
from brainjax.training import losses, step

G, B, S, D = 2, 5, 2, 6
OPTIONS = {
  "cross_entropy": {},
  "focal": {"focal_gamma": 2.0},
  "label_smoothing": {"label_smoothing": 0.1},
  "logit_adjustment": {"adjustment": (-0.3, -1.5, -3.0)},
  "hard_negatives": {"hard_negatives": 3},
  "mixup": {"mixup": 0.4},
  "hierarchical": {},
}


def make_batch():
  """Two packs of features; the last row of each holds no scan."""
  rng = np.random.default_rng(0)
  label = np.array([[0, 0, 1, 0, -1], [0, 2, 0, -1, -1]], np.int32)
  weight = np.ones((G, B), np.float32)
  weight[:, -1] = 0
  owner = np.repeat(np.arange(B, dtype=np.int32), S)[None].repeat(G, 0)
  slices = rng.normal(size=(G, B * S, 1, 1, D)).astype(np.float32)
  slices[..., 0] += np.take_along_axis(label, owner, 1)[..., None, None]
  return {
    "slices": slices,
    "owner": owner,
    "position": np.tile(np.arange(S, dtype=np.int32), (G, B)),
    "positions_mm": np.zeros((G, B * S), np.float32),
    "label": label,
    "weight": weight,
    "length": np.full((G, B), S, np.int32),
    "record_index": np.arange(G * B, dtype=np.int32).reshape(G, B),
    "draw": np.arange(G * B, dtype=np.int32).reshape(G, B),
    "scale": np.ones((G, B + 1), np.float32),
  }


def run(name, batch, steps=40):
  """Returns the losses of some steps, and the last parameters."""
  model = build_classifier(
    preset="micro",
    statistics="batch",
    head={"name": "mean"},
    dropout=0.0,
    dtype="float32",
    num_classes=3,
    num_features=D,
    negative=0 if name == "hierarchical" else None,
  )
  settings = step.StepSettings(
    zero_code=0,
    num_rows=B,
    max_length=S,
    scans_per_step=4,
    loss=losses.LossSettings((1.0, 1.0, 2.0), **OPTIONS[name]),
    augment=None,
    seed=0,
  )
  optimizer = optax.sgd(0.1)
  state = step.init_state(model, optimizer, settings, batch)
  train_step = jax.jit(step.make_train_step(model, optimizer, settings))
  found = []
  for _ in range(steps):
    state, metrics = train_step(state, batch)
    assert metrics["finite"] == 1
    found.append(float(metrics["loss"] / metrics["weight"]))
  return found, state.params


@pytest.mark.parametrize("name", OPTIONS)
def test_loss_falls(name):
  found, _ = run(name, make_batch())
  assert np.isfinite(found).all()
  assert np.mean(found[-10:]) < 0.9 * np.mean(found[:10])


@pytest.mark.parametrize("name", ["hard_negatives", "mixup"])
def test_rows_without_a_scan_or_a_label_change_nothing(name):
  batch = make_batch()
  _, params = run(name, batch, steps=2)
  silent = (batch["weight"] == 0) | (batch["label"] < 0)
  other = dict(batch, slices=batch["slices"].copy())
  of_slices = np.take_along_axis(silent, batch["owner"], 1)
  other["slices"][of_slices] += 7
  _, moved = run(name, other, steps=2)
  jax.tree.map(np.testing.assert_array_equal, params, moved)


def test_hierarchical_classifier_has_two_parts():
  _, params = run("hierarchical", make_batch(), steps=1)
  shapes = jax.tree.map(np.shape, params["classifier"])
  assert shapes["screening"]["kernel"] == (D, 1)
  assert shapes["typing"]["kernel"] == (D, 2)
