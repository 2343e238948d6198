import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models import image_pooling


def flax_max_pool(x):
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (2, 3), (1, 1)])
def test_max_pool_and_its_gradient_are_flax(size):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *size, 3)).astype(np.float32)
  wanted, wanted_vjp = jax.vjp(flax_max_pool, x)
  given, given_vjp = jax.vjp(image_pooling.max_pool, x)
  np.testing.assert_array_equal(given, wanted)
  towards = jnp.float32(rng.normal(size=wanted.shape))
  np.testing.assert_allclose(
    given_vjp(towards)[0], wanted_vjp(towards)[0], atol=1e-6
  )


def test_max_pool_of_rectified_ties_passes_what_flax_does():
  """Zeros tie, but behind a ReLU nothing passes through them."""
  x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)

  def gradient(pool):
    return jax.grad(lambda x: jnp.square(pool(jax.nn.relu(x))).sum())(x)

  np.testing.assert_allclose(
    gradient(image_pooling.max_pool), gradient(flax_max_pool), atol=1e-6
  )


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_average_pool_is_flax(size):
  x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
  np.testing.assert_allclose(
    image_pooling.average_pool(x), nn.avg_pool(x, (2, 2), (2, 2)), atol=1e-6
  )
