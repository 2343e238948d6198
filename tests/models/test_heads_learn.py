"""What heads can learn: whether the lesion's slice is before the marker's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brainjax.config import HEAD_DEFAULTS
from brainjax.models.heads import HEADS, build_head

IMAGE2D = {"growth_rate": 8, "block_config": (2, 2), "num_init_features": 8}
FIELDS = {**HEAD_DEFAULTS, "image2d": IMAGE2D}  # which is slow by default
ORDER_BLIND = ("attention", "logsumexp", "max", "mean")
B, S, D = 64, 8, 6
STEPS, RATE, BUDGET = 300, 1e-2, 12_000


@functools.cache
def draw(seed, batches):
  """Noise in which one slice shows a lesion and another one a marker."""
  rng = np.random.default_rng(seed)
  shape = batches, B, S
  mask = np.arange(S) < rng.integers(3, S + 1, (batches, B, 1))
  places = np.argsort(rng.random(shape) + 2 * ~mask, -1)[..., :2, None]
  z = rng.normal(0, 0.3, (*shape, D))
  slices = np.arange(S)
  z[..., 0] += 2 * (slices == places[..., 0, :])
  z[..., 1] += 2 * (slices == places[..., 1, :])
  positions_mm = np.broadcast_to(np.float32(5 * slices), shape)
  label = places[..., 0, 0] < places[..., 1, 0]
  return (z.astype(np.float32), mask, positions_mm), label


def accuracy_after_training(name):
  """Trains on new scans at every step, and asks about new ones."""
  fields = {"name": name, **FIELDS[name], "budget": BUDGET}
  head = build_head(fields, input_size=D)
  optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

  def logits(params, inputs):
    features = head.apply(params["head"], *inputs, train=False)
    return features @ params["kernel"]

  # Not in one scan: in it, the gradient of a convolution takes long on a CPU.
  @jax.jit
  def step(state, batch):
    params, moments = state

    def loss(params):
      inputs, label = batch
      losses = optax.sigmoid_binary_cross_entropy(logits(params, inputs), label)
      return losses.mean()

    updates, moments = optimizer.update(jax.grad(loss)(params), moments)
    return optax.apply_updates(params, updates), moments

  @jax.jit
  def start(inputs):
    features, variables = head.init_with_output(
      jax.random.key(0), *inputs, train=False
    )
    params = {"head": variables, "kernel": jnp.zeros(features.shape[-1])}
    return params, optimizer.init(params)

  batches = draw(0, STEPS)
  batches = [jax.tree.map(lambda x, i=i: x[i], batches) for i in range(STEPS)]
  state = start(batches[0][0])
  for batch in batches:
    state = step(state, batch)
  params, _ = state
  inputs, label = jax.tree.map(np.concatenate, draw(1, 16))
  return ((jax.jit(logits)(params, inputs) > 0) == label).mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(HEADS) - set(ORDER_BLIND)))
def test_head_learns_order(name):
  assert accuracy_after_training(name) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDER_BLIND)
def test_head_is_blind_to_order(name):
  assert 0.4 < accuracy_after_training(name) < 0.6
