"""Every optimizer against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brainjax import config
from brainjax.training import optimizer, schedule

PARAMS = {
  "encoder": {
    "conv0": {"kernel": [[2.0, -1.0], [0.5, 3.0]]},
    "norm0": {"scale": [1.0, -0.5]},
  },
  "head": {"kernel": [[1.5, -2.0, 0.0]], "bias": [0.0, 0.0, 0.0]},
}


def section_of(*overrides):
  fields = config.get_config()
  for override in ("learning_rate=0.1", "l2=0.5", *overrides):
    config.set_field(fields, f"optimizer.{override}")
  return fields.optimizer


def whole(path):
  """The factor of a parameter without groups."""
  del path
  return 1.0


def gradient(params, t, factor_of):
  """Depends on the parameters, so that errors add up; 0 where they stay."""
  return jax.tree.map_with_path(
    lambda path, w: (np.sin(3 * w + t) + 0.1 * t) * (factor_of(path) > 0),
    params,
  )


def run(section, num_steps, factor_of=whole):
  """Returns the parameters after each step, f32, and the last state."""
  rate = schedule.from_config(section, epochs=4, steps_per_epoch=3)
  rule = optimizer.from_config(section, rate)
  params = jax.tree.map(jnp.float32, PARAMS, is_leaf=is_array)
  state, trace = rule.init(params), []
  update = jax.jit(rule.update)
  for t in range(num_steps):
    grads = gradient(jax.device_get(params), t, factor_of)
    updates, state = update(grads, state, params, step=jnp.int32(t))
    params = optax.apply_updates(params, updates)
    trace.append(jax.device_get(params))
  return trace, state


def is_array(node):
  return isinstance(node, list)


def loop(section, num_steps, factor_of=whole, rate=lambda t: 0.1):
  """The same by the textbook, f64, by path."""
  params = {
    path: np.array(leaf, np.float64)
    for path, leaf in jax.tree.leaves_with_path(PARAMS, is_leaf=is_array)
  }
  m = {path: np.zeros_like(w) for path, w in params.items()}
  v = {path: np.zeros_like(w) for path, w in params.items()}
  trace = []
  for t in range(num_steps):
    grads = {
      path: gradient(w, t, lambda _, path=path: factor_of(path))
      for path, w in params.items()
    }
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    for path, w in params.items():
      g, kernel = grads[path], w.ndim > 1
      if section.clip == "array_norm":
        norm = np.sqrt((g**2).sum())
      if section.clip != "none" and norm > section.clip_norm:
        g = g / norm * section.clip_norm
      if section.name in ("adam", "sgd") and kernel:
        g = g + section.l2 * w
      if section.name == "sgd":
        m[path] = g + section.momentum * m[path]
        u = g + section.momentum * m[path] if section.nesterov else m[path]
      else:
        m[path] = section.b1 * m[path] + (1 - section.b1) * g
        v[path] = section.b2 * v[path] + (1 - section.b2) * g**2
        m_hat = m[path] / (1 - section.b1 ** (t + 1))
        v_hat = v[path] / (1 - section.b2 ** (t + 1))
        u = m_hat / (np.sqrt(v_hat) + section.epsilon)
      if section.name in ("adamw", "lamb") and kernel:
        u = u + section.weight_decay * w
      if section.name == "lamb" and kernel:
        u = u * np.linalg.norm(w) / np.linalg.norm(u)
      params[path] = w - rate(t) * factor_of(path) * u
    trace.append(dict(params))
  return trace


def assert_equal(found, wanted):
  for tree, expected in zip(found, wanted, strict=True):
    for path, leaf in jax.tree.leaves_with_path(tree):
      np.testing.assert_allclose(leaf, expected[path], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
  "overrides",
  [
    ("name=adam",),
    ("name=adamw", "weight_decay=0.3"),
    ("name=sgd",),
    ("name=sgd", "nesterov=True", "momentum=0.7"),
    ("name=lamb", "weight_decay=0.3"),
    ("name=adam", "clip=array_norm", "clip_norm=0.9"),
    ("name=sgd", "clip=global_norm", "clip_norm=0.9"),
    ("name=lamb", "clip=global_norm", "clip_norm=1e9"),
  ],
  ids=" ".join,
)
def test_optimizers(overrides):
  section = section_of(*overrides)
  assert_equal(run(section, 5)[0], loop(section, 5))


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_groups_have_their_rate_and_frozen_ones_do_not_move(name):
  section = section_of(
    f"name={name}",
    "rates=('encoder/conv0: 0', 'encoder: 0.1')",
    "clip=global_norm",
    "clip_norm=0.9",
  )

  def factor_of(path):
    return {"conv0": 0.0, "norm0": 0.1}.get(path[1].key, 1.0)

  found, state = run(section, 4, factor_of)
  assert_equal(found, loop(section, 4, factor_of))
  start = np.float32(PARAMS["encoder"]["conv0"]["kernel"])
  for params in found:
    np.testing.assert_array_equal(params["encoder"]["conv0"]["kernel"], start)
  sizes = {leaf.shape for leaf in jax.tree.leaves(state)}
  assert start.shape not in sizes  # no moments of what stays


def test_the_rate_is_that_of_the_step():
  section = section_of("schedule=step", "decay_epochs=1", "warmup_epochs=1")
  rate = schedule.from_config(section, epochs=4, steps_per_epoch=3)
  assert_equal(run(section, 8)[0], loop(section, 8, rate=rate))


def test_the_state_of_the_default_is_that_of_earlier_checkpoints():
  params = jax.tree.map(jnp.float32, PARAMS, is_leaf=is_array)
  section = section_of("warmup_epochs=2", "schedule=cosine")
  rate = schedule.from_config(section, epochs=4, steps_per_epoch=3)
  earlier = optax.chain(
    optax.add_decayed_weights(
      1e-4, mask=lambda tree: jax.tree.map(lambda w: w.ndim > 1, tree)
    ),
    optax.scale_by_adam(),
    optax.scale_by_learning_rate(3e-4),
  )
  found = optimizer.from_config(section, rate).init(params)
  assert jax.tree.structure(found) == jax.tree.structure(earlier.init(params))
