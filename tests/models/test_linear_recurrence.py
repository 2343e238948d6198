import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.heads import build_head
from brainjax.models.linear_recurrence import SCANS, linear_scan

RNG = np.random.default_rng(0)
B, S, F = 2, 11, 3
MASK = RNG.random((B, S)) < 0.7


def coefficients(dtype):
  """Decays and increments; the decay of a complex state is the same always."""
  increment = RNG.normal(size=(2, B, S, F)).astype(np.float32)
  if dtype == "float32":
    return RNG.random((B, S, F)).astype(np.float32), increment[0]
  decay = np.exp(RNG.uniform(-1, 0, F) + 1j * RNG.uniform(0, 6, F))
  return np.complex64(decay[None, None]), increment[0] + 1j * increment[1]


@functools.partial(jax.jit, static_argnames="scan")
def states_and_gradients(decay, increment, scan):
  def loss(decay, increment):
    states = linear_scan(decay, increment, MASK, scan)
    weights = jnp.arange(states.size).reshape(states.shape)
    return (weights * jnp.abs(states) ** 2).mean(), states

  gradients, states = jax.grad(loss, (0, 1), has_aux=True)(decay, increment)
  return states, gradients


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_scans_are_equal(dtype):
  given = coefficients(dtype)
  parallel, in_order = (states_and_gradients(*given, scan) for scan in SCANS)
  assert parallel[0].dtype == dtype
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4),
    parallel,
    in_order,
  )


@pytest.mark.parametrize("scan", SCANS)
def test_masked_step_keeps_the_state_exactly(scan):
  decay, increment = coefficients("float32")
  states = np.array(linear_scan(decay, increment, MASK, scan))
  np.testing.assert_array_equal(states[:, 0][~MASK[:, 0]], 0)
  for s in range(1, S):
    masked = ~MASK[:, s]
    np.testing.assert_array_equal(states[masked, s], states[masked, s - 1])
    moved = states[~masked, s] != states[~masked, s - 1]
    assert moved.all()


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_wide_open_and_shut_gates_stay_finite(name):
  head = build_head({"name": name, "hidden_size": 4, "scan": "associative"})
  z = RNG.choice(np.float32([-1e3, 1e3]), (1, 40, 5))
  inputs = z, np.ones((1, 40), bool), np.zeros((1, 40), np.float32)

  @jax.jit
  def run(key):
    variables = head.init(key, *inputs, train=False)
    return jax.value_and_grad(
      lambda variables: head.apply(variables, *inputs, train=False).sum()
    )(variables)

  value, gradients = run(jax.random.key(0))
  assert value > 0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_lru_starts_with_states_of_size_one_that_remember():
  head = build_head({"name": "lru", "hidden_size": 500, "scan": "sequential"})
  inputs = np.zeros((1, 1, 2)), np.ones((1, 1), bool), np.zeros((1, 1))
  init = jax.jit(functools.partial(head.init, train=False))
  params = init(jax.random.key(0), *inputs)["params"]["recurrence"]
  radii = np.exp(-np.exp(params["nu"]))
  assert 0.5 <= radii.min() < 0.55 and 0.98 < radii.max() <= 0.99
  angles = np.exp(params["theta"])
  assert 0 < angles.min() < 0.1 and 6.2 < angles.max() < 6.3
  # The variance of a state that noise of variance 1 drives.
  variance = np.exp(2 * params["gamma"]) / (1 - radii**2)
  np.testing.assert_allclose(variance, 1, rtol=1e-3)


@pytest.mark.parametrize("name", ["mingru", "minlstm", "lru"])
def test_unknown_scan_names_the_choices(name):
  with pytest.raises(ValueError, match="no scan 'loop'; .*'associative'"):
    build_head({"name": name, "hidden_size": 4, "scan": "loop"})
