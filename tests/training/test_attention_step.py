"""What a run says of its attention, slice by slice."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import helpers
from brainjax.models.classifier import attention_weights
from brainjax.training import experiment
from brainjax.training.runner import Runner

GATED = {"name": "attention", "projection": 0, "attention_size": 4}


def make_runner(root, head, *overrides):
  config = helpers.micro_config(
    root / "records", "data.packs=2", "mesh.devices=2", *overrides
  )
  with config.unlocked():
    config.model.head = ml_collections.ConfigDict({"budget": None} | head)
  return Runner(experiment.resolve(config, root / "run", 2))


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
  """A run of all kinds of attention, with parameters nowhere zero."""
  root = tmp_path_factory.mktemp("attention")
  helpers.write_cohort(root / "records", participants=20)
  both = [
    f"model.attention.{name}=distance" for name in ("in_plane", "slice_axis")
  ]
  runner = make_runner(root, GATED, *both)
  rng = np.random.default_rng(0)
  runner.adopt(
    runner.state.replace(
      params=jax.tree.map(
        lambda leaf: leaf + np.float32(rng.normal(0, 0.3, leaf.shape)),
        runner.state.params,
      )
    )
  )
  return runner


def test_weights_are_those_of_a_scan_alone(runner):
  run = runner.experiment
  model, _, _ = run.build()
  subset = run.subset("train")[::-1]
  found = runner.attention(subset)
  lengths = run.record_set.lengths[subset]
  assert [len(given["head"]) for given in found] == lengths.tolist()
  assert len(set(lengths)) > 2
  which = int(np.argmax(lengths * (lengths < lengths.max())))
  record = run.record_set[int(subset[which])]
  num = len(record.slices)

  @jax.jit
  def alone(state, slices, positions_mm):
    _, collected = model.apply(
      {"params": state.params, "batch_stats": state.batch_stats},
      slices[None],
      jnp.zeros((1, num), jnp.int32),
      jnp.arange(num)[None],
      positions_mm[None],
      num_rows=1,
      max_length=num,
      train=False,
      mutable=["intermediates"],
    )
    return collected["intermediates"]

  state = jax.device_get(runner.state)
  sown = alone(state, record.intensities(), record.positions_mm)
  expected = attention_weights(sown, "place_weights")
  rows = attention_weights(sown, "slice_weights")
  expected |= {name: value[0] for name, value in rows.items()}
  assert set(expected) == {"in_plane", "in_plane_offset", "slice_axis", "head"}
  assert found[which].keys() == expected.keys()
  for name, value in found[which].items():
    np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_a_run_without_attention_says_nothing(runner, tmp_path):
  (tmp_path / "records").symlink_to(runner.experiment.record_set.path)
  plain = make_runner(tmp_path, {"name": "mean", "projection": 0})
  assert plain.attention(plain.experiment.subset("test")) == []
