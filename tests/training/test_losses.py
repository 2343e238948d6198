import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.training import losses


def test_cross_entropy_against_the_definition():
  logits = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]], np.float32)
  labels = np.array([2, 0])
  expected = [
    -0.5 + np.log(np.exp(logits[0]).sum()),
    np.log(3.0),
  ]
  found = losses.scan_cross_entropy(jnp.array(logits), jnp.array(labels))
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unknown_label_has_no_loss_and_no_gradient():
  def total(logits):
    return losses.scan_cross_entropy(logits, jnp.array([-1, 1])).sum()

  gradient = jax.grad(total)(jnp.array([[3.0, 1.0], [3.0, 1.0]]))
  np.testing.assert_array_equal(gradient[0], 0)
  assert np.abs(gradient[1]).min() > 0


def test_inverse_weights_balance_the_classes():
  labels = np.array([0] * 6 + [1] * 3 + [2])
  weights = np.array(losses.class_weights(labels, 3, "inverse"))
  totals = weights * np.bincount(labels)
  np.testing.assert_allclose(totals, totals[0])
  assert weights[labels].mean() == pytest.approx(1)
  assert losses.class_weights(labels, 3, "none") == (1.0, 1.0, 1.0)
