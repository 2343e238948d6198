import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.hierarchical import ScreenThenType


@pytest.mark.parametrize("negative", [0, 1, 3])
def test_screening_and_typing_compose_to_one_distribution(negative):
  rng = np.random.default_rng(0)
  features = rng.normal(0, 3, (7, 5)).astype(np.float32)
  model = ScreenThenType(num_classes=4, negative=negative)
  variables = model.init(jax.random.key(0), features)
  labels = np.arange(7) % 4

  def loss(variables):
    log_p = jax.nn.log_softmax(model.apply(variables, features))
    return -log_p[np.arange(7), labels].sum()

  def reference(variables):
    """Binary cross-entropy of screening, plus that of the type of a tumour."""
    parts = variables["params"]
    t, u = (
      features @ parts[name]["kernel"] + parts[name]["bias"][None]
      for name in ("screening", "typing")
    )
    tumour = (labels != negative).astype(np.float32)
    p = jax.nn.sigmoid(t[:, 0])
    screened = -(tumour * jnp.log(p) + (1 - tumour) * jnp.log(1 - p))
    of_types = jnp.exp(u) / jnp.exp(u).sum(1, keepdims=True)
    types = [k for k in range(4) if k != negative]
    column = np.array([types.index(k) if k in types else 0 for k in labels])
    typed = -jnp.log(of_types[np.arange(7), column])
    return (screened + tumour * typed).sum()

  found, expected = (
    jax.value_and_grad(f)(variables) for f in (loss, reference)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    found,
    expected,
  )
  outputs = model.apply(variables, features)
  np.testing.assert_allclose(jnp.exp(outputs).sum(1), 1, rtol=1e-5)


def test_extreme_screening_stays_finite():
  model = ScreenThenType(num_classes=3, negative=0)
  variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
  features = jnp.array([[1e4, 0.0], [-1e4, 0.0]])

  def total(variables):
    return jax.nn.log_softmax(model.apply(variables, features)).sum()

  value, gradient = jax.value_and_grad(total)(variables)
  assert np.isfinite(value)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
