"""Every schedule against its formula, at every step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax import config
from brainjax.training import schedule

EPOCHS, STEPS = 4, 5  # of the run, of an epoch


def make(*overrides):
  fields = config.get_config()
  for override in ("learning_rate=0.2", *overrides):
    config.set_field(fields, f"optimizer.{override}")
  return schedule.from_config(
    fields.optimizer, epochs=EPOCHS, steps_per_epoch=STEPS
  )


def warm(t, steps):
  return (t + 1) / steps if t < steps else 1.0


def cosine(t, first, final):
  done = min(max((t - first) / (EPOCHS * STEPS - 1 - first), 0), 1)
  return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


@pytest.mark.parametrize(
  ("overrides", "wanted"),
  [
    ((), lambda t: 0.2),
    (("warmup_epochs=1.5",), lambda t: 0.2 * warm(t, 8)),
    (("schedule=cosine",), lambda t: 0.2 * cosine(t, 0, 0.01)),
    (
      ("schedule=cosine", "warmup_epochs=1", "final_rate=0.1"),
      lambda t: 0.2 * warm(t, 5) * cosine(t, 5, 0.1),
    ),
    (
      ("schedule=step", "decay_epochs=1", "decay_factor=0.5"),
      lambda t: 0.2 * 0.5 ** (t // 5),
    ),
    (
      ("schedule=step", "decay_epochs=0.4", "warmup_epochs=1"),
      lambda t: 0.2 * warm(t, 5) * 0.1 ** (t // 2),
    ),
    # Less than a step is a step.
    (
      ("schedule=step", "decay_epochs=0.01", "decay_factor=0.9"),
      lambda t: 0.2 * 0.9**t,
    ),
  ],
)
def test_rate_of_every_step(overrides, wanted):
  rate = make(*overrides)
  # More steps than the run has: it may have gone on for longer.
  expected = [wanted(t) for t in range(EPOCHS * STEPS + 3)]
  found = [float(rate(t)) for t in range(EPOCHS * STEPS + 3)]
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  traced = jax.jit(lambda step: rate(step, jnp))
  on_device = [traced(jnp.int32(t)) for t in range(EPOCHS * STEPS + 3)]
  np.testing.assert_allclose(on_device, expected, rtol=1e-5)


def test_cosine_begins_at_the_peak_and_ends_at_the_final_rate():
  rate = make("schedule=cosine", "final_rate=0.25", "warmup_epochs=1")
  assert rate(STEPS - 1) == rate(STEPS) == 0.2
  assert rate(EPOCHS * STEPS - 1) == pytest.approx(0.05, rel=1e-12)


def test_constant_is_the_number_itself():
  # And not one that a device rounded: it stands in every line of the log.
  assert make()(7) == 0.2
