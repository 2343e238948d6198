import functools

import jax
import numpy as np
import pytest

import helpers
from brainjax.models.heads import build_head

FIELDS = {
  "name": "transformer",
  "head_size": 4,
  "num_heads": 2,
  "num_layers": 2,
}
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(2, 6, 3)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
POSITIONS_MM = np.tile(np.float32([-40, -31, -12, 3, 20, 62]), (2, 1))


@functools.cache
def read():
  head = build_head(FIELDS)
  init = functools.partial(head.init, train=False)
  variables = helpers.draw_variables(init, Z, MASK, POSITIONS_MM)
  return jax.jit(
    functools.partial(
      head.apply, variables, train=False, mutable=["intermediates"]
    )
  )


def test_positions_are_millimetres_and_not_indices():
  order = RNG.permutation(6)
  expected, _ = read()(Z, MASK, POSITIONS_MM)
  shuffled, _ = read()(Z[:, order], MASK[:, order], POSITIONS_MM[:, order])
  np.testing.assert_allclose(shuffled, expected, atol=1e-5)
  exchanged, _ = read()(Z, MASK, POSITIONS_MM[:, order])
  assert np.abs(exchanged - expected).max() > 1e-2


def test_attention_weights_come_out_by_name():
  _, collected = read()(Z, MASK, POSITIONS_MM)
  layers = collected["intermediates"]["attention"]
  assert len(layers) == FIELDS["num_layers"]
  for weights in layers:
    assert weights.shape == (2, FIELDS["num_heads"], 6, 6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(weights[0, ..., ~MASK[0]], 0)


@pytest.mark.parametrize("field", ["num_heads", "num_layers"])
def test_a_transformer_of_nothing_is_refused(field):
  with pytest.raises(ValueError, match=f"{field} is 0; at least 1"):
    build_head({**FIELDS, field: 0})
