"""The plain CNN: what filler may not do, and a slice by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from brainjax.models.cnn import CNN

ENCODER = CNN((3, 5))
WEIGHT = np.float32([1, 0, 1])


def slices(size=(6, 7)):
  rng = np.random.default_rng(0)
  return np.float32(rng.normal(size=(3, *size, 2)))


@functools.cache
def variables(encoder=ENCODER):
  found = encoder.init(
    jax.random.key(0), slices(), WEIGHT, groups=1, train=False
  )
  # Filler would show through a bias.
  return jax.tree.map(lambda leaf: leaf + 0.1, found)


@jax.jit
def outcome(variables, slices, weight):
  def loss(variables):
    z = ENCODER.apply(variables, slices, weight, groups=1, train=True)
    return jnp.sin(z + 1).sum(), z

  grads, z = jax.grad(loss, has_aux=True)(variables)
  return z, grads


def test_is_convolutions_and_pooling():
  x = jnp.asarray(slices())
  for i, width in enumerate(ENCODER.widths, 1):
    conv = variables()["params"][f"conv{i}"]
    assert conv["kernel"].shape == (3, 3, x.shape[-1], width)
    x = jax.lax.conv_general_dilated(
      x,
      conv["kernel"],
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jax.nn.relu(x + conv["bias"][None, None, None])
    x = jax.lax.reduce_window(
      x,
      -jnp.inf,
      jax.lax.max,
      (1, 3, 3, 1),
      (1, 2, 2, 1),
      ((0, 0), (1, 1), (1, 1), (0, 0)),
    )
  assert x.shape == (3, 2, 2, 5) and ENCODER.num_features == 5
  z = ENCODER.apply(variables(), slices(), np.ones(3), groups=1, train=False)
  np.testing.assert_allclose(z, x.mean((1, 2)), atol=1e-6)


def test_filler_changes_nothing_to_the_bit():
  filled = slices()
  filled[1] = np.nan
  found, expected = (
    outcome(variables(), x, WEIGHT) for x in (filled, slices())
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  np.testing.assert_array_equal(found[0][1], 0)
  assert np.abs(found[0][::2]).min() > 0


def test_a_pack_of_filler_teaches_nothing():
  z, grads = outcome(variables(), slices(), np.zeros(3, np.float32))
  assert not z.any()
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_half_precision_is_of_the_computation_alone():
  half = ENCODER.clone(dtype=jnp.bfloat16)
  apply = functools.partial(half.apply, groups=1, train=False)
  z = apply(variables(), slices(), WEIGHT)
  expected, _ = outcome(variables(), slices(), WEIGHT)
  assert z.dtype == jnp.float32
  np.testing.assert_allclose(z, expected, rtol=0.02)
  text = str(jax.make_jaxpr(apply)(variables(), slices(), WEIGHT))
  kernels = [line for line in text.splitlines() if "conv_general" in line]
  assert len(kernels) == 2 and all("bf16" in line for line in kernels)
