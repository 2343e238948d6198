import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.training.optimizer import make_optimizer


def test_adam_with_coupled_l2_of_kernels_only():
  facts = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "epsilon": 1e-8}
  l2 = 0.5
  params = {"kernel": jnp.array([[2.0]]), "bias": jnp.array([2.0])}
  optimizer = make_optimizer(**facts, l2=l2, encoder_rate=1.0)
  state = optimizer.init(params)
  expected = {"kernel": 2.0, "bias": 2.0}
  moments = {name: (0.0, 0.0) for name in params}
  for t in range(1, 4):
    gradients = {"kernel": jnp.array([[0.3 * t]]), "bias": jnp.array([0.3 * t])}
    updates, state = optimizer.update(gradients, state, params)
    params = {name: params[name] + updates[name] for name in params}
    for name in params:
      g = 0.3 * t + (l2 * expected[name] if name == "kernel" else 0)
      m = 0.9 * moments[name][0] + 0.1 * g
      v = 0.99 * moments[name][1] + 0.01 * g * g
      moments[name] = (m, v)
      step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
      expected[name] -= 0.1 * step
      np.testing.assert_allclose(params[name].item(), expected[name], rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_encoder_learns_at_its_own_rate(rate):
  facts = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "epsilon": 1e-8}
  params = {
    name: {"kernel": jnp.array([[2.0, -1.0]])}
    for name in ("encoder", "head", "classifier")
  }
  gradients = jax.tree.map(lambda leaf: 0.3 * leaf, params)
  optimizer = make_optimizer(**facts, l2=0.5, encoder_rate=rate)
  state = optimizer.init(params)
  for _ in range(2):
    updates, state = optimizer.update(gradients, state, params)
  moved = {name: np.asarray(tree["kernel"]) for name, tree in updates.items()}
  assert np.abs(moved["head"]).min() > 0.05
  np.testing.assert_array_equal(moved["head"], moved["classifier"])
  np.testing.assert_allclose(moved["encoder"], rate * moved["head"], rtol=1e-6)
  sizes = [leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim]
  assert len(sizes) == (6 if rate else 4)  # no moments of what stays
