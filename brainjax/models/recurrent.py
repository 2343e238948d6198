"""Recurrent sequence heads: states that read the slices in order.

The inputs of all steps are projected in one matrix product, so that the scan
holds nothing but the recurrence. A masked step keeps the state, which starts as
zeros, so padding before or after a sequence changes nothing. Both directions
of a layer run in one scan, side by side on an axis R.
"""

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from brainjax.models.pooling import masked_mean

READOUTS = ("last", "mean")
States = tuple[jax.Array, ...]


class Recurrent(nn.Module):
  """Layers of a gated cell, the base of `LSTM` and `GRU`.

  The parameters of later layers end in `_l1`, `_l2`, ..., those of the reverse
  direction in `_reverse`, as in PyTorch.

  Attributes:
    hidden_size: Features F of the state.
    unroll: Steps a loop body holds; changes speed only.
    num_layers: Layers; each reads the states of the one below.
    bidirectional: A second state reads the slices backwards, and the two stand
      side by side.
    readout: "last": the state that has read all slices; "mean": the mean of
      the states at the valid slices.
  """

  hidden_size: int
  unroll: int = 1
  num_layers: int = 1
  bidirectional: bool = False
  readout: str = "last"

  _num_gates: ClassVar[int]
  _num_states: ClassVar[int]
  _init_bias: ClassVar[Callable]

  def __post_init__(self):
    if self.readout not in READOUTS:
      raise ValueError(
        f"no readout {self.readout!r}; choose one of {list(READOUTS)}"
      )
    if self.num_layers < 1:
      raise ValueError(f"num_layers is {self.num_layers}; at least 1")
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
    """Returns f[B,F], or f[B,2F] of both directions; see `heads.py`."""
    del positions_mm, train
    last = z
    for layer in range(self.num_layers):
      suffix = f"_l{layer}" if layer else ""
      suffixes = [suffix, suffix + "_reverse"][: 1 + self.bidirectional]
      z, last = self._read(z, mask, suffixes)
    return last if self.readout == "last" else masked_mean(z, mask)

  def _read(
    self, z: jax.Array, mask: jax.Array, suffixes: Sequence[str]
  ) -> tuple[jax.Array, jax.Array]:
    """Reads f[B,S,D] into all states f[B,S,R*F] and the last, f[B,R*F]."""
    # Order matters: steps lead, so that no product of matrices is transposed.
    z = jnp.swapaxes(jnp.where(mask[..., None], z, 0), 0, 1)
    projected = [self._project(z, suffix) for suffix in suffixes]
    masks = [mask.T[..., None]] * len(suffixes)
    states = _scan_states_fast(
      self._gate,
      self._num_states,
      self.unroll,
      *self._recurrent_weights(suffixes),
      jnp.stack(_turn_second(projected), 1),
      jnp.stack(_turn_second(masks), 1),
    )
    in_order = jnp.concatenate(_turn_second(jnp.moveaxis(states, 1, 0)), -1)
    return jnp.swapaxes(in_order, 0, 1), jnp.concatenate(states[-1], -1)

  def _project(self, z: jax.Array, suffix: str) -> jax.Array:
    """Projects f[S,B,D] into the gates of every step, f[S,B,gates*F]."""
    size = self._num_gates * self.hidden_size
    kernel = self.param(
      f"input_kernel{suffix}",
      nn.initializers.lecun_normal(),
      (z.shape[-1], size),
    )
    offset = self.param(f"bias{suffix}", self._init_bias, (size,))
    # Not flattened: a reshape would move the scans of other devices here.
    return z @ kernel + offset[None, None]

  def _recurrent_weights(
    self, suffixes: Sequence[str]
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the kernel f[R,F,gates*F] and the bias f[R,1,gates*F]."""
    kernel = jnp.stack(
      [
        self.param(
          f"recurrent_kernel{suffix}",
          _init_recurrent,
          self.hidden_size,
          self._num_gates,
        )
        for suffix in suffixes
      ]
    )
    return kernel, jnp.zeros_like(kernel[:, :1])

  @staticmethod
  def _gate(
    states: States, projection: jax.Array, recurrent: jax.Array
  ) -> States:
    """Takes one step.

    Args:
      states: f[R,B,F] each; the first is read out.
      projection: f[R,B,gates*F] of the slice.
      recurrent: f[R,B,gates*F] of the first state.
    """
    raise NotImplementedError


class LSTM(Recurrent):
  """Long short-term memory; gates in the order input, forget, cell, output.

  Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al.
    2000; forget bias 1 as in Jozefowicz et al. 2015; both directions as in
    Graves and Schmidhuber 2005.
  """

  _num_gates = 4
  _num_states = 2

  @staticmethod
  def _init_bias(key, shape):
    del key
    return jnp.zeros((4, shape[0] // 4)).at[1].set(1).reshape(-1)

  @staticmethod
  def _gate(
    states: States, projection: jax.Array, recurrent: jax.Array
  ) -> States:
    _, memory = states
    i, f, g, o = jnp.split(projection + recurrent, 4, axis=-1)
    memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(memory), memory


class GRU(Recurrent):
  """Gated recurrent unit; gates in the order reset, update, new.

  Source: Cho et al. 2014, arXiv:1406.1078, section 2.3.
  Differs: the reset gate acts on the product with the state and its bias, as
    in cuDNN, so that the recurrence is one matrix product a step.
  """

  _num_gates = 3
  _num_states = 1
  _init_bias = staticmethod(nn.initializers.zeros_init())

  def _recurrent_weights(
    self, suffixes: Sequence[str]
  ) -> tuple[jax.Array, jax.Array]:
    kernel, _ = super()._recurrent_weights(suffixes)
    bias = jnp.stack(
      [
        self.param(
          f"recurrent_new_bias{suffix}", self._init_bias, (self.hidden_size,)
        )
        for suffix in suffixes
      ]
    )
    return kernel, jnp.pad(bias, ((0, 0), (2 * self.hidden_size, 0)))[:, None]

  @staticmethod
  def _gate(
    states: States, projection: jax.Array, recurrent: jax.Array
  ) -> States:
    (hidden,) = states
    r, u, n = jnp.split(projection, 3, axis=-1)
    hidden_r, hidden_u, hidden_n = jnp.split(recurrent, 3, axis=-1)
    r = nn.sigmoid(r + hidden_r)
    u = nn.sigmoid(u + hidden_u)
    n = jnp.tanh(n + r * hidden_n)
    return ((1 - u) * n + u * hidden,)


def _scan_states(
  gate: Callable,
  num_states: int,
  unroll: int,
  kernel: jax.Array,
  bias: jax.Array,
  projection: jax.Array,
  mask: jax.Array,
) -> jax.Array:
  """Runs a cell over all steps, from states of zero.

  Args:
    gate: As `Recurrent._gate`. Static.
    num_states: Static.
    unroll: Steps a loop body holds. Static.
    kernel: f[R,F,gates*F].
    bias: f[R,1,gates*F].
    projection: f[S,R,B,gates*F].
    mask: bool[S,R,B,1], False where a step keeps the states.

  Returns:
    f[S,R,B,F], the first state after each step.
  """
  return _scan_forward(
    gate, num_states, unroll, kernel, bias, projection, mask
  )[0]


def _scan_forward(gate, num_states, unroll, kernel, bias, projection, mask):
  def step(states, inputs):
    projected, valid = inputs
    recurrent = states[0] @ kernel + bias
    new = _keep_masked(gate, valid, states, projected, recurrent)
    return new, (new[0], states, recurrent)

  zeros = jnp.zeros(
    (*projection.shape[1:-1], kernel.shape[1]), projection.dtype
  )
  _, (read, before, recurrent) = lax.scan(
    step, (zeros,) * num_states, (projection, mask), unroll=unroll
  )
  return read, (kernel, bias, projection, mask, before, recurrent)


def _scan_backward(gate, num_states, unroll, saved, by_read):
  del num_states
  kernel, bias, projection, mask, before, recurrent = saved
  transposed = jnp.swapaxes(kernel, 1, 2)

  def step(by_states, inputs):
    by_read, valid, *given = inputs
    by_states = by_states[0] + by_read, *by_states[1:]
    _, pull = jax.vjp(functools.partial(_keep_masked, gate, valid), *given)
    by_before, by_projection, by_recurrent = pull(by_states)
    by_hidden = by_before[0] + by_recurrent @ transposed
    return (by_hidden, *by_before[1:]), (by_projection, by_recurrent)

  _, (by_projection, by_recurrent) = lax.scan(
    step,
    tuple(jnp.zeros_like(state[0]) for state in before),
    (by_read, mask, before, projection, recurrent),
    reverse=True,
    unroll=unroll,
  )
  by_kernel = jnp.einsum("srbf,srbg->rfg", before[0], by_recurrent)
  by_bias = by_recurrent.sum((0, 2))[:, None]
  return (
    by_kernel.astype(kernel.dtype),
    by_bias.astype(bias.dtype),
    by_projection,
    None,
  )


# The same with its own backward pass, which finds the gradient of the kernel as
# one product after the loop; autodiff adds to a whole matrix in every step.
_scan_states_fast = jax.custom_vjp(_scan_states, nondiff_argnums=(0, 1, 2))
_scan_states_fast.defvjp(_scan_forward, _scan_backward)


def _keep_masked(gate, valid, states, projection, recurrent):
  """Takes one step where it is valid."""
  new = gate(states, projection, recurrent)
  return jax.tree.map(lambda n, old: jnp.where(valid, n, old), new, states)


def _turn_second(directions) -> list[jax.Array]:
  """Turns the second of one or two f[S,...] round, along S."""
  return [x[::-1] if i else x for i, x in enumerate(directions)]


def _init_recurrent(key, features, gates):
  """Draws an orthogonal matrix for each gate, side by side."""
  orthogonal = nn.initializers.orthogonal()
  keys = jax.random.split(key, gates)
  return jnp.concatenate([orthogonal(k, (features, features)) for k in keys], 1)
