import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax import InputError
from brainjax.training import state, trained


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_of_the_weights(decay):
  rng = np.random.default_rng(0)
  params = rng.normal(size=(30, 3)).astype(np.float32)
  found, wanted = {"w": jnp.ones(3)}, np.ones(3)
  average = jax.jit(state.average, static_argnums=2)
  for t, weights in enumerate(params):
    found = average(found, {"w": weights}, decay, jnp.int32(t))
    d = min(decay, (1 + t) / (10 + t))
    wanted = d * wanted + (1 - d) * weights
    np.testing.assert_allclose(found["w"], wanted, rtol=1e-5, atol=1e-6)


def test_the_average_answers():
  now = {"params": "now", "batch_stats": "of now"}
  averages = {"params": "average", "batch_stats": "average of those"}
  fields = {"step": 0, "opt_state": (), **now}
  assert state.TrainState(**fields).variables == now
  averaged = state.AveragedState(**fields, averages=averages)
  assert averaged.variables == averages


def test_averages_of_an_earlier_version_are_refused(tmp_path):
  content = {"schema_version": trained.SCHEMA_VERSION, "weights": "ema"}
  (tmp_path / "model.json").write_text(json.dumps(content))
  with pytest.raises(InputError, match="leave out BatchNorm's statistics"):
    trained.read_model_file(tmp_path)
