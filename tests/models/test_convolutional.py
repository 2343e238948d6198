"""What is particular to one convolutional head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import helpers
from brainjax.models.convolutional import TCN, SeqConv

B, S, D = 2, 5, 3


def initialise(head):
  init = functools.partial(head.init, train=False)
  return helpers.draw_variables(init, *sequences())


def sequences():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(B, S, D)).astype(np.float32)
  return z, np.ones((B, S), bool), np.zeros((B, S), np.float32)


def test_tcn_drops_in_training_alone():
  head = TCN(channels=4, dilations=(1,), kernel_size=3, dropout=0.5)
  inputs = sequences()
  variables = initialise(head)

  @functools.partial(jax.jit, static_argnames="train")
  def features(seed, train):
    rngs = {"dropout": jax.random.key(seed)}
    return head.apply(variables, *inputs, train=train, rngs=rngs)

  np.testing.assert_array_equal(
    features(0, train=False), features(1, train=False)
  )
  np.testing.assert_array_equal(
    features(0, train=True), features(0, train=True)
  )
  assert np.abs(features(0, train=True) - features(1, train=True)).max() > 1e-3


def test_seqconv_reads_a_slice_that_its_kernels_step_over():
  head = SeqConv(filters=(4, 4), kernel_size=3)
  z, mask, positions_mm = sequences()
  variables = initialise(head)

  @jax.jit
  @jax.grad
  def gradient(z, mask):
    features = head.apply(variables, z, mask, positions_mm, train=False)
    return jnp.square(features).sum()

  for s in range(S):
    alone = np.zeros_like(mask)
    alone[:, s] = True
    by_slice = np.abs(gradient(z, alone)).max((0, 2))
    assert by_slice[s] > 0
    assert np.delete(by_slice, s).max() == 0
