"""Recurrent sequence heads whose state enters each step linearly.

The state follows h_t = decay_t * h_{t-1} + increment_t from h_0 = 0, where
neither coefficient depends on the state, so that all steps can be computed at
once. A masked step has decay 1 and increment 0 and keeps the state exactly.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from brainjax.models.pooling import masked_mean

SCANS = ("associative", "sequential")
# Radii between which the LRU draws its decays: a state remembers between 1.4
# and 100 slices.
_SMALLEST_RADIUS, _LARGEST_RADIUS = 0.5, 0.99


class MinimalRecurrent(nn.Module):
  """The base of `MinGRU` and `MinLSTM`: gates that see the slice alone.

  Attributes:
    hidden_size: Features F of the state.
    scan: How the steps are computed, which changes speed only; see
      `linear_scan`.

  Source: Feng et al. 2024, arXiv:2410.01201, in the log-space form of its
    appendix, with its positive candidate state.
  Differs: `linear_scan` divides by no product of decays and stays in range
    without logarithms; only the gates need their log-space form.
  """

  hidden_size: int
  scan: str

  _num_gates: ClassVar[int]

  def __post_init__(self):
    _check_scan(self.scan)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns f[B,F], the last state; see `heads.py`."""
    del positions_mm, train
    z = jnp.where(mask[..., None], z, 0)
    gates = nn.Dense(self._num_gates * self.hidden_size, name="gates")(z)
    *gates, candidate = jnp.split(gates, self._num_gates, -1)
    positive = jnp.where(candidate >= 0, candidate + 0.5, nn.sigmoid(candidate))
    log_ratio = self._log_ratio(*gates)
    states = linear_scan(
      nn.sigmoid(-log_ratio), nn.sigmoid(log_ratio) * positive, mask, self.scan
    )
    return states[:, -1]

  def _log_ratio(self, *gates: jax.Array) -> jax.Array:
    """Returns the log of how much is taken in over how much is kept."""
    raise NotImplementedError


class MinGRU(MinimalRecurrent):
  """Minimal gated recurrent unit; gates in the order update, candidate."""

  _num_gates = 2

  def _log_ratio(self, *gates: jax.Array) -> jax.Array:
    (update,) = gates
    return update


class MinLSTM(MinimalRecurrent):
  """Minimal LSTM; gates in the order forget, input, candidate.

  Forget and input are divided by their sum, so that the state stays in the
  range of the candidates.
  """

  _num_gates = 3

  def _log_ratio(self, *gates: jax.Array) -> jax.Array:
    forget, input_ = gates
    return nn.log_sigmoid(input_) - nn.log_sigmoid(forget)


class LRU(nn.Module):
  """Linear recurrent unit: a layer of complex decays, and its mean output.

  What is read out is the mean of the layer's output over the valid slices.

  Attributes:
    hidden_size: Features F of the layer, and complex numbers of its state.
    scan: How the steps are computed, which changes speed only; see
      `linear_scan`.

  Source: Orvieto et al. 2023, arXiv:2303.06349, section 3 and appendix A.
  """

  hidden_size: int
  scan: str

  def __post_init__(self):
    _check_scan(self.scan)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns f[B,F], zeros where no slice is valid; see `heads.py`."""
    del positions_mm, train
    features = self.hidden_size
    z = jnp.where(mask[..., None], z, 0)
    x = nn.Dense(features, name="embed")(z)
    y = nn.LayerNorm(name="norm")(x)
    logs = self.param("recurrence", _init_recurrence, features)
    logs = {name: value[None, None] for name, value in logs.items()}
    decay = jnp.exp(lax.complex(-jnp.exp(logs["nu"]), jnp.exp(logs["theta"])))
    inputs = nn.Dense(
      2 * features,
      use_bias=False,
      kernel_init=nn.initializers.normal((2 * features) ** -0.5),
      name="input",
    )(y)
    increment = jnp.exp(logs["gamma"]) * lax.complex(
      *jnp.split(inputs, 2, axis=-1)
    )
    states = linear_scan(decay, increment, mask, self.scan)
    # A real product with both parts is the real part of a complex one.
    outputs = nn.Dense(
      features,
      use_bias=False,
      kernel_init=nn.initializers.normal(features**-0.5),
      name="output",
    )(jnp.concatenate([states.real, states.imag], -1))
    passed = self.param("feedthrough", nn.initializers.normal(1.0), (features,))
    y = nn.gelu(outputs + passed[None, None] * y, approximate=False)
    value, gate = jnp.split(nn.Dense(2 * features, name="glu")(y), 2, -1)
    return masked_mean(x + value * nn.sigmoid(gate), mask)


def linear_scan(
  decay: jax.Array, increment: jax.Array, mask: jax.Array, scan: str
) -> jax.Array:
  """Computes all states of h_t = decay_t * h_{t-1} + increment_t.

  Args:
    decay: f|c[B|1,S|1,F], at most 1 in size.
    increment: f|c[B,S,F].
    mask: bool[B,S], False where a step keeps the state.
    scan: "associative": in about 2 log2(S) parallel rounds, for accelerators;
      "sequential": step by step, less work. Static.

  Returns:
    f|c[B,S,F], the state after each step.

  Source: Blelloch 1990, "Prefix sums and their applications", section 1.4.1.
  """
  decay = jnp.where(mask[..., None], decay, 1)
  increment = jnp.where(mask[..., None], increment, 0)
  if scan == "associative":
    return lax.associative_scan(_compose, (decay, increment), axis=1)[1]

  def step(state, coefficients):
    state = coefficients[0] * state + coefficients[1]
    return state, state

  steps = jnp.swapaxes(decay, 0, 1), jnp.swapaxes(increment, 0, 1)
  states = lax.scan(step, jnp.zeros_like(increment[:, 0]), steps)[1]
  return jnp.swapaxes(states, 0, 1)


def _compose(earlier, later):
  """Returns the step that does two steps, one after the other."""
  return earlier[0] * later[0], later[0] * earlier[1] + later[1]


def _check_scan(scan: str) -> None:
  if scan not in SCANS:
    raise ValueError(f"no scan {scan!r}; choose one of {list(SCANS)}")


def _init_recurrence(key, size):
  """Draws decays evenly on a ring, and what makes the state's size 1."""
  radius_key, angle_key = jax.random.split(key)
  squares = jax.random.uniform(
    radius_key,
    (size,),
    minval=_SMALLEST_RADIUS**2,
    maxval=_LARGEST_RADIUS**2,
  )
  angles = jax.random.uniform(
    angle_key, (size,), minval=1e-3, maxval=2 * jnp.pi
  )
  return {
    "nu": jnp.log(-0.5 * jnp.log(squares)),
    "theta": jnp.log(angles),
    "gamma": 0.5 * jnp.log(1 - squares),
  }
