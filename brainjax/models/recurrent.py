"""Recurrent sequence heads: a state that reads the slices in order.

The inputs of all steps are projected in one matrix product, so that the scan
holds nothing but the recurrence. A masked step keeps the state; what is read
out is the state after the last valid slice, zeros where there is none.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class LSTM(nn.Module):
  """Long short-term memory; gates in the order input, forget, cell, output.

  Attributes:
    hidden_size: Features F of the state.
    unroll: Steps a loop body holds; changes speed only.

  Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al.
    2000; forget bias 1 as in Jozefowicz et al. 2015.
  """

  hidden_size: int
  unroll: int = 1

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns f[B,F], the last hidden state; see `heads.py`."""
    del positions_mm, train
    features = self.hidden_size
    projected = _project(self, z, mask, gates=4, bias=_init_lstm_bias)
    recurrent_kernel = self.param(
      "recurrent_kernel", _init_recurrent, features, 4
    )

    def step(state, projection):
      cell, hidden = state
      gates = projection + hidden @ recurrent_kernel
      i, f, g, o = jnp.split(gates, 4, axis=-1)
      cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
      return cell, nn.sigmoid(o) * jnp.tanh(cell)

    zeros = jnp.zeros((len(z), features), projected.dtype)
    _, hidden = _scan(step, (zeros, zeros), projected, mask, self.unroll)
    return hidden


class GRU(nn.Module):
  """Gated recurrent unit; gates in the order reset, update, new.

  Attributes:
    hidden_size: Features F of the state.
    unroll: Steps a loop body holds; changes speed only.

  Source: Cho et al. 2014, arXiv:1406.1078, section 2.3.
  Differs: the reset gate acts on the product with the state and its bias, as
    in cuDNN, so that the recurrence is one matrix product a step.
  """

  hidden_size: int
  unroll: int = 1

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
    features = self.hidden_size
    zeros_init = nn.initializers.zeros_init()
    projected = _project(self, z, mask, gates=3, bias=zeros_init)
    recurrent_kernel = self.param(
      "recurrent_kernel", _init_recurrent, features, 3
    )
    new_bias = self.param("recurrent_new_bias", zeros_init, (features,))

    def step(hidden, projection):
      r, u, n = jnp.split(projection, 3, axis=-1)
      hidden_r, hidden_u, hidden_n = jnp.split(
        hidden @ recurrent_kernel, 3, axis=-1
      )
      r = nn.sigmoid(r + hidden_r)
      u = nn.sigmoid(u + hidden_u)
      n = jnp.tanh(n + r * (hidden_n + new_bias[None]))
      return (1 - u) * n + u * hidden

    zeros = jnp.zeros((len(z), features), projected.dtype)
    return _scan(step, zeros, projected, mask, self.unroll)


def _project(
  head: Any, z: jax.Array, mask: jax.Array, *, gates: int, bias: Callable
) -> jax.Array:
  """Projects f[B,S,D] into the gates of every step, f[S,B,gates*F]."""
  size = gates * head.hidden_size
  kernel = head.param(
    "input_kernel", nn.initializers.lecun_normal(), (z.shape[-1], size)
  )
  offset = head.param("bias", bias, (size,))
  z = jnp.where(mask[..., None], z, 0)
  return jnp.einsum("bsd,df->sbf", z, kernel) + offset[None, None]


def _scan(
  step: Callable, state: Any, projected: jax.Array, mask: jax.Array, unroll: int
) -> Any:
  """Runs `step(state, projection)` along S; a masked one keeps the state."""

  def masked_step(state, inputs):
    projection, valid = inputs
    new = step(state, projection)
    kept = jax.tree.map(lambda n, old: jnp.where(valid, n, old), new, state)
    return kept, None

  steps = (projected, mask.T[..., None])
  return lax.scan(masked_step, state, steps, unroll=unroll)[0]


def _init_recurrent(key, features, gates):
  """Draws an orthogonal matrix for each gate, side by side."""
  orthogonal = nn.initializers.orthogonal()
  keys = jax.random.split(key, gates)
  return jnp.concatenate([orthogonal(k, (features, features)) for k in keys], 1)


def _init_lstm_bias(key, shape):
  del key
  return jnp.zeros((4, shape[0] // 4)).at[1].set(1).reshape(-1)
