import jax
import numpy as np
import pytest

from brainjax.models.heads import build_head

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(2, 6, 3)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1]], bool)
POSITIONS_MM = np.zeros((2, 6), np.float32)


def pool(fields, z, mask=MASK):
  return build_head(fields).apply({}, z, mask, POSITIONS_MM, train=False)


def test_logsumexp_of_equal_slices_is_their_value():
  z = np.float32([[[-300.0, 0.25, 300.0]], [[1.0, 2.0, 3.0]]])
  given = pool({"name": "logsumexp", "temperature": 0.1}, np.tile(z, (6, 1)))
  np.testing.assert_allclose(given, z[:, 0], rtol=1e-6)


def test_logsumexp_goes_from_maximum_to_mean():
  def at(temperature):
    return pool({"name": "logsumexp", "temperature": temperature}, Z)

  largest, mean = pool({"name": "max"}, Z), pool({"name": "mean"}, Z)
  np.testing.assert_allclose(at(1e-4), largest, atol=1e-3)
  np.testing.assert_allclose(at(1e3), mean, atol=1e-3)
  assert (at(0.5) < largest).all() and (at(0.5) > mean).all()
  assert (at(0.2) > at(0.5)).all()


def test_logsumexp_refuses_a_temperature_of_zero():
  with pytest.raises(ValueError, match=r"temperature is 0\.0; more than 0"):
    build_head({"name": "logsumexp", "temperature": 0.0})


def test_attention_weights_come_out_by_name():
  head = build_head({"name": "attention", "attention_size": 4})
  mask = MASK & [[True], [False]]
  features, collected = head.init_with_output(
    jax.random.key(0),
    Z,
    mask,
    POSITIONS_MM,
    train=False,
    mutable=["params", "intermediates"],
  )
  (found,) = collected["intermediates"]["slice_weights"]
  weights = found["head"]
  assert weights.shape == mask.shape
  np.testing.assert_array_equal(weights[~mask], 0)
  np.testing.assert_allclose(weights.sum(1), [1, 0], atol=1e-6)
  expected = np.einsum("bs,bsd->bd", weights, Z)
  np.testing.assert_allclose(features, expected, atol=1e-6)
