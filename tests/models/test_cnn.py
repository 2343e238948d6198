"""The plain CNN: what filler may not do, and a slice by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from brainjax.models.cnn import CNN

ENCODER = CNN((3, 5))
WEIGHT = np.float32([1, 0, 1, 1])


def slices(size=(6, 7)):
  rng = np.random.default_rng(0)
  return np.float32(rng.normal(size=(4, *size, 2)))


@functools.cache
def variables():
  """Random variables, norms with scales and variances near one."""
  init = functools.partial(ENCODER.init, groups=1, train=False)
  shapes = jax.eval_shape(init, jax.random.key(0), slices(), WEIGHT)
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    centre = path[-1].key in ("scale", "var")
    return np.float32(rng.normal(centre, 0.2, leaf.shape))

  return jax.tree.map_with_path(draw, shapes)


@functools.partial(jax.jit, static_argnames="groups")
def outcome(variables, slices, weight, groups=1):
  def loss(params):
    z, moved = ENCODER.apply(
      variables | {"params": params},
      slices,
      weight,
      groups=groups,
      train=True,
      mutable=["batch_stats"],
    )
    return jnp.sin(z + 1).sum(), (z, moved["batch_stats"])

  grads, (z, moved) = jax.grad(loss, has_aux=True)(variables["params"])
  return z, grads, moved


def test_is_convolutions_norms_and_pooling():
  x = jnp.asarray(slices())
  for i, width in enumerate(ENCODER.widths, 1):
    kernel = variables()["params"][f"conv{i}"]["kernel"]
    assert kernel.shape == (3, 3, x.shape[-1], width)
    x = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    norm = variables()["params"][f"norm{i}"]
    average = variables()["batch_stats"][f"norm{i}"]
    mean, scale, bias, var = (
      value[None, None, None]
      for value in (
        average["mean"],
        norm["scale"],
        norm["bias"],
        average["var"],
      )
    )
    x = jax.nn.relu((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias)
    x = jax.lax.reduce_window(
      x,
      -jnp.inf,
      jax.lax.max,
      (1, 3, 3, 1),
      (1, 2, 2, 1),
      ((0, 0), (1, 1), (1, 1), (0, 0)),
    )
  assert x.shape == (4, 2, 2, 5) and ENCODER.num_features == 5
  z = ENCODER.apply(variables(), slices(), np.ones(4), groups=1, train=False)
  np.testing.assert_allclose(z, x.mean((1, 2)), atol=1e-6)


def test_filler_changes_nothing_to_the_bit():
  filled = slices()
  filled[1] = np.nan
  found, expected = (
    outcome(variables(), x, WEIGHT) for x in (filled, slices())
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  np.testing.assert_array_equal(found[0][1], 0)
  assert np.abs(found[0][np.array([0, 2, 3])]).max(1).min() > 0


def test_how_much_filler_there_is_changes_nothing():
  without = outcome(variables(), slices()[[0, 2, 3]], np.ones(3, np.float32))
  z, *others = outcome(variables(), slices(), WEIGHT)
  found = z[np.array([0, 2, 3])], *others
  # The sine of filler's zeros is a constant.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, without
  )


def test_groups_have_statistics_of_their_own():
  both, _, _ = outcome(variables(), slices(), WEIGHT, groups=2)
  first, _, _ = outcome(variables(), slices()[:2], WEIGHT[:2])
  np.testing.assert_allclose(both[:2], first, atol=1e-6)


def test_a_pack_of_filler_teaches_nothing():
  z, grads, moved = outcome(variables(), slices(), np.zeros(4, np.float32))
  assert not z.any()
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
  jax.tree.map(np.testing.assert_array_equal, moved, variables()["batch_stats"])


def test_half_precision_is_of_the_computation_alone():
  half = ENCODER.clone(dtype=jnp.bfloat16)
  apply = functools.partial(half.apply, groups=1, train=False)
  z = apply(variables(), slices(), WEIGHT)
  expected = ENCODER.apply(variables(), slices(), WEIGHT, groups=1, train=False)
  assert z.dtype == jnp.float32
  np.testing.assert_allclose(z, expected, atol=0.02)
  text = str(jax.make_jaxpr(apply)(variables(), slices(), WEIGHT))
  kernels = [line for line in text.splitlines() if "conv_general" in line]
  assert len(kernels) == 2 and all("bf16" in line for line in kernels)
