"""What models say of a scan, and what each slice has to do with it."""

import dataclasses
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from brainjax import records
from brainjax.evaluation import answer
from brainjax.evaluation.answer import answer_scan, leave_one_out
from brainjax.models.classifier import Classifier
from brainjax.models.heads import build_head
from brainjax.training.trained import Trained


class Centre(nn.Module):
  """A head that hangs on positions."""

  def __call__(self, z, mask, positions_mm, *, train):
    weights = jnp.where(mask, positions_mm / 10, 0)
    return jnp.einsum("bs,bsd->bd", weights, z)


HEADS = {
  "lstm": build_head({"name": "lstm", "hidden_size": 4, "unroll": 1}),
  "mean": build_head({"name": "mean"}),
  "max": build_head({"name": "max"}),
  "centre": Centre(),
}


class Pixels(nn.Module):
  """An encoder that is quick to compile: the first pixels of a slice."""

  def __call__(self, slices, weight, *, groups, train):
    pixels = slices[:, 0, :4].reshape(len(slices), -1)
    return pixels * weight[:, None]


def trained(head="lstm", seed=0, channels=1):
  model = Classifier(
    encoder=Pixels(),
    head=HEADS[head],
    num_classes=3,
    dropout=0.5,
    statistics="batch",
  )
  shapes = jax.eval_shape(
    lambda: model.init(
      jax.random.key(0),
      jnp.zeros((1, 1, 16, 16, channels)),
      jnp.zeros((1, 1), int),
      jnp.zeros((1, 1), int),
      jnp.zeros((1, 1)),
      num_rows=1,
      max_length=1,
      train=False,
    )
  )
  rng = np.random.default_rng(seed)
  return Trained(
    workdir=pathlib.Path("run"),
    facts={
      "classes": ("a", "b", "c"),
      "modalities": ("t1",),
      "intensity": None,
    },
    model=model,
    variables=jax.tree.map(
      lambda leaf: np.float32(rng.normal(0, 0.7, leaf.shape)), shapes
    ),
    step=1,
    checkpoint_sha256="",
  )


def scan(num_slices=5, seed=0):
  rng = np.random.default_rng(seed)
  return helpers.random_record(rng, num_slices=num_slices)


def without(record, s):
  """The scan with one slice less."""
  kept = {
    name: np.delete(getattr(record, name), s, axis=0)
    for name in ("slices", "positions_mm", "brain_mask")
  }
  return dataclasses.replace(record, **kept)


@pytest.mark.parametrize("head", HEADS)
def test_contribution_is_what_removing_the_slice_takes_away(head):
  model, record = trained(head), scan()
  answer = answer_scan([model], record)
  assert answer.contributions.shape == (5,)
  for s in range(5):
    removed = answer_scan([model], without(record, s)).probabilities
    difference = np.log(answer.probabilities[answer.label])
    difference -= np.log(removed[answer.label])
    assert answer.contributions[s] == pytest.approx(difference, abs=1e-5)
  assert np.abs(answer.contributions).max() > 0.01


def test_answer_is_the_class_of_the_highest_probability():
  answer = answer_scan([trained()], scan())
  assert list(answer.probabilities) == ["a", "b", "c"]
  assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
  assert answer.probabilities[answer.label] == max(
    answer.probabilities.values()
  )
  assert answer.of_models == (answer.probabilities,)


@pytest.mark.parametrize("head", ["lstm", "centre"])
def test_probabilities_are_those_of_the_whole_model(head):
  model, record = trained(head), scan()
  logits = model.model.apply(
    model.variables,
    record.intensities()[None],
    np.zeros((1, 5), np.int32),
    np.arange(5)[None],
    record.positions_mm[None],
    num_rows=1,
    max_length=5,
    train=False,
  )
  expected = jax.nn.softmax(logits[0, 0])
  given = answer_scan([model], record).probabilities
  np.testing.assert_allclose(list(given.values()), expected, atol=1e-6)


def test_models_answer_with_the_mean_of_their_probabilities():
  models, record = [trained(seed=0), trained(seed=1)], scan()
  first, second = (answer_scan([model], record) for model in models)
  both = answer_scan(models, record)
  assert both.of_models == (first.probabilities, second.probabilities)
  for name, probability in both.probabilities.items():
    mean = (first.probabilities[name] + second.probabilities[name]) / 2
    assert probability == pytest.approx(mean, abs=1e-6)
  removed = answer_scan(models, without(record, 2)).probabilities[both.label]
  assert both.contributions[2] == pytest.approx(
    np.log(both.probabilities[both.label] / removed), abs=1e-5
  )


def test_scans_of_like_length_and_models_of_like_shape_compile_once():
  leave_one_out.clear_cache()
  models = [trained(seed=0), trained(seed=1)]
  for num_slices in (1, 5, 8):
    answer = answer_scan(models, scan(num_slices))
    assert len(answer.contributions) == num_slices
    assert np.isfinite(answer.contributions).all()
  assert leave_one_out._cache_size() == 1


def test_an_absent_modality_changes_nothing():
  model = trained(channels=2)
  record = scan()
  both = np.repeat(record.slices, 2, axis=-1)
  fields = {
    "present": np.array([1, 0], np.uint8),
    "landmarks": np.zeros((2, 11), np.float32),
  }
  given = answer_scan(
    [model], dataclasses.replace(record, slices=both, **fields)
  )
  both = both.copy()
  both[..., 1] = records.ZERO_CODES[both.dtype]
  zero = answer_scan(
    [model], dataclasses.replace(record, slices=both, **fields)
  )
  assert given.probabilities == zero.probabilities
  np.testing.assert_array_equal(given.contributions, zero.contributions)


def calibrated(model, temperature, threshold):
  fitted = {"step": 1, "temperature": temperature, "threshold": threshold}
  facts = {**model.facts, "positive": "", "calibration": fitted}
  return dataclasses.replace(model, facts=facts)


def test_an_answer_is_at_the_temperature_of_its_model():
  record, raw = scan(), trained(seed=1)
  plain = answer_scan([raw], record)
  found = answer_scan([calibrated(raw, 2.5, None)], record)
  logs = np.log(list(plain.probabilities.values())) / 2.5
  expected = np.exp(logs) / np.exp(logs).sum()
  assert list(found.probabilities.values()) == pytest.approx(expected, abs=1e-6)
  assert found.label == plain.label
  assert found.called is plain.called is None
  # Parameters of another step are left as they are.
  other = dataclasses.replace(calibrated(raw, 2.5, None), step=2)
  assert answer_scan([other], record).probabilities == plain.probabilities
  # Of several models, each has its own.
  both = answer_scan([calibrated(raw, 2.5, None), raw], record)
  mean = (expected + list(plain.probabilities.values())) / 2
  assert list(both.probabilities.values()) == pytest.approx(mean, abs=1e-6)


def test_the_operating_point_is_the_mean_of_the_thresholds():
  facts = {"classes": ("healthy", "ill"), "positive": "ill"}
  given = {"healthy": 0.7, "ill": 0.3}
  called = functools.partial(answer._called, facts, probabilities=given)
  assert called([{"threshold": 0.2}, {"threshold": 0.3}]) == ("ill", 0.25)
  assert called([{"threshold": 0.2}, {"threshold": 0.5}]) == ("healthy", 0.35)
  assert called([{"threshold": 0.2}, None]) is None
  assert called([{"threshold": None}]) is None
