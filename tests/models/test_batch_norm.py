import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models import batch_norm

N, H, W, C = 6, 3, 5, 4
WEIGHT = np.array([1, 1, 0, 1, 0, 1], np.float32)

batch_statistics = functools.partial(jax.jit, static_argnames="groups")(
  batch_norm.batch_statistics
)


def features(seed=0, mean=0.0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(N, H, W, C)) + mean).astype(np.float32)


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_batch_statistics_match_float64(mean):
  x = features(mean=mean)
  given = batch_statistics(x, WEIGHT, groups=2)
  for g, rows in enumerate([[0, 1], [3, 5]]):
    wide = np.float64(x)[rows]
    np.testing.assert_allclose(
      given["mean"][g], wide.mean((0, 1, 2)), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(given["var"][g], wide.var((0, 1, 2)), rtol=1e-5)


def test_batch_statistics_gradient_matches_plain_autodiff():
  x = features(mean=2.0)
  valid = np.flatnonzero(WEIGHT)
  towards = np.random.default_rng(1).normal(size=(2, C)).astype(np.float32)

  def ours(x):
    given = batch_norm.batch_statistics(x, WEIGHT, groups=1)
    return sum(
      (given[name][0] * t).sum()
      for name, t in zip(("mean", "var"), towards, strict=True)
    )

  def plain(x):
    x = x[valid]
    return (
      x.mean((0, 1, 2)) * towards[0] + x.var((0, 1, 2)) * towards[1]
    ).sum()

  np.testing.assert_allclose(
    jax.jit(jax.grad(ours))(x), jax.jit(jax.grad(plain))(x), atol=1e-6
  )


def test_batch_statistics_ignore_slices_without_weight():
  x = features()
  garbage = np.where(WEIGHT[:, None, None, None] > 0, x, np.float32(1e6))

  @jax.jit
  def value_and_gradient(x):
    def loss(x):
      given = batch_norm.batch_statistics(x, WEIGHT, groups=1)
      return (given["mean"] + given["var"]).sum(), given

    return jax.grad(loss, has_aux=True)(x)

  jax.tree.map(
    np.testing.assert_array_equal,
    value_and_gradient(garbage),
    value_and_gradient(x),
  )


def test_batch_statistics_accumulate_half_precision_in_float32():
  x = jnp.asarray(features(mean=8.0), jnp.bfloat16)
  given = batch_statistics(x, WEIGHT, groups=1)
  expected = batch_statistics(x.astype(jnp.float32), WEIGHT, groups=1)
  assert given["mean"].dtype == jnp.float32
  jax.tree.map(np.testing.assert_array_equal, given, expected)


def test_update_running_weighs_groups():
  running = {"mean": jnp.array([1.0]), "var": jnp.array([2.0])}
  statistics = {"mean": jnp.array([[3.0], [6.0]]), "var": jnp.ones((2, 1))}
  weight = jnp.array([1.0, 1.0, 1.0, 0.0])
  given = batch_norm.update_running(running, statistics, weight)
  np.testing.assert_allclose(given["mean"], [0.9 + 0.1 * 4.0], rtol=1e-6)
  np.testing.assert_allclose(given["var"], [0.9 * 2 + 0.1], rtol=1e-6)


def test_update_running_skips_a_step_without_weight():
  running = {"mean": jnp.array([1.0]), "var": jnp.array([2.0])}
  statistics = {"mean": jnp.zeros((2, 1)), "var": jnp.zeros((2, 1))}
  given = batch_norm.update_running(running, statistics, jnp.zeros(4))
  jax.tree.map(np.testing.assert_array_equal, given, running)


def test_normalise_zeroes_slices_without_weight():
  x = features()
  statistics = batch_statistics(x, WEIGHT, groups=2)
  norm = {"scale": jnp.full(C, 2.0), "bias": jnp.full(C, 3.0)}
  y = np.asarray(batch_norm.normalise(x, statistics, norm, WEIGHT))
  assert (y[WEIGHT == 0] == 0).all()
  for g, rows in enumerate([[0, 1], [3, 5]]):
    mean, var = (np.asarray(statistics[name][g]) for name in ("mean", "var"))
    expected = np.maximum((x[rows] - mean) / np.sqrt(var + 1e-5) * 2 + 3, 0)
    np.testing.assert_allclose(y[rows], expected, atol=1e-5)
